"""The job: whatever has stayed its time leaves, in short transactions between two batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from engine.matching.policy import strip_evidence
from engine.registry.records import AuditEntry, Changes, new_id, utc_now
from engine.registry.retention import (
    ROWS_PER_BATCH,
    Due,
    Job,
    Kind,
    Rows,
    count_due,
    expire,
)
from engine.registry.writer import Writer

# How long what is no longer needed is kept.


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long each kind stays after its moment; None keeps it for good.

    The moment of a rejected attempt is its decision, of one that went to review the closing of its
    case, or its decision where it had none; of a line its closing, of an answer its writing. A
    document that is known from such attempts alone leaves with the last of them. A crop bears its
    own.
    """

    attempts: timedelta | None = None
    reviews: timedelta | None = None
    lines: timedelta | None = None
    answers: timedelta | None = None

    @property
    def stays(self) -> Mapping[Kind, timedelta | None]:
        """By kind, in the order in which they leave."""
        of_attempts = [stay for stay in (self.attempts, self.reviews) if stay is not None]
        return {
            Kind.ATTEMPTS: self.attempts,
            Kind.REVIEWS: self.reviews,
            # The soonest that one can leave: it goes with the last attempt under it.
            Kind.DOCUMENTS: min(of_attempts, default=None),
            Kind.LINES: self.lines,
            Kind.ANSWERS: self.answers,
            Kind.CROPS: timedelta(0),
        }

    def until(self, now: datetime) -> dict[Kind, datetime]:
        """By kind: what has its moment then or before has stayed its time. Kept kinds lack."""
        return {kind: now - stay for kind, stay in self.stays.items() if stay is not None}


T = TypeVar("T")
RUN = "retention.run"
"""The action of the entry that a job ends with; those of its batches are `retention.expired`."""


class Turns(Protocol):
    """Whatever gives turns on the writer's thread: the registrar, or a writer of one's own."""

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        """Performs a change between two others."""
        ...


@dataclass(frozen=True, slots=True)
class LoneWriter:
    """The turns of a writer that nobody else has: for a command on a home."""

    writer: Writer
    clock: Callable[[], datetime] = utc_now

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        return perform(self.writer, self.clock())


@dataclass(frozen=True, slots=True)
class RetentionCertificate:
    """What has left, of what had its moment until when, and where the audit chain says so.

    `left` and `held` are rows by kind. Held is what stands under a document that an open case
    names: it leaves once the case is closed. A run that was told to stop is not complete, and the
    next one goes on.
    """

    job_id: str
    until: Mapping[str, datetime]
    left: Mapping[str, int]
    held: Mapping[str, int]
    is_complete: bool
    ran_at: datetime
    audit_number: int
    audit_hash: str


def preview(source: Rows, schedule: Schedule, now: datetime) -> dict[Kind, Due]:
    """How much would leave now, by kind, and how much open cases hold; changes nothing."""
    until = schedule.until(now)
    return {kind: count_due(source, kind, until) for kind in until}


def run_retention(
    turns: Turns,
    schedule: Schedule,
    actor: str,
    *,
    rows_per_batch: int = ROWS_PER_BATCH,
    report: Callable[[Kind, int], None] | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> RetentionCertificate:
    """Has everything leave that has stayed its time and that no open case names.

    Each batch is a fenced, audited transaction on the writer's thread; decisions go on between
    them. A stop, or a crash, anywhere leaves whole batches behind, and the next run goes on.
    `report(kind, rows)` is told after each.
    """
    until = turns.run(lambda _, now: schedule.until(now))
    job = Job(new_id(), actor, until, strip_evidence)
    left = dict.fromkeys(until, 0)
    is_complete = True
    for kind in until:

        def leave(writer: Writer, now: datetime, kind: Kind = kind) -> int:
            return expire(writer, kind, job, now, rows_per_batch)

        while is_complete and (rows := turns.run(leave)):
            left[kind] += rows
            if report is not None:
                report(kind, rows)
            is_complete = not is_stopped()
    return turns.run(lambda writer, _: _certify(writer, job, left, is_complete))


def describe_run(
    until: Mapping[str, datetime],
    left: Mapping[str, int],
    held: Mapping[str, int],
    is_complete: bool,
) -> dict[str, Any]:
    """What the chain's entry says of a run, besides its id."""
    return {
        "until": {kind: moment.astimezone(UTC).isoformat() for kind, moment in until.items()},
        "left": dict(left),
        "held": dict(held),
        "is_complete": is_complete,
    }


def _certify(
    writer: Writer, job: Job, left: Mapping[Kind, int], is_complete: bool
) -> RetentionCertificate:
    until = {kind.value: moment for kind, moment in job.until.items()}
    rows = {kind.value: count for kind, count in left.items()}
    held = {kind.value: count_due(writer, kind, job.until).held for kind in job.until}
    entry = AuditEntry(job.actor, RUN, job.id, describe_run(until, rows, held, is_complete))
    kept = writer.commit(Changes(sequence=writer.sequence, audit=(entry,)))
    return RetentionCertificate(
        job_id=job.id,
        until=until,
        left=rows,
        held=held,
        is_complete=is_complete,
        ran_at=kept.at,
        audit_number=kept.number,
        audit_hash=kept.hash.hex(),
    )
