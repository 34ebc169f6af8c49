"""Where cases are opened: what shares a face is one case, and nothing of it is lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cases.case import CaseKind, CaseOrigin, NoteKind, Outcome
from engine.cases.opening import CaseBook, NewCase, date_change
from engine.cases.steps import assign, close, propose
from engine.registry.keyring import KeyRing
from engine.registry.records import ALIVE, CaseState, Changes, new_id, utc_now
from engine.registry.store import Store
from engine.registry.vault import Vault


def new_case(*documents: str, **values: Any) -> NewCase:
    fields: dict[str, Any] = {
        "kind": CaseKind.DUPLICATE_IDENTITY,
        "origin": CaseOrigin.DECISION,
        "document_ids": documents,
        "suspect_ids": documents,
    }
    return NewCase(**fields | values)


def test_a_case_that_shares_a_document_goes_into_the_one_that_people_have(bureau: Any) -> None:
    first = bureau.open("a", "b", score=0.61, line_ids=("l1",))
    second = bureau.open("b", "c", score=0.72, line_ids=("l2",), suspect_ids=("c",))
    apart = bureau.open("d")
    assert second.id == first.id != apart.id
    case = bureau.store.cases.get(first.id)
    assert case == second
    assert case.document_ids == ("a", "b", "c")
    assert case.suspect_ids == ("a", "b", "c")
    assert (case.score, case.line_ids) == (0.72, ("l1", "l2"))
    (merged,) = bureau.store.cases.merged_into(first.id)
    assert (merged.state, merged.document_ids, merged.score) == (CaseState.MERGED, ("b", "c"), 0.72)
    assert {one.id for one in bureau.store.cases.newest()} == {first.id, apart.id}
    notes = [(note.kind, note.actor) for note in bureau.store.cases.notes(first.id)]
    assert notes == [(NoteKind.OPENED, "key:opener"), (NoteKind.MERGED, "key:opener")]
    told = [(one.action, one.subject) for one in bureau.entries("case.opened", "case.merged")]
    assert told == [
        ("case.opened", first.id),
        ("case.merged", merged.id),
        ("case.opened", apart.id),
    ]
    assert bureau.entries("case.merged")[0].detail["into"] == first.id


def test_a_closed_case_takes_nothing_in(bureau: Any) -> None:
    first = bureau.open("a", "b")
    close(*bureau.given, first.id, Outcome.MISTAKE, (), "key:anna")
    assert bureau.open("b", "c").id != first.id


def test_cases_that_a_third_joins_are_one(bureau: Any) -> None:
    first, second = bureau.open("a"), bureau.open("b")
    assign(*bureau.given, second.id, "key:anna", "key:anna")
    third = bureau.open("a", "b")
    assert third.id in {first.id, second.id}
    assert bureau.store.cases.get(third.id).document_ids[:1] in {("a",), ("b",)}
    (case,) = bureau.store.cases.newest(ALIVE)
    assert set(case.document_ids) == {"a", "b"}
    # Whoever worked on one of them goes on with it.
    assert (case.state, case.assignee) == (CaseState.ASSIGNED, "key:anna")
    assert len(bureau.store.cases.merged_into(case.id)) == 2


def test_a_proposal_falls_when_its_case_grows_and_stands_when_it_does_not(bureau: Any) -> None:
    case = bureau.open("a", "b")
    propose(*bureau.given, case.id, Outcome.FRAUD, (), "key:anna")
    same = bureau.open("a", score=0.9)
    assert (same.state, same.score) == (CaseState.PROPOSED, 0.9)
    grown = bureau.open("b", "c")
    assert (grown.id, grown.state, grown.proposal) == (case.id, CaseState.OPEN, None)
    kinds = [note.kind for note in bureau.store.cases.notes(case.id)]
    assert kinds[-2:] == [NoteKind.WITHDRAWN, NoteKind.MERGED]


def test_a_case_with_more_suspects_among_the_same_documents_is_looked_at_anew(bureau: Any) -> None:
    case = bureau.open("a", "b", suspect_ids=())
    propose(*bureau.given, case.id, Outcome.FRAUD, (), "key:anna")
    assert bureau.open("a", "b").proposal is None


def test_disputes_stand_alone(bureau: Any) -> None:
    (body,) = bureau.enroll(1)
    face = bureau.open(body["document_id"])
    dispute = bureau.open(
        body["document_id"],
        kind=CaseKind.DISPUTE,
        origin=CaseOrigin.DISPUTE,
        line_id=body["line_id"],
    )
    again = bureau.open(body["document_id"])
    assert dispute.id != face.id == again.id


def test_a_change_is_after_the_last_one_even_where_the_clock_was_set_back(bureau: Any) -> None:
    case = bureau.open("a")
    hour = timedelta(hours=1)
    assert date_change(case, case.updated_at + hour) == case.updated_at + hour
    for now in (case.updated_at, case.updated_at - hour):
        assert case.updated_at < date_change(case, now) < case.updated_at + hour
    # The clock of these tests stands.
    times = [bureau.open("a", key).updated_at for key in "bc"]
    assert case.updated_at < times[0] < times[1]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An empty registry on SQLite for many examples."""
    url = f"sqlite:///{tmp_path_factory.mktemp('book')}/registry.db"
    with Store.create(url, Vault(KeyRing.generate(), 8), model_digest="m") as store:
        yield store


@settings(max_examples=40)
@given(
    batches=st.lists(
        st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    )
)
def test_however_they_come_cases_alive_share_no_document_and_name_all_that_came(
    shelf: Store, batches: list[list[set[int]]]
) -> None:
    run, begun = new_id(), utc_now()
    came = [[[f"{run[-8:]}{key}" for key in sorted(one)] for one in batch] for batch in batches]
    told: dict[str, list[str]] = {}
    with shelf.writer() as writer:
        for place, batch in enumerate(came):
            book = CaseBook(shelf, begun + timedelta(seconds=place))
            told |= {book.open(new_case(*names), "test").id: names for names in batch}
            writer.commit(book.add_to(Changes(sequence=0, audit=())))
    everything = sorted({name for batch in came for names in batch for name in names})
    found = shelf.cases.open_of(everything)
    assert all(len(cases) == 1 for cases in found.values())
    for batch in came:
        for names in batch:
            assert len({found[name][0].id for name in names}) == 1
    for case_id, names in told.items():
        case = shelf.cases.get(case_id)
        standing = shelf.cases.get(case.merged_into or case_id)
        assert standing.state in ALIVE
        assert set(names) <= set(standing.document_ids)
