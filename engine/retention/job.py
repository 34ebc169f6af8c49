"""Retention: rows whose period is over expire, in short transactions between batches; certificates
of that and of erasures are verified against the audit chain.

A wrong clock would delete everything at once, for good, and the registry itself bears witness
against it. Whatever it stores has an entry in the audit chain, with its moment; a clock that was
set leaves a jump between two entries, or after the last. Between two days of a running service
there is always an entry: that of the daily run.
"""

from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

from engine.errors import ClockImplausible, RequestError
from engine.registry.audit import (
    AuditEntry,
    AuditRecord,
    newest_of,
    read_audit,
    read_moments,
    verify_chain,
)
from engine.registry.database import Progress, new_id, untold, utc_now
from engine.registry.documents import CERTIFIED, certify_erasure
from engine.registry.enrollments import BoundTallies
from engine.registry.retention import ROWS_PER_BATCH, Due, Job, count_due, expire
from engine.registry.store import Reader, Store
from engine.registry.writer import ChangeRunner, Writer
from schema import frozen
from schema.documents import ErasureCertificate, ErasureScope
from schema.options import Retention
from schema.phases import Retained


def find_days(schedule: Retention) -> dict[Retained, int]:
    """By kind, in the order in which they expire, the days of its period; kinds kept for good are
    absent, and crops have a date of their own."""
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
        Retained.WATCHLIST: schedule.watchlist_days,
        Retained.FACES: schedule.faces_days,
    }
    return {kind: one or 0 for kind, one in days.items() if one != 0}


def find_until(schedule: Retention, now: datetime) -> dict[Retained, datetime]:
    """By kind the latest start of a period that is over."""
    return {kind: now - timedelta(days=one) for kind, one in find_days(schedule).items()}


T = TypeVar("T")
RUN = "retention.run"
"""Action of the last audit entry of a job; its batches have `retention.expired`."""


@frozen
class DirectRunner:
    """Runs changes at once, on a writer that no service uses: for a command on a home."""

    writer: Writer
    clock: Callable[[], datetime] = utc_now

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        return perform(self.writer, self.clock())


@frozen
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
    report: Callable[[int], object] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> RetentionCertificate:
    """Expire everything whose period is over and that no open case holds.

    Each batch is a fenced, audited transaction on the writer's thread; decisions continue between
    them. After a stop or a crash, whole batches are done and the next run continues.
    `report` hears after each batch of how many rows have left. `now` is the moment that
    `check_clock` accepted; without it the runner's clock is believed.
    """
    until = find_until(schedule, now or runner.run(lambda _, moment: moment))
    # Sweeps' files and snapshots have them, too: each is an erasure of its own.
    until.pop(Retained.FACES, None)
    job = Job(new_id(), actor, until, schedule.hold)
    left = dict.fromkeys(until, 0)
    is_complete = True
    for kind in until:

        def expire_batch(writer: Writer, now: datetime, kind: Retained = kind) -> int:
            return expire(writer, kind, job, now, rows_per_batch)

        while is_complete and (rows := runner.run(expire_batch)):
            left[kind] += rows
            report(sum(left.values()))
            is_complete = not is_stopped()
    return runner.run(lambda writer, _: _certify(writer, job, left, is_complete))


def _certify(
    writer: Writer, job: Job, left: Mapping[Retained, int], is_complete: bool
) -> RetentionCertificate:
    until = job.until
    detail = {
        "until": {kind.value: at.astimezone(UTC).isoformat() for kind, at in until.items()},
        "left": left,
        "held": {kind.value: count_due(writer, kind, until, job.hold).held for kind in until},
        "is_complete": is_complete,
    }
    if job.undelivered:
        detail["undelivered"] = dict(job.undelivered)
    return _certify_run(writer.commit([AuditEntry(job.actor, RUN, job.id, detail), BoundTallies()]))


def _certify_run(record: AuditRecord) -> RetentionCertificate:
    """The certificate of a run, as the audit chain has it."""
    detail = record.entry.detail
    until = {kind: datetime.fromisoformat(at) for kind, at in detail["until"].items()}
    return RetentionCertificate(
        job_id=record.entry.subject,
        ran_at=record.at,
        audit_number=record.number,
        audit_hash=record.hash.hex(),
        **{**detail, "until": until},
    )


Certificate = ErasureCertificate | RetentionCertificate
_MAKERS: Mapping[str, Callable[[AuditRecord], Certificate]] = {
    **dict.fromkeys(CERTIFIED, certify_erasure),
    RUN: _certify_run,
}
"""Of certificates, by the action of the entry that each names."""


def check_certificate(
    reader: Reader, certificate: Certificate, progress: Progress = untold
) -> str | None:
    """The fault of a certificate, in one line; None where it is valid.

    It is valid where the whole chain is intact and has exactly the entry that it names, and where
    the document that it says was erased still is. `progress(done, total)` counts chain entries.
    """
    report = verify_chain(reader, progress=progress)
    if not report.intact:
        return f"the audit chain is broken at entry {report.first_bad}: compare with a backup"
    number = certificate.audit_number
    found = read_audit(reader, number - 1, 1) if number > 0 else []
    if not found:
        return (
            f"the audit chain ends before entry {number}: it is another registry, or one "
            "restored from an older backup, where the data must be erased again"
        )
    if found[0].hash.hex() != certificate.audit_hash:
        return (
            f"entry {number} of the audit chain differs: the certificate is from another "
            "registry, or this one was restored from a backup since"
        )
    make = _MAKERS.get(found[0].entry.action)
    if make is None or make(found[0]) != certificate:
        return f"the certificate was altered: entry {number} of the audit chain says otherwise"
    if isinstance(certificate, ErasureCertificate) and not _is_erased(reader, certificate):
        return "the document is no longer erased: erase it again"
    return None


def _is_erased(reader: Reader, certificate: ErasureCertificate) -> bool:
    record = reader.documents_by_id([certificate.document_id]).get(certificate.document_id)
    if record is None or record.is_erased or certificate.scope is ErasureScope.HOLDER:
        return record is not None and record.is_erased
    newest = reader.newest_references([record.id]).get(record.id, 0)
    return newest == 0 or newest > certificate.gallery_sequence


CONFIRMED = "clock.confirmed"
"""Action of the audit entry by which an operator vouches for the clock."""
MOST_SILENCE = timedelta(days=7)
"""The longest time without any audit entry that is taken as it is."""
MOST_BACKWARDS = timedelta(days=1)
"""So far the moment of an entry may lie before that of the one before it."""
MOST_SET = timedelta(hours=1)
"""By so much a clock may be set while a service runs."""
_ADVICE = (
    "nothing is deleted: set the clock right, then run "
    "`sosie retention confirm-clock DAY` with today's date"
)


Seen = tuple[int, datetime | None]
"""The number and moment of the last entry of the audit chain that was looked at."""


def check_clock(reader: Reader, now: datetime, seen: Seen | None = None) -> Seen:
    """`ClockImplausible` where the clock, or the entries since retention last ran, jumped.

    A run and a confirmation settle what lies before them. What was `seen` before is not read again.
    """
    if seen is None:
        newest = newest_of(reader, (RUN, CONFIRMED))
        seen = (0, None) if newest is None else (newest.number, newest.at)
    last, before = seen
    for number, at in read_moments(reader, last):
        if before is not None:
            _require_near(before, at, f"entry {number} of the audit chain")
        last, before = number, at
    if before is not None:
        _require_near(before, now, "this clock")
    return last, before


def find_clock_fault(reader: Reader, now: datetime) -> str | None:
    """The reason for which `check_clock` would refuse, in one line; None where it would not."""
    try:
        check_clock(reader, now)
    except ClockImplausible as error:
        return str(error)
    return None


def check_step(reader: Reader, expected: datetime, now: datetime, elapsed: timedelta) -> None:
    """`ClockImplausible` where the clock was set by more than an hour since it was last looked at.

    `expected` is that look's moment and the time that has `elapsed` since, which no setting of a
    clock changes.
    """
    if abs(now - expected) <= MOST_SET:
        return
    confirmed = newest_of(reader, (CONFIRMED,))
    if confirmed is not None and timedelta() <= now - confirmed.at <= elapsed + MOST_SET:
        return
    raise ClockImplausible(
        f"the clock was set from {_show(expected)} to {_show(now)} while the service ran; {_ADVICE}"
    )


def confirm_clock(store: Store, today: date, now: datetime, actor: str) -> None:
    """Has it on record that the clock is right, in the operator's own words of what day it is.

    `RequestError` where the clock says another day (UTC).
    """
    if now.astimezone(UTC).date() != today:
        raise RequestError(
            f"this machine's clock says {_show(now)} (UTC): set it right, or give today's date"
        )
    store.note(AuditEntry(actor, CONFIRMED, "clock", {"today": today.isoformat()}))


def _require_near(before: datetime, after: datetime, what: str) -> None:
    if -MOST_BACKWARDS <= after - before <= MOST_SILENCE:
        return
    raise ClockImplausible(
        f"{what} says {_show(after)}, and the entry before it {_show(before)}; {_ADVICE}"
    )


def _show(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
