"""Attempts that went to review leave by the closing of their case, and so do their documents."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine.errors import NotFound
from engine.matching.policy import replay
from engine.reasons import Decision
from engine.registry.records import DocumentStatus
from engine.registry.store import Store
from engine.retention.job import Schedule
from tests.engine.retention.conftest import DAY, NOW, OLD, YOUNG, is_expired, is_known

MOMENT = timedelta(microseconds=1)
REVIEWS = Schedule(reviews=30 * DAY)
LONG_AGO = NOW - 400 * DAY


def test_one_without_a_case_leaves_by_its_decision(store: Store, office: Any, run: Any) -> None:
    old = office.attempt(NOW - 30 * DAY, Decision.REVIEW, crops_until=NOW + DAY)
    young = office.attempt(NOW - 30 * DAY + MOMENT, Decision.REVIEW)
    rejected = office.attempt(LONG_AGO)
    made = run(REVIEWS)
    assert made.left == {"reviews": 1, "documents": 1, "crops": 0}
    assert [is_expired(store, one) for one in (old, young, rejected)] == [True, False, False]
    record = store.enrollment(old.id)
    assert (record.decision, record.reasons) == ("review", ("NAME_MISMATCH",))
    assert set(record.evidence["inputs"]) == {"thresholds", "searched"}
    assert (store.answers([old.scope]), store.cases.crops(old.id)) == ({}, [])
    with pytest.raises(NotFound, match="left by retention"):
        replay(record)
    assert [is_known(store, one.document_id) for one in (old, young)] == [False, True]


def test_one_with_a_case_leaves_by_the_closing_of_it(store: Store, office: Any, run: Any) -> None:
    edge = NOW - 30 * DAY
    attempts = [office.attempt(LONG_AGO, Decision.REVIEW) for _ in range(2)]
    for attempt, closed_at in zip(attempts, (edge, edge + MOMENT), strict=True):
        case = office.open_case(attempt.document_id, enrollment_id=attempt.id)
        office.close_case(case, closed_at)
    run(REVIEWS)
    assert [is_expired(store, one) for one in attempts] == [True, False]
    run(REVIEWS, NOW + MOMENT)
    assert [is_expired(store, one) for one in attempts] == [True, True]


def test_one_whose_case_went_into_another_leaves_by_that_one(
    store: Store, office: Any, run: Any
) -> None:
    attempt, other = (office.attempt(LONG_AGO, Decision.REVIEW) for _ in range(2))
    own = office.open_case(attempt.document_id, enrollment_id=attempt.id)
    standing = office.open_case(other.document_id, attempt.document_id, enrollment_id=other.id)
    office.merge_case(own, standing)
    held = run(REVIEWS).held
    assert (held["reviews"], held["documents"]) == (2, 0)
    office.close_case(standing, YOUNG)
    assert run(REVIEWS).left["reviews"] == 0
    run(REVIEWS, YOUNG + 30 * DAY)
    assert is_expired(store, attempt)
    assert is_expired(store, other)


def test_a_document_leaves_with_the_last_attempt_of_either_kind(
    store: Store, office: Any, run: Any
) -> None:
    both = Schedule(attempts=10 * DAY, reviews=30 * DAY)
    rejected = office.attempt(YOUNG)
    review = office.attempt(YOUNG, Decision.REVIEW, rejected.document_id)
    run(both)
    assert (is_expired(store, rejected), is_expired(store, review)) == (True, False)
    assert is_known(store, rejected.document_id)
    run(both, YOUNG + 30 * DAY)
    assert not is_known(store, rejected.document_id)


def test_of_a_holder_the_attempt_leaves_and_the_document_stays(
    store: Store, office: Any, run: Any
) -> None:
    holder = office.document(DocumentStatus.ACTIVE)
    attempt = office.attempt(OLD, Decision.REVIEW, holder)
    run(REVIEWS)
    assert is_expired(store, attempt)
    assert is_known(store, holder)
