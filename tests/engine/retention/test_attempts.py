"""What leaves of rejected attempts, and of documents that were known from them alone."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import NotFound
from engine.matching.policy import replay
from engine.reasons import Decision
from engine.registry import tables
from engine.registry.records import DocumentStatus
from engine.registry.store import Store
from engine.retention.job import Schedule
from tests.engine.retention.conftest import DAY, NOW, OLD, YOUNG, is_expired, is_known


def test_an_old_rejected_attempt_keeps_its_decision_and_loses_all_about_the_person(
    store: Store, office: Any, run: Any
) -> None:
    attempt = office.attempt(OLD, crops_until=NOW + DAY)
    before = store.counts()
    made = run()
    record = store.enrollment(attempt.id)
    assert (record.decision, record.reasons) == ("rejected", ("DUPLICATE_IDENTITY",))
    assert record.created_at == OLD
    assert set(record.evidence) == {"inputs", "findings", "model_digest", "policy_version"}
    assert set(record.evidence["inputs"]) == {"thresholds", "searched"}
    assert "0.81" not in str(record.evidence)
    assert store.answers([attempt.scope]) == {}
    assert store.cases.crops(attempt.id) == []
    assert not is_known(store, attempt.document_id)
    assert made.left == {"attempts": 1, "documents": 1, "lines": 0, "answers": 0, "crops": 0}
    after = store.counts()
    gone = {"idempotency": 1, "crops": 1}
    assert {
        name: before[name] - after[name] for name in before if name not in ("audit", *gone)
    } == dict.fromkeys(before.keys() - {"audit", *gone}, 0)
    assert {name: before[name] - after[name] for name in gone} == gone


def test_an_expired_attempt_is_not_replayed_and_the_kept_ones_are(
    store: Store, office: Any, run: Any
) -> None:
    old = office.attempt(OLD)
    kept = [office.attempt(YOUNG), *(office.attempt(OLD, one) for one in list(Decision)[:2])]
    run()
    for attempt in kept:
        assert replay(store.enrollment(attempt.id)).agrees
    with pytest.raises(NotFound, match="left by retention"):
        replay(store.enrollment(old.id))


@pytest.mark.parametrize("decision", [Decision.APPROVED, Decision.REVIEW])
def test_only_rejected_attempts_leave_by_their_time(
    decision: Decision, store: Store, office: Any, run: Any
) -> None:
    attempt = office.attempt(OLD, decision)
    run(Schedule(attempts=30 * DAY))
    assert not is_expired(store, attempt)
    assert is_known(store, attempt.document_id)
    assert attempt.scope in store.answers([attempt.scope])


def test_a_document_leaves_with_the_last_attempt_under_it(
    store: Store, office: Any, run: Any
) -> None:
    first = office.attempt(OLD)
    office.attempt(YOUNG, document_id=first.document_id)
    run()
    assert is_expired(store, first)
    assert is_known(store, first.document_id)
    run(now=NOW + 2 * DAY)
    assert not is_known(store, first.document_id)


@pytest.mark.parametrize("decision", [Decision.APPROVED, Decision.REVIEW])
def test_a_document_that_somebody_may_hold_stays(
    decision: Decision, store: Store, office: Any, run: Any
) -> None:
    attempt = office.attempt(OLD)
    office.attempt(OLD, decision, document_id=attempt.document_id)
    run()
    assert is_expired(store, attempt)
    assert is_known(store, attempt.document_id)


def test_a_document_without_attempts_is_not_one_that_was_attempted(
    store: Store, office: Any, run: Any
) -> None:
    document_id = office.document(DocumentStatus.ATTEMPTED)
    run()
    assert is_known(store, document_id)


def test_a_block_outlives_the_document(store: Store, office: Any, run: Any) -> None:
    attempt = office.attempt(OLD)
    office.change(
        tables.documents.update()
        .where(tables.documents.c.id == attempt.document_id)
        .values(blocked_at=OLD)
    )
    lookup = store.document(attempt.document_id).lookup
    run()
    assert not is_known(store, attempt.document_id)
    found = store.documents([lookup])[lookup]
    assert (found.status, found.is_erased) == (DocumentStatus.BLOCKED, True)
