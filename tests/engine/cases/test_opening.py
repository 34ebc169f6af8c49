"""Where cases are opened: what shares a face is one case, and nothing of it is lost."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cases.opening import CaseBatch, NewCase, date_change
from engine.cases.steps import assign, propose, withdraw
from engine.registry import keyring
from engine.registry.database import new_id, utc_now
from engine.registry.store import Store
from engine.registry.vault import Vault
from schema.cases import ALIVE, CaseKind, CaseOrigin, CaseState, NoteKind, Outcome
from tests.engine.cases.conftest import ANNA
from tests.engine.records import newest_cases


def new_case(*documents: str, **values: Any) -> NewCase:
    fields: dict[str, Any] = {
        "kind": CaseKind.DUPLICATE_IDENTITY,
        "origin": CaseOrigin.DECISION,
        "document_ids": documents,
        "suspect_ids": documents,
    }
    return NewCase(**fields | values)


def test_a_case_that_shares_a_document_is_merged_into_the_one_that_is_open(service) -> None:
    first = service.open("a", "b", score=0.61, line_ids=("l1",))
    second = service.open("b", "c", score=0.72, line_ids=("l2",), suspect_ids=("c",))
    apart = service.open("d")
    assert second.id == first.id != apart.id
    case = service.store.cases.get(first.id)
    assert case == second
    assert case.document_ids == ("a", "b", "c")
    assert case.suspect_ids == ("a", "b", "c")
    assert (case.score, case.line_ids) == (0.72, ("l1", "l2"))
    (merged,) = service.store.cases.merged_into(first.id)
    assert (merged.state, merged.document_ids, merged.score) == (CaseState.MERGED, ("b", "c"), 0.72)
    assert {one.id for one in newest_cases(service.store.cases)} == {first.id, apart.id}
    notes = [(note.kind, note.actor) for note in service.store.cases.notes(first.id)]
    assert notes == [(NoteKind.OPENED, "key:opener"), (NoteKind.MERGED, "key:opener")]
    entries = [(one.action, one.subject) for one in service.entries("case.opened", "case.merged")]
    assert entries == [
        ("case.opened", first.id),
        ("case.merged", merged.id),
        ("case.opened", apart.id),
    ]
    assert service.entries("case.merged")[0].detail["into"] == first.id
    service.decide(first.id, Outcome.MISTAKE)
    assert service.open("b", "c").id != first.id


def test_a_case_that_joins_two_merges_them(service) -> None:
    first, second = service.open("a"), service.open("b")
    assign(*service.context, second.id, ANNA.name, ANNA)
    third = service.open("a", "b")
    assert third.id in {first.id, second.id}
    assert service.store.cases.get(third.id).document_ids[:1] in {("a",), ("b",)}
    (case,) = newest_cases(service.store.cases, ALIVE)
    assert set(case.document_ids) == {"a", "b"}
    # An assignee of either keeps the merged case.
    assert (case.state, case.assignee) == (CaseState.ASSIGNED, "key:anna")
    assert len(service.store.cases.merged_into(case.id)) == 2


def test_a_proposal_stays_and_what_comes_about_others_gathers_in_the_next_case(service) -> None:
    case = service.open("a", "b")
    propose(*service.context, case.id, Outcome.FRAUD, (), ANNA)
    same = service.open("a", score=0.9)
    assert (same.id, same.state, same.score) == (case.id, CaseState.PROPOSED, 0.9)
    # However many new numbers a face tries: nobody comes into what is proposed.
    later = [service.open("b", other) for other in "cde"]
    assert {one.id for one in later} == {later[0].id} != {case.id}
    assert service.open("a").id == case.id
    stands = service.store.cases.get(case.id)
    assert (stands.proposal.outcome, set(stands.document_ids)) == (Outcome.FRAUD, {"a", "b"})
    assert service.open("b").id == later[0].id
    # Withdrawn by a person, it takes them in again.
    withdraw(*service.context, case.id, ANNA)
    whole = service.open("a", "c")
    assert (whole.id, set(whole.document_ids)) == (case.id, set("abcde"))
    # Nor do more suspects among the same documents come into it.
    other = service.open("x", "y", suspect_ids=())
    propose(*service.context, other.id, Outcome.FRAUD, (), ANNA)
    assert service.open("x", "y").id != other.id


def test_disputes_are_never_merged(service) -> None:
    (body,) = service.enroll(1)
    face = service.open(body.document_id)
    dispute = service.open(
        body.document_id, kind=CaseKind.DISPUTE, origin=CaseOrigin.DISPUTE, line_id=body.line_id
    )
    again = service.open(body.document_id)
    assert dispute.id != face.id == again.id


def test_a_change_is_after_the_last_one_even_where_the_clock_was_set_back(service) -> None:
    case = service.open("a")
    hour = timedelta(hours=1)
    assert date_change(case, case.updated_at + hour) == case.updated_at + hour
    for now in (case.updated_at, case.updated_at - hour):
        assert case.updated_at < date_change(case, now) < case.updated_at + hour
    # The clock of these tests does not move.
    times = [service.open("a", key).updated_at for key in "bc"]
    assert case.updated_at < times[0] < times[1]


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Any:
    """An empty registry on SQLite for many examples."""
    url = f"sqlite:///{tmp_path_factory.mktemp('cases')}/registry.db"
    with Store.create(url, Vault(keyring.KeyRing.generate(), 8), model_digest="m") as store:
        yield store


@settings(max_examples=40)
@given(
    batches=st.lists(
        st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_in_any_order_open_cases_share_no_document_and_name_all_given(
    registry: Store, batches: list[list[set[int]]]
) -> None:
    run, begun = new_id(), utc_now()
    batches_given = [
        [[f"{run[-8:]}{key}" for key in sorted(one)] for one in batch] for batch in batches
    ]
    opened: dict[str, list[str]] = {}
    with registry.writer() as writer:
        for place, batch in enumerate(batches_given):
            cases = CaseBatch(registry, begun + timedelta(seconds=place))
            opened |= {cases.open(new_case(*names), "test").id: names for names in batch}
            writer.commit(cases.writes())
    everything = sorted({name for batch in batches_given for names in batch for name in names})
    found = registry.cases.open_of(everything)
    assert all(len(cases) == 1 for cases in found.values())
    for batch in batches_given:
        for names in batch:
            assert len({found[name][0].id for name in names}) == 1
    for case_id, names in opened.items():
        case = registry.cases.get(case_id)
        current = registry.cases.get(case.merged_into or case_id)
        assert current.state in ALIVE
        assert set(names) <= set(current.document_ids)
