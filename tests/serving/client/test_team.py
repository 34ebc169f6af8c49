"""What fraud teams and operators ask through the client, of the real application."""

from collections.abc import Callable

import pytest

from serving.client import ApiError, Client, KnownDocument

ASTRONAUT = KnownDocument("cn-ric", "110105199003071239")


@pytest.fixture
def client_of(service, listen) -> Callable[[str], Client]:
    url = listen()
    return lambda key: Client(url, service.keys[key])


def test_a_case_is_worked_by_two_people(client_of, photographs) -> None:
    with client_of("fraud") as first, client_of("second") as second:
        [person] = first.search_people(document=ASTRONAUT).people
        [line] = person.lines
        face = photographs.later.read_bytes()
        case_id = first.dispute(line.line_id, ASTRONAUT, face).case_id
        assert case_id in [one.case_id for one in first.list_cases(state="alive").cases]
        me = first.whose_key()
        assert first.assign_case(case_id).assignee == me.name == "fraud"
        noted = first.note_case(case_id, "the holder was abroad").updated_at
        with pytest.raises(ApiError) as alone:
            first.close_case(case_id, "fraud", [line.line_id], seen_at=noted)
        assert (alone.value.status, alone.value.code) == (403, "CASE.FOUR_EYES")
        first.propose_outcome(case_id, "twins", seen_at=noted)
        first.withdraw_proposal(case_id)
        seen = first.read_case(case_id).updated_at
        proposed = first.propose_outcome(case_id, "fraud", [line.line_id], seen_at=seen)
        assert proposed.proposal.by == f"fraud (key:{me.key_id})"
        with pytest.raises(ApiError) as unseen:
            second.close_case(case_id, "fraud", [line.line_id], seen_at=seen)
        assert (unseen.value.code, unseen.value.attempts) == ("CASE.STATE", 1)
        now = second.read_case(case_id).updated_at
        closed = second.close_case(case_id, "fraud", [line.line_id], seen_at=now)
        assert closed.state == "closed"
        with pytest.raises(ApiError) as late:
            first.close_case(case_id, "fraud", seen_at=closed.updated_at)
        # Asked again it would come to the same: it is not.
        assert (late.value.code, late.value.attempts) == ("CASE.STATE", 1)
        file = first.read_case(case_id)
        kinds = [note.kind for note in file.notes]
        assert kinds == [
            "opened", "assigned", "note", "proposed", "withdrawn", "proposed", "closed",
        ]  # fmt: skip
        assert "the holder was abroad" in [note.text for note in file.notes]
        assert "abroad" not in repr(file)
        assert first.measure_precision().precision is None
