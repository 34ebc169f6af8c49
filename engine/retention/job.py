"""The retention job: expires rows whose period is over, in short transactions between batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from engine.matching.policy import strip_evidence
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id, utc_now
from engine.registry.retention import ROWS_PER_BATCH, Due, Job, count_due, expire
from engine.registry.store import Reader
from engine.registry.writer import ChangeRunner, Writer
from schema.options import Retention
from schema.phases import Retained


def find_until(schedule: Retention, now: datetime) -> dict[Retained, datetime]:
    """By kind, in the order in which they expire, the latest start of a period that is over; kinds
    kept for good are absent."""
    of_attempts = schedule.rejected_days, schedule.review_days
    days = {
        Retained.ATTEMPTS: schedule.rejected_days,
        Retained.REVIEWS: schedule.review_days,
        # The earliest possible: a document expires with the last attempt under it.
        Retained.DOCUMENTS: min(filter(None, of_attempts), default=0),
        Retained.LINES: schedule.closed_lines_days,
        Retained.ANSWERS: schedule.answers_days,
        Retained.CROPS: None,
        Retained.LIVENESS: schedule.liveness_days,
        Retained.EXCEPTIONS: schedule.people_days,
        Retained.GUARDIANS: schedule.people_days,
        Retained.EVENTS: schedule.events_days,
        Retained.LINE_EVENTS: schedule.line_events_days,
    }
    return {kind: now - timedelta(days=one or 0) for kind, one in days.items() if one != 0}


T = TypeVar("T")
RUN = "retention.run"
"""Action of the last audit entry of a job; its batches have `retention.expired`."""


@dataclass(frozen=True, slots=True)
class DirectRunner:
    """Runs changes at once, on a writer that no service uses: for a command on a home."""

    writer: Writer
    clock: Callable[[], datetime] = utc_now

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        return perform(self.writer, self.clock())


@dataclass(frozen=True, slots=True)
class RetentionCertificate:
    """The certificate of a run: what expired, up to which date, and the audit entry that says so.

    `left` and `held` are rows by kind, `undelivered` events that left before a webhook took them,
    by webhook. Rows under a document that an open case names are held
    until the case is closed, or the schedule's `hold` is over. A run that was stopped is not
    complete; the next one continues.
    """

    job_id: str
    until: Mapping[str, datetime]
    left: Mapping[str, int]
    held: Mapping[str, int]
    is_complete: bool
    ran_at: datetime
    audit_number: int
    audit_hash: str
    undelivered: Mapping[str, int] = field(default_factory=dict)


def preview(source: Reader, schedule: Retention, now: datetime) -> dict[Retained, Due]:
    """Count by kind what a run would expire now, and what open cases hold; changes nothing."""
    until = find_until(schedule, now)
    return {kind: count_due(source, kind, until, schedule.hold) for kind in until}


def run_retention(
    runner: ChangeRunner,
    schedule: Retention,
    actor: str,
    *,
    now: datetime | None = None,
    rows_per_batch: int = ROWS_PER_BATCH,
    report: Callable[[Retained, int], None] | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> RetentionCertificate:
    """Expire everything whose period is over and that no open case holds.

    Each batch is a fenced, audited transaction on the writer's thread; decisions continue between
    them. After a stop or a crash, whole batches are done and the next run continues.
    `report(kind, rows)` is called after each batch. `now` is the moment that `check_clock`
    accepted; without it the runner's clock is believed.
    """
    until = find_until(schedule, now or runner.run(lambda _, moment: moment))
    job = Job(new_id(), actor, until, strip_evidence, schedule.hold)
    left = dict.fromkeys(until, 0)
    is_complete = True
    for kind in until:

        def expire_batch(writer: Writer, now: datetime, kind: Retained = kind) -> int:
            return expire(writer, kind, job, now, rows_per_batch)

        while is_complete and (rows := runner.run(expire_batch)):
            left[kind] += rows
            if report is not None:
                report(kind, rows)
            is_complete = not is_stopped()
    return runner.run(lambda writer, _: _certify(writer, job, left, is_complete))


def describe_run(
    until: Mapping[str, datetime],
    left: Mapping[str, int],
    held: Mapping[str, int],
    is_complete: bool,
    undelivered: Mapping[str, int],
) -> dict[str, Any]:
    """Detail of the audit entry of a run."""
    told = {
        "until": {kind: moment.astimezone(UTC).isoformat() for kind, moment in until.items()},
        "left": dict(left),
        "held": dict(held),
        "is_complete": is_complete,
    }
    return told | ({"undelivered": dict(undelivered)} if undelivered else {})


def _certify(
    writer: Writer, job: Job, left: Mapping[Retained, int], is_complete: bool
) -> RetentionCertificate:
    until = {kind.value: moment for kind, moment in job.until.items()}
    rows = {kind.value: count for kind, count in left.items()}
    held = {kind.value: count_due(writer, kind, job.until, job.hold).held for kind in job.until}
    detail = describe_run(until, rows, held, is_complete, job.undelivered)
    entry = AuditEntry(job.actor, RUN, job.id, detail)
    committed = writer.commit([entry])
    return RetentionCertificate(
        job_id=job.id,
        until=until,
        left=rows,
        held=held,
        is_complete=is_complete,
        ran_at=committed.at,
        audit_number=committed.number,
        audit_hash=committed.hash.hex(),
        undelivered=dict(job.undelivered),
    )
