"""Cases: which are open, about which line, naming whom."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from engine.errors import StorageFailed
from engine.registry.records import (
    AuditEntry,
    CaseRecord,
    CaseState,
    Changes,
    LineStatus,
    new_id,
    utc_now,
)

ENTRY = AuditEntry("test", "test.done", "x")


def status_of(store, line_id: str) -> LineStatus:
    return store.lines_by_id([line_id])[line_id].status


def test_cases_are_listed_newest_first_by_state(store, writer, enroll) -> None:
    changes = enroll(writer, 3)
    cases = [
        CaseRecord(
            id=new_id(),
            kind="duplicate",
            state=state,
            enrollment_id=enrollment.id,
            document_ids=(changes.documents[0].id, changes.documents[1].id),
            score=0.512345678901234,
            opened_at=utc_now(),
        )
        for enrollment, state in zip(
            changes.enrollments, [CaseState.OPEN, CaseState.CLOSED, CaseState.OPEN], strict=True
        )
    ]
    writer.commit(replace(changes, cases=cases))
    assert store.cases() == [cases[2], cases[0]]
    assert store.cases(state=None, limit=2) == [cases[2], cases[1]]


def case_about(line_id: str, state: CaseState = CaseState.OPEN) -> CaseRecord:
    return CaseRecord(new_id(), "dispute", state, None, (), None, utc_now(), line_id)


def test_a_disputed_line_is_in_use_with_its_open_case_until_it_is_closed(
    store, writer, enroll
) -> None:
    changes = enroll(writer, 2)
    line, other = changes.lines
    writer.commit(changes)
    cases = [case_about(line.id, CaseState.CLOSED), case_about(line.id)]
    writer.commit(Changes(sequence=2, audit=[ENTRY], disputed_lines=[line.id], cases=cases))
    assert status_of(store, line.id) is LineStatus.DISPUTED
    assert status_of(store, other.id) is LineStatus.ACTIVE
    assert store.lines_in_use([line.msisdn_lookup])[line.msisdn_lookup].id == line.id
    assert store.open_line_counts([line.document_id], "red") == {line.document_id: 1}
    assert store.open_case_of(line.id, "dispute") == cases[1]
    assert store.open_case_of(line.id, "other") is None
    assert store.open_case_of(other.id, "dispute") is None
    assert store.open_case_of(new_id(), "dispute") is None
    assert cases[1] in store.cases()
    writer.commit(Changes(sequence=2, audit=[ENTRY], closed_lines=[line.id]))
    assert status_of(store, line.id) is LineStatus.CLOSED
    assert store.lines_in_use([line.msisdn_lookup]) == {}


def test_a_line_has_one_open_case_of_a_kind(store, writer, enroll) -> None:
    changes = enroll(writer, 1)
    writer.commit(replace(changes, cases=[case_about(changes.lines[0].id)]))
    before = store.cases(state=None)
    with pytest.raises(StorageFailed):
        writer.commit(Changes(sequence=1, audit=[ENTRY], cases=[case_about(changes.lines[0].id)]))
    assert store.cases(state=None) == before


def test_the_open_cases_that_name_a_document_are_found_however_many_others_there_are(
    store, writer, enroll
) -> None:
    changes = enroll(writer, 3)
    first, second, third = (document.id for document in changes.documents)
    now = utc_now()
    named = [(first, second), (second,), (first, third), (), (second, third)]
    states = [CaseState.OPEN] * 4 + [CaseState.CLOSED]
    cases = [
        CaseRecord(new_id(), "duplicate", state, None, names, 0.6, now + timedelta(seconds=place))
        for place, (names, state) in enumerate(zip(named, states, strict=True))
    ]
    others = [
        CaseRecord(new_id(), "duplicate", CaseState.OPEN, None, (new_id(),), 0.6, now)
        for _ in range(300)
    ]
    writer.commit(replace(changes, cases=[*cases, *others]))
    assert store.open_cases_of([first, second, "x"]) == {
        first: [cases[2], cases[0]],
        second: [cases[1], cases[0]],
        "x": [],
    }
    assert store.open_cases_of([]) == {}
