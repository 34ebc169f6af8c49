"""Judged pairs: one verdict for two documents, and which of them are exceptions."""

from __future__ import annotations

from typing import Any

import pytest

from engine.cases.case import CaseOrigin, Outcome
from engine.errors import StorageFailed
from engine.registry.records import (
    AuditEntry,
    CaseRecord,
    CaseState,
    Changes,
    JudgedPair,
    new_id,
    utc_now,
)

ENTRY = AuditEntry("test", "test.done", "x")


@pytest.fixture
def case_id(writer, enroll) -> str:
    """A case beside three documents."""
    now = utc_now()
    case = CaseRecord(
        id=new_id(),
        kind="one_face_many_documents",
        origin=CaseOrigin.SWEEP,
        state=CaseState.OPEN,
        document_ids=(),
        opened_at=now,
        updated_at=now,
    )
    writer.commit(enroll(writer, 3))
    writer.commit(Changes(sequence=3, audit=[ENTRY], cases=[case]))
    return case.id


@pytest.fixture
def documents(store, case_id) -> list[str]:
    ids = [int(key) for chunk in store.references() for key in chunk.ids]
    return sorted(store.documents_of(ids).values())


def pair(left: str, right: str, case_id: str, **values: Any) -> JudgedPair:
    given = {
        "left_document": left,
        "right_document": right,
        "outcome": Outcome.TWINS,
        "score": 0.712345678901,
        "case_id": case_id,
        "sweep_id": None,
        "decided_at": utc_now(),
        "decided_by": "key:anna",
    }
    return JudgedPair(**given | values)


def test_pairs_are_read_by_outcome_and_the_last_verdict_stands(
    store, writer, case_id, documents
) -> None:
    one, two, three = documents
    first = pair(one, two, case_id)
    fraud = pair(one, three, case_id, outcome=Outcome.FRAUD)
    writer.commit(Changes(sequence=3, audit=[ENTRY], judged=[fraud, first]))
    assert store.cases.judged_pairs() == [first, fraud]
    assert store.cases.judged_pairs([Outcome.FRAUD]) == [fraud]
    assert store.cases.exceptions() == {(one, two)}
    again = pair(one, two, case_id, outcome=Outcome.FRAUD, decided_by="key:bob")
    mistake = pair(two, three, case_id, outcome=Outcome.MISTAKE)
    writer.commit(Changes(sequence=3, audit=[ENTRY], judged=[again, mistake]))
    assert store.cases.judged_pairs() == [again, fraud, mistake]
    assert store.cases.exceptions() == {(two, three)}
    assert store.cases.decided_pairs() == {(one, two), (one, three), (two, three)}


def test_a_pair_of_documents_that_are_not_there_keeps_nothing(store, writer, case_id) -> None:
    with pytest.raises(StorageFailed):
        writer.commit(Changes(sequence=3, audit=[ENTRY], judged=[pair("a", "b", case_id)]))
    assert store.cases.judged_pairs() == []
