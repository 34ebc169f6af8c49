"""The job expires what is due, in whole batches, and nothing else: by any schedule and clock."""

import itertools
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from engine.registry.audit import verify_chain
from engine.registry.retention import Due
from engine.retention.job import DirectRunner, find_until, preview, run_retention
from schema.cases import CaseState, NoteKind
from schema.documents import DocumentStatus
from schema.lines import LineStatus
from schema.options import Retention
from schema.phases import Retained
from schema.reasons import Decision
from tests.engine.retention.conftest import DAY, MONTH, NOW, OLD, YOUNG, is_expired, is_known, only
from tests.tables import tables


@pytest.mark.both_databases
def test_each_kind_leaves_at_its_moment_and_not_a_microsecond_before(store, builder, run) -> None:
    edge, short = NOW - 30 * DAY, NOW - 30 * DAY + timedelta(microseconds=1)
    rejected = [builder.attempt(moment) for moment in (edge, short)]
    approved = [builder.attempt(moment, Decision.APPROVED) for moment in (edge, short)]
    lines = [builder.line(moment) for moment in (edge, short, None)]
    crops = [builder.attempt(NOW, crops_until=NOW + step) for step in (DAY * 0, short - edge)]
    run()
    assert [is_expired(store, one) for one in rejected] == [True, False]
    assert [is_known(store, one.document_id) for one in rejected] == [False, True]
    assert list(store.answers([one.scope for one in approved])) == [approved[1].scope]
    assert store.numbers(lines).keys() == set(lines[1:])
    left = store.lines_by_id(lines)[lines[0]]
    assert (left.status, left.msisdn_lookup, left.closed_at) == (LineStatus.CLOSED, None, edge)
    kept = store.rows(tables.crops.select())
    assert [row.enrollment_id for row in kept] == [crops[1].id]


@pytest.mark.both_databases
def test_an_open_case_keeps_its_faces_until_its_hold_is_over_and_then_says_that_they_leave(
    store, builder, run
) -> None:
    over, held = (builder.attempt(NOW, crops_until=NOW - DAY) for _ in range(2))
    late = builder.attempt(NOW, crops_until=NOW - 10 * DAY)
    case = builder.open_case(held.document_id, late.document_id)

    def kept() -> set[str]:
        return {row.enrollment_id for row in store.rows(tables.crops.select())}

    schedule = only(case_hold_days=10)
    assert preview(store, schedule, NOW)[Retained.CROPS] == Due(rows=2, held=1)
    assert run(schedule).held["crops"] == 1
    assert kept() == {held.id}
    assert len(store.cases.crops(held.id)) == 1
    assert store.cases.crops(over.id) == []
    last = store.cases.notes(case.id)[-1]
    assert (last.kind, last.text) == (NoteKind.EXPIRED, "crops")
    assert store.cases.get(case.id).updated_at > case.updated_at
    builder.close_case(store.cases.get(case.id))
    run(schedule)
    assert kept() == set()


@pytest.mark.parametrize("state", [CaseState.OPEN, CaseState.ASSIGNED, CaseState.PROPOSED])
@pytest.mark.both_databases
def test_what_an_open_case_names_is_held_until_it_is_closed(
    state: CaseState, store, builder, run
) -> None:
    attempt = builder.attempt(OLD)
    line = builder.line(OLD, attempt.document_id)
    case = builder.open_case(attempt.document_id, state=state)
    held = run()
    assert (held.held["attempts"], held.held["documents"], held.held["lines"]) == (1, 0, 1)
    assert not is_expired(store, attempt)
    assert line in store.numbers([line])
    builder.close_case(case)
    made = run()
    assert sum(made.held.values()) == 0
    assert is_expired(store, attempt)
    assert not is_known(store, attempt.document_id)
    assert store.numbers([line]) == {}


def test_a_run_is_bounded_transactions_with_an_entry_each_and_one_for_the_whole(
    store, builder, run
) -> None:
    for _ in range(5):
        builder.attempt(OLD)
    first = store.audit_head()[0]
    reported: list[int] = []
    made = run(rows_per_batch=2, report=reported.append)
    entries = [record.entry for record in store.audit_entries(first)]
    assert [(entry.action, entry.subject, entry.detail.get("rows")) for entry in entries] == [
        *(("retention.expired", "attempts", rows) for rows in (2, 2, 1)),
        *(("retention.expired", "documents", rows) for rows in (2, 2, 1)),
        ("retention.run", made.job_id, None),
    ]
    assert reported == [2, 4, 5, 7, 9, 10]
    assert entries[-1].detail["left"] == made.left
    assert made.until["attempts"] == NOW - 30 * DAY
    assert made.is_complete
    # One that finds nothing is in the chain, too.
    made = run()
    assert set(made.left.values()) == {0}
    assert store.audit_head() == (made.audit_number, bytes.fromhex(made.audit_hash))
    assert verify_chain(store).intact


def test_a_run_that_is_stopped_says_so_and_the_next_goes_on(store, builder, run) -> None:
    attempts = [builder.attempt(OLD) for _ in range(5)]
    batches = itertools.count(1)
    made = run(rows_per_batch=1, is_stopped=lambda: next(batches) == 3)
    assert (made.left["attempts"], made.left["documents"], made.is_complete) == (3, 0, False)
    # The oldest first, and whole ones.
    assert [is_expired(store, one) for one in attempts].count(True) == 3
    assert run().left["attempts"] == 2
    assert all(is_expired(store, one) for one in attempts)


@pytest.mark.parametrize("failing", range(1, 9))
def test_a_process_that_ends_anywhere_leaves_whole_batches_and_the_next_goes_on(
    failing: int, store, builder, run
) -> None:
    attempts = [builder.attempt(OLD) for _ in range(3)]
    calls = itertools.count()

    class Ending:
        def run(self, perform: Any) -> Any:
            if next(calls) == failing:
                raise KeyboardInterrupt
            return perform(builder.writer, NOW)

    with pytest.raises(KeyboardInterrupt):
        run_retention(Ending(), MONTH, "test", rows_per_batch=1)
    left = [is_expired(store, one) for one in attempts].count(True)
    assert left == min(failing - 1, 3)
    assert verify_chain(store).intact
    made = run()
    assert made.left["attempts"] == 3 - left
    assert not any(is_known(store, one.document_id) for one in attempts)


@pytest.mark.both_databases
def test_a_preview_changes_nothing_and_counts_what_a_run_expires(store, builder, run) -> None:
    for moment in (OLD, OLD, YOUNG):
        attempt = builder.attempt(moment, crops_until=moment)
        builder.line(moment)
    builder.open_case(builder.attempt(OLD).document_id)
    builder.attempt(OLD, document_id=attempt.document_id)
    head = store.audit_head()
    previewed = preview(store, MONTH, NOW)
    assert store.audit_head() == head
    made = run()
    assert {kind.value: due.held for kind, due in previewed.items()} == made.held
    expected = {kind.value: due.rows for kind, due in previewed.items()}
    # A crop that leaves with its attempt has no time of its own any more, nor has its answer.
    assert {**expected, "crops": 0, "answers": 0} == {**made.left, "crops": 0, "answers": 0}
    assert (made.left["attempts"], made.left["documents"], made.left["lines"]) == (3, 2, 2)


def test_due_rows_are_found_by_their_indexes(store, builder, run) -> None:
    """Or the job would read whole tables on the writer's thread."""
    if store._engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL reads small tables whole, whatever their indexes")
    asked: list[str] = []
    builder.writer.sqlite.set_trace_callback(asked.append)
    event.listen(
        store._engine, "checkout", lambda driver, *_: driver.set_trace_callback(asked.append)
    )
    every = replace(MONTH, review_days=30)
    preview(store, every, NOW)
    run(every)
    selects = [one for one in asked if one.startswith("SELECT")]
    with store._engine.connect() as connection:
        plans = [
            str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {one}").all()) for one in selects
        ]
    for name in (
        "ix_enrollments_rejected",
        "ix_enrollments_review",
        "ix_documents_attempted",
        "ix_lines_closed",
        "ix_idempotency_created_at",
        "ix_crops_kept_until",
    ):
        # In the preview, in the run, and for what is held at its end.
        assert sum(name in plan for plan in plans) >= 3, name
    for table in ("enrollments", "documents", "lines", "idempotency", "crops", "opened"):
        assert not any(f"SCAN {table}'" in plan for plan in plans), table


def test_documents_have_the_time_of_whichever_attempts_leave_and_crops_their_own() -> None:
    assert find_until(only(), NOW) == {Retained.CROPS: NOW}
    assert find_until(only(review_days=1), NOW)[Retained.DOCUMENTS] == NOW - DAY
    assert Retained.DOCUMENTS not in find_until(only(closed_lines_days=1), NOW)
    # Attempts leave before the documents that stand on them.
    assert list(find_until(Retention(watchlist_days=1, faces_days=1), NOW)) == list(Retained)


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


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    lines=st.lists(st.tuples(AGES, st.booleans()), max_size=2),
    schedule=SCHEDULES,
    drift=st.just(timedelta(0)) | st.timedeltas(-10 * DAY, 10 * DAY),
    batch=st.integers(1, 4),
)
def check_schedule(
    builder,
    store,
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


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_under_any_schedule_and_clock_exactly_what_is_due_expires(builder, store) -> None:
    model = Model()
    check_schedule(builder, store, model)
    assert verify_chain(store).intact
