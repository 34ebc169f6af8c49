"""What people wrote of a case leaves with the last document that it names."""

from __future__ import annotations

from typing import Any

from engine.cases.case import NoteKind
from engine.registry.records import DocumentStatus
from engine.registry.store import Store
from tests.engine.retention.conftest import NOW, OLD, YOUNG, is_known

REMARK = "she says that she has a twin"


def read(store: Store, case_id: str) -> list[str]:
    return [one.text for one in store.cases.notes(case_id) if one.kind is NoteKind.NOTE]


def test_texts_leave_with_the_last_document_that_their_case_names(
    store: Store, office: Any, run: Any
) -> None:
    first, second = office.attempt(OLD), office.attempt(YOUNG)
    case = office.open_case(first.document_id, second.document_id, remark=REMARK)
    office.close_case(case)
    run()
    assert [is_known(store, one.document_id) for one in (first, second)] == [False, True]
    assert read(store, case.id) == [REMARK]
    run(now=NOW + (YOUNG - OLD))
    assert not is_known(store, second.document_id)
    assert read(store, case.id) == [""]
    assert store.cases.get(case.id).document_ids == case.document_ids


def test_texts_stay_while_the_case_names_a_holder_and_those_of_others_stay(
    store: Store, office: Any, run: Any
) -> None:
    attempt, holder = office.attempt(OLD), office.document(DocumentStatus.ACTIVE)
    cases = [
        office.open_case(*documents, remark=REMARK)
        for documents in ((attempt.document_id, holder), (holder,))
    ]
    for case in cases:
        office.close_case(case)
    run()
    assert not is_known(store, attempt.document_id)
    assert [read(store, case.id) for case in cases] == [[REMARK], [REMARK]]


def test_all_of_a_batch_leave_together(store: Store, office: Any, run: Any) -> None:
    attempts = [office.attempt(OLD) for _ in range(3)]
    case = office.open_case(*(one.document_id for one in attempts), remark=REMARK)
    office.close_case(case)
    run(rows_per_batch=2)
    assert read(store, case.id) == [""]
