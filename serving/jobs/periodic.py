"""A job that the service does again and again, the clock that such jobs go by, and those of the
process that has the writer's lease: retention, acknowledged erasures, steps of lines."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from functools import partial
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from engine.errors import ClockImplausible, RequestError, SosieError, file_errors
from engine.lifecycle.campaigns import fill_campaigns
from engine.lifecycle.reverification import carry_out
from engine.lifecycle.rules import LineRules
from engine.matching.lines import expire_face
from engine.registry.audit import AuditEntry, newest_of
from engine.registry.database import utc_now
from engine.registry.events import ToldEvent
from engine.registry.retention import find_due
from engine.registry.rows import NewEvent
from engine.registry.store import Reader
from engine.registry.writer import ChangeRunner
from engine.retention.job import (
    Certificate,
    RetentionCertificate,
    Seen,
    check_clock,
    check_step,
    find_until,
    preview,
    run_retention,
)
from indexes.atomic_files import replacing
from schema.documents import ErasureCertificate
from schema.events import EventType
from schema.phases import Retained
from serving.deployment.deployment import Deployment, warn_on_stderr

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from serving.telemetry.metrics import Meter


class PeriodicJob(ABC):
    """Works again and again in a thread of its own, from `with` on until it is closed; no error
    ends it. `wake`, where it is set, brings the next call forward."""

    name: ClassVar[str]
    """Of the thread; a failure is logged as `<name>_failed`."""
    end_within_s: ClassVar[float | None] = None
    """So long closing waits for the call that is under way; None: until it is over."""

    def __init__(self, log: FilteringBoundLogger, wake: threading.Event | None = None) -> None:
        self._log = log
        self._wake = threading.Event() if wake is None else wake
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)

    @abstractmethod
    def _work(self) -> float:
        """Does what is due; the seconds until the next call."""

    @abstractmethod
    def _fail(self, error: Exception) -> float:
        """Tells of an error in `_work`; the seconds until the next call."""

    def _first_s(self) -> float | None:
        """The seconds until the first call; None where the settings ask for none at all."""
        return 0.0

    def _log_failure(self, error: Exception, **more: str) -> None:
        # By type and code alone: a text may hold anything.
        event = f"{self.name.replace('-', '_')}_failed"
        code = error.code if isinstance(error, SosieError) else "INTERNAL"
        self._log.warning(event, code=code, error=type(error).__name__, **more)

    def __enter__(self) -> Self:
        if (first_s := self._first_s()) is not None:
            self._pause_s = first_s
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends after the call that is under way."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(self.end_within_s)

    def _serve(self) -> None:
        while True:
            self._wake.wait(self._pause_s)
            # Before the work: what happens during it wakes the next call.
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self._pause_s = self._work()
            except Exception as error:  # noqa: BLE001 - the thread must outlive any of them
                self._pause_s = self._fail(error)


def name_error(error: Exception) -> str:
    """The name of an error for a log: its code, or the type of one that is not ours."""
    return error.code if isinstance(error, SosieError) else type(error).__name__


def read_elapsed_s() -> float:
    """Seconds that no setting of the clock changes; those of a suspended machine count."""
    return clock_gettime(CLOCK_BOOTTIME)


CLOCK_FILE = "clock.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ClockWatch:
    """The clock, as long as it may be believed since it was first looked at; kept in a file, a look
    outlives the service's start, not the machine's."""

    def __init__(
        self,
        source: Reader,
        file: Path | None = None,
        warn: Callable[[str], object] = warn_on_stderr,
        clock: Callable[[], datetime] = utc_now,
        elapsed_s: Callable[[], float] = read_elapsed_s,
    ) -> None:
        self._source, self._file, self._warn = source, file, warn
        self.now, self._elapsed_s = clock, elapsed_s
        self._seen: Seen | None = None
        self._kept: tuple[datetime, float] | None = None
        self._lock = threading.Lock()
        self._looked_at = self._read() or (clock(), elapsed_s())
        self._keep()

    @classmethod
    def of(cls, deployment: Deployment) -> Self:
        return cls(deployment.store, deployment.home / CLOCK_FILE, deployment.warn)

    def check(self) -> datetime:
        """The moment; `ClockImplausible` where the clock was set since the last look, or the audit
        chain contradicts it."""
        with self._lock:
            now, elapsed_s = self.now(), self._elapsed_s()
            looked_at, then_s = self._looked_at
            elapsed = timedelta(seconds=elapsed_s - then_s)
            check_step(self._source, looked_at + elapsed, now, elapsed)
            try:
                self._seen = check_clock(self._source, now, self._seen)
            except ClockImplausible:
                # Unless a confirmation that came since has settled it.
                self._seen = check_clock(self._source, now)
            self._looked_at = now, elapsed_s
            self._keep()
            return now

    def _read(self) -> tuple[datetime, float] | None:
        """The look that was kept, by this machine since its start."""
        if self._file is None:
            return None
        try:
            kept = json.loads(self._file.read_bytes())
            if kept["boot_id"] == _BOOT_ID.read_text().strip():
                at = datetime.fromisoformat(kept["at"]).astimezone(UTC)
                self._kept = at, float(kept["elapsed_s"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return self._kept

    def _keep(self) -> None:
        """Keeps the last look, where it says something new."""
        at, elapsed_s = self._looked_at
        if self._file is None:
            return
        if self._kept is not None and timedelta() <= at - self._kept[0] <= timedelta(hours=1):
            return
        try:
            kept = {"boot_id": _BOOT_ID.read_text().strip(), "at": at.isoformat()}
            with replacing(self._file) as beside:
                beside.write_text(json.dumps(kept | {"elapsed_s": elapsed_s}) + "\n")
        except OSError as error:
            self._warn(
                f"{self._file} cannot be written ({error.strerror}): until it can, a start "
                "by a wrong clock is not noticed"
            )
        self._kept = self._looked_at


EXPIRED = "sweep.expired"


def retire_sweeps(
    deployment: Deployment, runner: ChangeRunner, actor: str, now: datetime
) -> list[str]:
    """Deletes the files of sweeps whose time is over, and audits it; the ids of these sweeps."""
    expired = deployment.sweeps.expire(now)
    if expired:
        entries = tuple(AuditEntry(actor, EXPIRED, key) for key in expired)
        runner.run(lambda writer, _: writer.commit(entries))
    return expired


MOST_FACES = 100_000
"""So many that are due are erased in one run."""


def expire_faces(
    deployment: Deployment,
    actor: str,
    now: datetime,
    is_stopped: Callable[[], bool] = lambda: False,
) -> list[ErasureCertificate]:
    """Erases faces whose time is over and that no open case holds, each with a certificate; one
    that fails is due the next time, as in `Deployment.finish_erasures`."""
    store, schedule = deployment.store, deployment.settings.retention
    terms = find_until(schedule, now), schedule.hold

    def expire(key: str) -> ErasureCertificate | None:
        # Before sweeps' files lose it: a line may have come since all were looked for.
        if is_stopped() or not find_due(store, Retained.FACES, *terms, among=[key]):
            return None
        erase = partial(expire_face, deployment.registrar, store, key, actor, *terms)
        return deployment.remove_face(store.document(key), erase)

    due = find_due(store, Retained.FACES, *terms, limit=MOST_FACES) if schedule.faces_days else ()
    return deployment.erase_each(partial(expire, key) for key in due)


PERSONS_REACHED = "persons.reached"


def tell_persons(deployment: Deployment, actor: str) -> None:
    """Tells once that as many persons are stored as the rules of lines want to be filed."""
    store, runner, rules = deployment.store, deployment.registrar, deployment.line_rules
    persons, subject = len(runner.gallery), store.vault.deployment_id
    if 0 < rules.filing_persons <= persons and newest_of(store, [PERSONS_REACHED]) is None:
        told = {"persons": persons, "filing_persons": rules.filing_persons}
        event = ToldEvent(NewEvent(EventType.PERSONS_REACHED, subject, None, told))
        entry = AuditEntry(actor, PERSONS_REACHED, subject, told)
        runner.run(lambda writer, _: writer.commit((entry, event)))


ACTOR = "sosie:retention"
DAY = timedelta(days=1)
LOOK_AGAIN_S = 3600.0
SETTLE_S = 60.0
"""A service that has just started has better things to do."""


class DailyRetention(PeriodicJob):
    """Runs every day at the set time until it is closed, and makes up for a missed run; after each
    it calls `examine`. What cannot be done is logged, and tried the next day; by an implausible
    clock nothing is deleted, it is looked at every hour, and a metric says so."""

    name = "retention"

    def __init__(
        self,
        deployment: Deployment,
        log: FilteringBoundLogger,
        watch: ClockWatch,
        meter: Meter,
        examine: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(log)
        self._deployment, self._schedule = deployment, deployment.settings.retention
        self._watch, self._meter, self._examine = watch, meter, examine
        self._is_refused = False
        self._is_first = True

    def _first_s(self) -> float | None:
        return None if self._schedule.run_at is None else SETTLE_S

    def _work(self) -> float:
        is_first, self._is_first = self._is_first, False
        if not is_first or self._is_overdue():
            self._run()
        return self._next_s()

    def _fail(self, error: Exception) -> float:
        self._log_failure(error)
        return self._next_s()

    def _next_s(self) -> float:
        assert self._schedule.run_at is not None
        pause_s = seconds_until(self._schedule.run_at, self._watch.now())
        return min(pause_s, LOOK_AGAIN_S) if self._is_refused else pause_s

    def _is_overdue(self) -> bool:
        """True where something has stayed a day longer than it may: then a run was missed."""
        missed = preview(self._deployment.store, self._schedule, self._watch.now() - DAY)
        return any(due.rows for due in missed.values())

    def _run(self) -> None:
        # The command line has other parts of this module, and no metrics.
        from serving.telemetry import metrics  # noqa: PLC0415

        now = None
        try:
            now = self._watch.check()
        except ClockImplausible as error:
            # Its text has moments alone.
            self._log.error("retention_refused", code=error.code, reason=str(error))
        self._is_refused = now is None
        self._meter.set(metrics.RETENTION_REFUSED, self._is_refused)
        if now is None:
            return
        runner = self._deployment.registrar
        try:
            made = run_retention(
                runner, self._schedule, ACTOR, now=now, is_stopped=self._closing.is_set
            )
            retire_sweeps(self._deployment, runner, ACTOR, now)
            tell_persons(self._deployment, ACTOR)
            # What this run or an earlier one has removed is met no more. Those in memory are read
            # first: one that is added meanwhile is not among them.
            if self._schedule.watchlist_days:
                met = [*runner.watchlist.ids]
                kept = {one.id for one in self._deployment.store.watchlist()}
                for gone in {*met} - kept:
                    runner.watchlist.remove(gone)
        except Exception as error:  # noqa: BLE001 - the rows are examined in any case
            self._log_failure(error)
        else:
            self._log.info(
                "retention",
                job=made.job_id,
                rows=sum(made.left.values()),
                held=sum(made.held.values()),
                is_complete=made.is_complete,
            )
            for webhook_id, count in made.undelivered.items():
                self._log.warning("events_left_undelivered", webhook_id=webhook_id, count=count)
                self._meter.add(metrics.EVENTS_LEFT, by=count)
        self._examine()
        # Last: an error of one is told once nothing else waits for it.
        if faces := expire_faces(self._deployment, ACTOR, now, self._closing.is_set):
            self._log.info("faces_expired", documents=len(faces))


FINISH_EVERY_S = 60.0


class PendingErasures(PeriodicJob):
    """Does acknowledged erasures at the start, when `wake` is set (a case was closed), and every
    minute. What fails is logged, stays acknowledged and is tried again; `tell_overdue` hears of
    it."""

    name = "erasures"

    def __init__(
        self,
        deployment: Deployment,
        wake: threading.Event,
        log: FilteringBoundLogger,
        watch: ClockWatch,
        tell_overdue: Callable[[bool], object],
    ) -> None:
        super().__init__(log, wake)
        self._deployment, self._watch, self._tell_overdue = deployment, watch, tell_overdue

    def _work(self) -> float:
        done = self._deployment.finish_erasures(ACTOR, self._watch.check)
        self._tell_overdue(False)
        if done:
            self._log.info("erasures_finished", documents=len(done))
        return FINISH_EVERY_S

    def _fail(self, error: Exception) -> float:
        self._log_failure(error)
        self._tell_overdue(True)
        return FINISH_EVERY_S


LOOK_EVERY_S = 5.0
"""A step of a line is done so late at most, while the service runs."""


class LineSteps(PeriodicJob):
    """Does due steps of lines, and fills campaigns, every few seconds in batches until it is
    closed. Failures are logged and tried again; by an implausible clock nothing is done, and
    `tell_overdue` hears whether steps wait."""

    name = "line-steps"

    def __init__(
        self,
        runner: ChangeRunner,
        source: Reader,
        rules: LineRules,
        log: FilteringBoundLogger,
        watch: ClockWatch,
        tell_overdue: Callable[[bool], object] = lambda _: None,
    ) -> None:
        super().__init__(log)
        self._runner, self._source, self._rules = runner, source, rules
        self._watch, self._tell_overdue = watch, tell_overdue

    def _fail(self, error: Exception) -> float:
        told = {"reason": str(error)} if isinstance(error, ClockImplausible) else {}
        self._log_failure(error, **told)
        self._tell_overdue(True)
        return LOOK_EVERY_S

    def _work(self) -> float:
        # Steps first: to add a country's lines to a campaign takes hours.
        while not self._closing.is_set():
            self._do_due()
            if self._source.life.filling():
                # By a wrong clock a campaign would be over before its deadline.
                self._watch.check()
            if not fill_campaigns(self._runner, self._source, self._rules):
                break
        due = self._source.life.next_step_at()
        # Those of a damaged carrier or line were left out.
        self._tell_overdue(due is not None and due <= self._watch.now())
        return LOOK_EVERY_S

    def _do_due(self) -> None:
        due = self._source.life.next_step_at()
        if due is None or due > self._watch.now():
            return
        # A wrong clock would suspend everybody at once.
        now, done = self._watch.check(), 0
        while not self._closing.is_set():
            steps = carry_out(self._runner, self._source, self._rules, now=now)
            done += steps
            if not steps:
                break
        if done:
            self._log.info("line_steps", steps=done)


def seconds_until(at: time, now: datetime) -> float:
    """The time from now to that time of day (UTC), a day at most and never nothing."""
    now = now.astimezone(UTC)
    today = datetime.combine(now.date(), at, UTC)
    return ((today if today > now else today + DAY) - now).total_seconds()


MAX_BYTES = 64 * 1024


def write_certificate(made: Certificate) -> dict[str, Any]:
    """A certificate as JSON values, for a file of its own."""
    values: dict[str, Any] = msgspec.to_builtins(made)
    return values


def read_certificate(path: Path) -> Certificate:
    """The certificate in a file; `RequestError` where it has none."""
    with file_errors(f"{path} cannot be read"), path.open("rb") as file:
        data = file.read(MAX_BYTES)
    kinds: tuple[type[Certificate], ...] = (ErasureCertificate, RetentionCertificate)
    for kind in kinds:
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(data, type=kind)
    raise RequestError(
        f"{path} holds no certificate: give a file that `sosie erase --certificate` or "
        "`sosie retention run --certificate` has written"
    )
