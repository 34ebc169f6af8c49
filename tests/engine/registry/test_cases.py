"""Cases: which are alive, about which line, naming whom, and what has been said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from engine.cases.case import CaseNote, CaseOrigin, NoteKind, Outcome, Proposal
from engine.errors import NotFound, StorageFailed
from engine.registry.records import (
    ALIVE,
    AuditEntry,
    CaseRecord,
    CaseState,
    Changes,
    LineStatus,
    new_id,
    utc_now,
)
from engine.registry.tables import case_notes

ENTRY = AuditEntry("test", "test.done", "x")


def make_case(**values: Any) -> CaseRecord:
    now = utc_now()
    given_values = {
        "id": new_id(),
        "kind": "duplicate_identity",
        "origin": CaseOrigin.DECISION,
        "state": CaseState.OPEN,
        "document_ids": (),
        "opened_at": now,
        "updated_at": now,
    }
    return CaseRecord(**given_values | values)


def status_of(store, line_id: str) -> LineStatus:
    return store.lines_by_id([line_id])[line_id].status


@pytest.fixture
def commit(writer) -> Callable[..., None]:
    """`commit(cases=…)`: one transaction of such changes."""

    def write(**changes: Any) -> None:
        writer.commit(Changes(sequence=writer.sequence, audit=[ENTRY], **changes))

    return write


def test_a_case_is_read_as_it_was_written(store, writer, enroll, commit) -> None:
    enrolled = enroll(writer, 2)
    writer.commit(enrolled)
    now = utc_now()
    ids = tuple(document.id for document in enrolled.documents)
    proposal = Proposal(outcome=Outcome.FRAUD, close_lines=(enrolled.lines[0].id,), by="a", at=now)
    case = make_case(
        enrollment_id=enrolled.enrollments[0].id,
        document_ids=ids,
        suspect_ids=ids[:1],
        line_id=enrolled.lines[0].id,
        line_ids=tuple(line.id for line in enrolled.lines),
        score=0.512345678901234,
        risk=71.5,
        group_key="f" * 32,
        state=CaseState.PROPOSED,
        assignee="key:anna",
        proposal=proposal,
    )
    commit(cases=[case])
    assert store.cases.get(case.id) == case
    closed = replace(case, state=CaseState.CLOSED, outcome=Outcome.FRAUD, closed_at=now)
    commit(case_changes=[closed])
    assert store.cases.get(case.id) == closed
    for unknown in (new_id(), "no id", ""):
        with pytest.raises(NotFound):
            store.cases.get(unknown)


def test_a_change_of_a_case_that_is_not_there_keeps_nothing(store, writer, commit) -> None:
    with pytest.raises(StorageFailed):
        commit(cases=[make_case()], case_changes=[make_case()])
    assert store.cases.newest(None) == []


def test_cases_are_listed_newest_first_by_state_kind_and_assignee(store, commit) -> None:
    now = utc_now()
    states = [CaseState.OPEN, CaseState.CLOSED, CaseState.OPEN, CaseState.ASSIGNED]
    cases = [
        make_case(state=state, opened_at=now + timedelta(seconds=place), kind=kind, assignee=who)
        for place, (state, kind, who) in enumerate(
            zip(states, ["a", "a", "b", "b"], [None, "anna", None, "anna"], strict=True)
        )
    ]
    commit(cases=cases)
    assert store.cases.newest() == [cases[2], cases[0]]
    assert store.cases.newest(ALIVE) == [cases[3], cases[2], cases[0]]
    assert store.cases.newest(None, limit=2) == [cases[3], cases[2]]
    assert store.cases.newest(None, kind="a") == [cases[1], cases[0]]
    assert store.cases.newest(None, assignee="anna", kind="b") == [cases[3]]


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(page=st.integers(1, 9), seconds=st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_pages_after_one_another_are_the_whole_queue(store, commit, page, seconds) -> None:
    before = len(store.cases.newest(None, limit=1000))
    now = utc_now()
    commit(cases=[make_case(opened_at=now + timedelta(seconds=after)) for after in seconds])
    whole = store.cases.newest(None, limit=1000)
    found: list[CaseRecord] = []
    while part := store.cases.newest(None, limit=page, after=found[-1].id if found else None):
        found += part
    assert found == whole
    assert len(found) == before + len(seconds)


def test_a_page_after_no_case_is_refused(store, commit) -> None:
    commit(cases=[make_case()])
    with pytest.raises(NotFound):
        store.cases.newest(after=new_id())


def case_about(line_id: str, state: CaseState = CaseState.OPEN) -> CaseRecord:
    return make_case(kind="dispute", origin=CaseOrigin.DISPUTE, state=state, line_id=line_id)


def test_a_disputed_line_is_in_use_with_its_case_until_it_is_closed(store, writer, enroll) -> None:
    changes = enroll(writer, 2)
    line, other = changes.lines
    writer.commit(changes)
    cases = [case_about(line.id, CaseState.CLOSED), case_about(line.id, CaseState.ASSIGNED)]
    writer.commit(Changes(sequence=2, audit=[ENTRY], disputed_lines=[line.id], cases=cases))
    assert status_of(store, line.id) is LineStatus.DISPUTED
    assert status_of(store, other.id) is LineStatus.ACTIVE
    assert store.lines_in_use([line.msisdn_lookup])[line.msisdn_lookup].id == line.id
    assert store.open_line_counts([line.document_id], "red") == {line.document_id: 1}
    assert store.cases.open_of_line(line.id, "dispute") == cases[1]
    assert store.cases.open_of_line(line.id, "other") is None
    assert store.cases.open_of_line(other.id, "dispute") is None
    assert store.cases.open_of_line(new_id(), "dispute") is None
    assert cases[1] in store.cases.newest(ALIVE)
    writer.commit(Changes(sequence=2, audit=[ENTRY], closed_lines=[line.id]))
    assert status_of(store, line.id) is LineStatus.CLOSED
    assert store.lines_in_use([line.msisdn_lookup]) == {}


def test_a_disputed_line_is_active_again_and_only_a_disputed_one(
    store, writer, enroll, commit
) -> None:
    changes = enroll(writer, 1)
    writer.commit(changes)
    line = changes.lines[0].id
    with pytest.raises(StorageFailed):
        commit(restored_lines=[line])
    commit(disputed_lines=[line])
    commit(restored_lines=[line])
    assert status_of(store, line) is LineStatus.ACTIVE


@pytest.mark.parametrize("state", sorted(ALIVE))
def test_a_line_has_one_case_of_a_kind_that_is_alive(store, writer, enroll, state) -> None:
    changes = enroll(writer, 1)
    line = changes.lines[0].id
    writer.commit(replace(changes, cases=[case_about(line, state)]))
    before = store.cases.newest(None)
    with pytest.raises(StorageFailed):
        writer.commit(Changes(sequence=1, audit=[ENTRY], cases=[case_about(line)]))
    assert store.cases.newest(None) == before


def test_the_cases_that_name_a_document_are_found_however_many_others_there_are(
    store, writer, enroll
) -> None:
    changes = enroll(writer, 3)
    first, second, third = (document.id for document in changes.documents)
    now = utc_now()
    named = [(first, second), (second,), (first, third), (), (second, third)]
    states = [CaseState.OPEN, CaseState.PROPOSED, CaseState.ASSIGNED, CaseState.OPEN]
    cases = [
        make_case(state=state, document_ids=names, opened_at=now + timedelta(seconds=place))
        for place, (names, state) in enumerate(zip(named, [*states, CaseState.CLOSED], strict=True))
    ]
    others = [make_case(document_ids=(new_id(),), opened_at=now) for _ in range(300)]
    writer.commit(replace(changes, cases=[*cases, *others]))
    assert store.cases.open_of([first, second, "x"]) == {
        first: [cases[2], cases[0]],
        second: [cases[1], cases[0]],
        "x": [],
    }
    assert store.cases.open_of([]) == {}
    assert store.cases.of([second, third]) == {
        second: [cases[4], cases[1], cases[0]],
        third: [cases[4], cases[2]],
    }


def test_a_case_that_grows_is_found_by_its_new_documents(store, commit) -> None:
    case = make_case(document_ids=("a",))
    commit(cases=[case])
    commit(case_changes=[replace(case, document_ids=("a", "b"))])
    commit(case_changes=[replace(case, document_ids=("a", "b", "c"))])
    assert {key: len(found) for key, found in store.cases.open_of(["a", "b", "c"]).items()} == {
        "a": 1,
        "b": 1,
        "c": 1,
    }


def test_a_merged_case_is_seen_in_the_one_that_goes_on_however_often_that_is_merged(
    store, commit
) -> None:
    old, middle, young = (make_case(document_ids=("a",)) for _ in range(3))
    last = replace(young, state=CaseState.MERGED, merged_into=middle.id)
    # A new one that is merged at once stands before what it goes into.
    commit(cases=[last, middle, old])
    assert store.cases.merged_into(middle.id) == [last]
    commit(case_changes=[replace(middle, state=CaseState.MERGED, merged_into=old.id)])
    assert {case.id for case in store.cases.merged_into(old.id)} == {middle.id, young.id}
    assert store.cases.merged_into(middle.id) == []
    assert store.cases.open_of(["a"])["a"] == [old]
    assert store.cases.of(["a"])["a"] == [old]
    assert store.cases.newest() == [old]


def test_the_case_that_a_group_went_into_is_known(store, commit) -> None:
    now = utc_now()
    decided = make_case(group_key="k1", state=CaseState.CLOSED, outcome=Outcome.MISTAKE)
    standing = make_case(group_key="k2")
    merged = make_case(group_key="k3", state=CaseState.MERGED, merged_into=standing.id)
    again = make_case(group_key="k1", opened_at=now + timedelta(days=1))
    commit(cases=[decided, standing, merged])
    assert store.cases.of_groups(["k1", "k2", "k3", "k4"]) == {
        "k1": decided,
        "k2": standing,
        "k3": standing,
    }
    commit(cases=[again])
    assert store.cases.of_groups(["k1"]) == {"k1": again}


def test_a_history_is_read_in_its_order_and_its_texts_lie_sealed(store, writer, commit) -> None:
    case, other, merged = make_case(), make_case(), make_case()
    merged = replace(merged, state=CaseState.MERGED, merged_into=case.id)
    at = utc_now()
    notes = [
        CaseNote(at, "sosie", NoteKind.OPENED),
        CaseNote(at, "key:anna", NoteKind.NOTE, "Ωμέγα-王 <b>seen</b> \n 'twice'"),
        CaseNote(at, "key:bob", NoteKind.NOTE, "x" * 4000),
    ]
    commit(
        cases=[case, other, merged],
        case_notes=[(case.id, notes[0]), (merged.id, notes[1]), (other.id, notes[2])],
    )
    commit(case_notes=[(case.id, notes[2])])
    assert store.cases.notes(case.id) == notes
    assert store.cases.notes(other.id) == notes[2:]
    assert store.cases.notes(new_id()) == []
    assert "seen" not in repr(notes)
    with store._engine.connect() as connection:
        stored = connection.scalars(select(case_notes.c.text)).all()
    assert sum(text is None for text in stored) == 1
    assert not [text for text in stored if text is not None and b"seen" in text]
