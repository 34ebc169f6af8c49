"""Schedules by kind, and the job against a model of any schedule, clock and batch size."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.registry.audit import verify_chain
from engine.registry.store import Store
from engine.retention.job import DirectRunner, find_until, run_retention
from schema.documents import DocumentStatus
from schema.options import Retention
from schema.phases import Retained
from schema.reasons import Decision
from tests.engine.retention.conftest import DAY, NOW, is_expired, is_known, only


def test_each_kind_has_its_own_time_and_documents_the_soonest_of_attempts() -> None:
    until = find_until(
        only(rejected_days=3, review_days=4, closed_lines_days=2, answers_days=1), NOW
    )
    assert until == {
        Retained.ATTEMPTS: NOW - 3 * DAY,
        Retained.REVIEWS: NOW - 4 * DAY,
        Retained.DOCUMENTS: NOW - 3 * DAY,
        Retained.LINES: NOW - 2 * DAY,
        Retained.ANSWERS: NOW - DAY,
        Retained.CROPS: NOW,
    }


def test_crops_alone_leave_where_nothing_is_set() -> None:
    assert find_until(only(), NOW) == {Retained.CROPS: NOW}


def test_attempts_leave_before_the_documents_that_stand_on_them() -> None:
    kinds = list(find_until(Retention(), NOW))
    assert kinds == list(Retained)


def test_documents_have_the_time_of_whichever_attempts_leave() -> None:
    assert find_until(only(review_days=1), NOW)[Retained.DOCUMENTS] == NOW - DAY
    assert Retained.DOCUMENTS not in find_until(only(closed_lines_days=1), NOW)


@dataclass
class Model:
    """What must remain, by the definition of the schedule alone."""

    attempts: list[tuple[Any, datetime, Decision, bool]] = field(default_factory=list)
    lines: list[tuple[str, datetime, bool]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    answered: set[bytes] = field(default_factory=set)

    def run(self, schedule: Retention, now: datetime) -> None:
        periods = {Decision.REJECTED: schedule.rejected_days, Decision.REVIEW: schedule.review_days}
        for attempt, moment, decision, is_held in self.attempts:
            period = periods.get(decision)
            if period and moment + period * DAY <= now and not is_held:
                self.gone |= {attempt.id, attempt.document_id}
                self.answered.discard(attempt.scope)
            if schedule.answers_days and moment + schedule.answers_days * DAY <= now:
                self.answered.discard(attempt.scope)
        for line, moment, is_held in self.lines:
            due_at = moment + schedule.closed_lines_days * DAY
            if schedule.closed_lines_days and due_at <= now and not is_held:
                self.gone.add(line)


# Exactly at the edge as often as anywhere.
EDGES = st.sampled_from([DAY, 30 * DAY])
PERIODS = st.sampled_from([0, 1, 30]) | st.integers(0, 40)
OWN = ("rejected_days", "review_days", "closed_lines_days", "answers_days")
SCHEDULES = st.builds(only, **dict.fromkeys(OWN, PERIODS))
AGES = EDGES | st.timedeltas(timedelta(0), 60 * DAY)
ROWS = st.lists(
    st.tuples(AGES, st.sampled_from(list(Decision)), st.booleans()), min_size=1, max_size=3
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    lines=st.lists(st.tuples(AGES, st.booleans()), max_size=2),
    schedule=SCHEDULES,
    drift=st.just(timedelta(0)) | st.timedeltas(-10 * DAY, 10 * DAY),
    batch=st.integers(1, 4),
)
def check_schedule(
    builder: Any,
    store: Store,
    model: Model,
    rows: Any,
    lines: Any,
    schedule: Retention,
    drift: timedelta,
    batch: int,
) -> None:
    now = NOW + drift
    for age, decision, is_held in rows:
        attempt = builder.attempt(NOW - age, decision)
        if is_held:
            builder.open_case(attempt.document_id)
        model.attempts.append((attempt, NOW - age, decision, is_held))
        model.answered.add(attempt.scope)
    for age, is_held in lines:
        document_id = builder.document(DocumentStatus.ACTIVE)
        line = builder.line(NOW - age, document_id)
        if is_held:
            builder.open_case(document_id)
        model.lines.append((line, NOW - age, is_held))
    run_retention(DirectRunner(builder.writer, lambda: now), schedule, "test", rows_per_batch=batch)
    model.run(schedule, now)
    for attempt, *_ in model.attempts:
        assert is_expired(store, attempt) == (attempt.id in model.gone)
        assert is_known(store, attempt.document_id) == (attempt.document_id not in model.gone)
    scopes = [attempt.scope for attempt, *_ in model.attempts]
    assert set(store.answers(scopes)) == model.answered
    shown = store.numbers([line for line, *_ in model.lines])
    assert set(shown) == {line for line, *_ in model.lines} - model.gone


def test_under_any_schedule_and_clock_exactly_what_is_due_expires(
    builder: Any, store: Store
) -> None:
    model = Model()
    check_schedule(builder, store, model)
    assert verify_chain(store).intact
