"""What has its moment when, to have stayed its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from engine.registry.retention import Kind
from engine.retention.job import Schedule

NOW = datetime(2026, 5, 4, tzinfo=UTC)
DAY = timedelta(days=1)


def test_each_kind_has_its_own_time_and_documents_the_soonest_of_attempts() -> None:
    until = Schedule(attempts=3 * DAY, reviews=4 * DAY, lines=2 * DAY, answers=DAY).until(NOW)
    assert until == {
        Kind.ATTEMPTS: NOW - 3 * DAY,
        Kind.REVIEWS: NOW - 4 * DAY,
        Kind.DOCUMENTS: NOW - 3 * DAY,
        Kind.LINES: NOW - 2 * DAY,
        Kind.ANSWERS: NOW - DAY,
        Kind.CROPS: NOW,
    }


def test_crops_alone_leave_where_nothing_is_set() -> None:
    assert Schedule().until(NOW) == {Kind.CROPS: NOW}


def test_attempts_leave_before_the_documents_that_stand_on_them() -> None:
    kinds = list(Schedule(attempts=DAY, reviews=DAY, lines=DAY, answers=DAY).until(NOW))
    assert kinds == list(Kind)


def test_documents_have_the_time_of_whichever_attempts_leave() -> None:
    assert Schedule(reviews=DAY).until(NOW)[Kind.DOCUMENTS] == NOW - DAY
    assert Kind.DOCUMENTS not in Schedule(lines=DAY).until(NOW)
