"""What fraud teams and operators ask through the client, of the real application."""

from collections.abc import Callable

import pytest

from serving.client import ApiError, Client, KnownDocument, SweepTerms
from tests.waiting import wait_until

ASTRONAUT = KnownDocument("cn-ric", "110105199003071239")


@pytest.fixture
def client_of(service, listen) -> Callable[[str], Client]:
    url = listen()
    return lambda key: Client(url, service.keys[key])


def test_a_person_is_found_by_face_document_and_number(client_of, photographs) -> None:
    with client_of("fraud") as team:
        by_face = team.search_people(probe=photographs.later.read_bytes())
        [person] = by_face.people
        assert person.score is not None
        assert by_face.searched == 1
        for found in (
            team.search_people(document=ASTRONAUT),
            team.search_people(msisdn="+8613800138000"),
        ):
            assert [one.document_id for one in found.people] == [person.document_id]
            assert found.searched is None
        whole = team.read_document(person.document_id)
        assert whole.name == "A••••• P••••"
        [attempt] = whole.enrollments
        assert team.read_enrollment(attempt.enrollment_id).decision == "approved"
        assert team.read_crops(attempt.enrollment_id).crops == ()
        [subject] = team.read_faces([person.document_id]).subjects
        assert (subject.is_reference, subject.photographs) == (True, ())


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


def test_a_sweep_is_expected_started_and_read(client_of) -> None:
    terms = SweepTerms(threshold=0.47)
    with client_of("fraud") as team:
        expected = team.expect_sweep(terms)
        assert expected.threshold == 0.47
        sweep = team.start_sweep(terms)
        wait_until(lambda: team.read_sweep(sweep.sweep_id).state == "done")
        done = team.read_sweep(sweep.sweep_id)
        assert done.progress.share == 1
        assert isinstance(done.summary, dict)
        assert [one.sweep_id for one in team.list_sweeps().sweeps] == [sweep.sweep_id]
        page = team.list_groups(sweep.sweep_id)
        assert (page.groups, page.total, page.next) == ((), 0, None)
        for steer in (team.pause_sweep, team.resume_sweep, team.cancel_sweep):
            with pytest.raises(ApiError) as over:
                steer(sweep.sweep_id)
            assert (over.value.code, over.value.attempts) == ("SWEEP.STATE", 1)
        with pytest.raises(ApiError) as unknown:
            team.read_group(sweep.sweep_id, "none")
        assert unknown.value.status == 404


def test_thresholds_and_the_audit_chain_are_read(client_of) -> None:
    with client_of("operator") as operator:
        shown = operator.read_thresholds()
        assert len(shown.calibration.curves) == 3
        newest = operator.read_audit(limit=1)
        first = operator.read_audit(after=0, limit=1)
        assert (first.entries[0].number, first.next) == (1, 1)
        assert newest.entries[0].number >= 1
        part = operator.verify_audit()
        assert (part.intact, part.next) == (True, None)
