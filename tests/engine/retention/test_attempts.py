"""Attempts, their documents and the notes of their cases expire with their periods."""

from datetime import timedelta

import pytest
from msgspec import to_builtins

from engine.errors import NotFound
from engine.matching.checks.order import replay
from engine.registry.store import Store
from schema.cases import NoteKind
from schema.documents import DocumentStatus
from schema.reasons import Decision
from tests.engine.retention.conftest import DAY, NOW, OLD, YOUNG, is_expired, is_known, only
from tests.tables import tables

MOMENT = timedelta(microseconds=1)
REVIEWS = only(review_days=30)
LONG_AGO = NOW - 400 * DAY
REMARK = "she says that she has a twin"


def test_an_old_rejected_attempt_keeps_its_decision_and_loses_all_about_the_person(
    store, builder, run
) -> None:
    attempt = builder.attempt(OLD, crops_until=NOW + DAY)
    before = store.counts()
    assert attempt.document_id in store.attempt_templates([attempt.id])
    made = run()
    record = store.enrollment(attempt.id)
    assert (record.decision, record.reasons) == ("rejected", ("DUPLICATE_IDENTITY",))
    assert record.created_at == OLD
    kept = {"inputs", "findings", "model_digest", "policy_version"}
    assert set(to_builtins(record.evidence)) == kept
    assert set(record.evidence.inputs) == {"thresholds", "searched"}
    assert "0.81" not in str(record.evidence)
    assert store.answers([attempt.scope]) == {}
    assert store.cases.crops(attempt.id) == []
    assert store.attempt_templates([attempt.id]) == {}
    assert not is_known(store, attempt.document_id)
    assert made.left == {"attempts": 1, "documents": 1, "lines": 0, "answers": 0, "crops": 0}
    after = store.counts()
    gone = {"idempotency": 1, "crops": 1, "attempt_templates": 1}
    assert {
        name: before[name] - after[name] for name in before if name not in ("audit", *gone)
    } == dict.fromkeys(before.keys() - {"audit", *gone}, 0)
    assert {name: before[name] - after[name] for name in gone} == gone


def test_an_expired_attempt_is_not_replayed_and_the_kept_ones_are(store, builder, run) -> None:
    old = builder.attempt(OLD)
    kept = [builder.attempt(YOUNG), *(builder.attempt(OLD, one) for one in list(Decision)[:2])]
    run()
    for attempt in kept:
        assert replay(store.enrollment(attempt.id)).agrees
    with pytest.raises(NotFound, match="left by retention"):
        replay(store.enrollment(old.id))


@pytest.mark.parametrize("decision", [Decision.APPROVED, Decision.REVIEW])
def test_a_document_that_somebody_may_hold_stays(decision: Decision, store, builder, run) -> None:
    attempt = builder.attempt(OLD)
    builder.attempt(OLD, decision, document_id=attempt.document_id)
    run()
    assert is_expired(store, attempt)
    assert is_known(store, attempt.document_id)


def test_a_document_without_attempts_is_not_one_that_was_attempted(store, builder, run) -> None:
    document_id = builder.document(DocumentStatus.ATTEMPTED)
    run()
    assert is_known(store, document_id)


@pytest.mark.both_databases
def test_a_block_outlives_the_document(store, builder, run) -> None:
    attempt = builder.attempt(OLD)
    builder.change(
        tables.documents.update()
        .where(tables.documents.c.id == attempt.document_id)
        .values(blocked_at=OLD)
    )
    lookup = store.document(attempt.document_id).lookup
    run()
    assert not is_known(store, attempt.document_id)
    found = store.documents([lookup])[lookup]
    assert (found.status, found.is_erased) == (DocumentStatus.BLOCKED, True)


@pytest.mark.both_databases
def test_a_review_without_a_case_leaves_by_its_decision(store, builder, run) -> None:
    old = builder.attempt(NOW - 30 * DAY, Decision.REVIEW, crops_until=NOW + DAY)
    young = builder.attempt(NOW - 30 * DAY + MOMENT, Decision.REVIEW)
    rejected = builder.attempt(LONG_AGO)
    made = run(REVIEWS)
    assert made.left == {"reviews": 1, "documents": 1, "crops": 0}
    assert [is_expired(store, one) for one in (old, young, rejected)] == [True, False, False]
    record = store.enrollment(old.id)
    assert (record.decision, record.reasons) == ("review", ("NAME_MISMATCH",))
    assert set(record.evidence.inputs) == {"thresholds", "searched"}
    assert (store.answers([old.scope]), store.cases.crops(old.id)) == ({}, [])
    with pytest.raises(NotFound, match="left by retention"):
        replay(record)
    assert [is_known(store, one.document_id) for one in (old, young)] == [False, True]


def test_a_review_with_a_case_leaves_by_the_closing_of_it(store, builder, run) -> None:
    edge = NOW - 30 * DAY
    attempts = [builder.attempt(LONG_AGO, Decision.REVIEW) for _ in range(2)]
    for attempt, closed_at in zip(attempts, (edge, edge + MOMENT), strict=True):
        case = builder.open_case(attempt.document_id, enrollment_id=attempt.id)
        builder.close_case(case, closed_at)
    run(REVIEWS)
    assert [is_expired(store, one) for one in attempts] == [True, False]
    run(REVIEWS, NOW + MOMENT)
    assert [is_expired(store, one) for one in attempts] == [True, True]


@pytest.mark.both_databases
def test_a_review_whose_case_went_into_another_leaves_by_that_one(store, builder, run) -> None:
    attempt, other = (builder.attempt(LONG_AGO, Decision.REVIEW) for _ in range(2))
    own = builder.open_case(attempt.document_id, enrollment_id=attempt.id)
    standing = builder.open_case(other.document_id, attempt.document_id, enrollment_id=other.id)
    builder.merge_case(own, standing)
    held = run(REVIEWS).held
    assert (held["reviews"], held["documents"]) == (2, 0)
    builder.close_case(standing, YOUNG)
    assert run(REVIEWS).left["reviews"] == 0
    run(REVIEWS, YOUNG + 30 * DAY)
    assert is_expired(store, attempt)
    assert is_expired(store, other)


@pytest.mark.both_databases
def test_a_document_leaves_with_the_last_attempt_of_either_kind(store, builder, run) -> None:
    both = only(rejected_days=10, review_days=30)
    rejected = builder.attempt(YOUNG)
    review = builder.attempt(YOUNG, Decision.REVIEW, rejected.document_id)
    run(both)
    assert (is_expired(store, rejected), is_expired(store, review)) == (True, False)
    assert is_known(store, rejected.document_id)
    run(both, YOUNG + 30 * DAY)
    assert not is_known(store, rejected.document_id)


def read_notes(store: Store, case_id: str) -> list[str]:
    return [one.text for one in store.cases.notes(case_id) if one.kind is NoteKind.NOTE]


def test_texts_leave_with_the_last_document_that_their_case_names(store, builder, run) -> None:
    first, second = builder.attempt(OLD), builder.attempt(YOUNG)
    case = builder.open_case(first.document_id, second.document_id, remark=REMARK)
    builder.close_case(case)
    run()
    assert [is_known(store, one.document_id) for one in (first, second)] == [False, True]
    assert read_notes(store, case.id) == [REMARK]
    run(now=NOW + (YOUNG - OLD))
    assert not is_known(store, second.document_id)
    assert read_notes(store, case.id) == [""]
    assert store.cases.get(case.id).document_ids == case.document_ids


def test_texts_stay_while_the_case_names_a_holder_and_those_of_others_stay(
    store, builder, run
) -> None:
    attempt, holder = builder.attempt(OLD), builder.document(DocumentStatus.ACTIVE)
    cases = [
        builder.open_case(*documents, remark=REMARK)
        for documents in ((attempt.document_id, holder), (holder,))
    ]
    for case in cases:
        builder.close_case(case)
    run()
    assert not is_known(store, attempt.document_id)
    assert [read_notes(store, case.id) for case in cases] == [[REMARK], [REMARK]]


def test_all_of_a_batch_leave_together(store, builder, run) -> None:
    attempts = [builder.attempt(OLD) for _ in range(3)]
    case = builder.open_case(*(one.document_id for one in attempts), remark=REMARK)
    builder.close_case(case)
    run(rows_per_batch=2)
    assert read_notes(store, case.id) == [""]
