"""Retention by itself: once a day, in a thread of the process that has the writer's lease."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta
from functools import partial
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter, ValidationError

from engine.atomic_files import replacing
from engine.errors import ClockImplausible, RequestError, SosieError
from engine.matching.holders import ErasureCertificate
from engine.matching.limits import ChangeRunner
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, Changes, utc_now
from engine.retention.certificates import Certificate
from engine.retention.clock import Seen, check_clock, check_step
from engine.retention.job import RetentionCertificate, Schedule, preview, run_retention
from serving.deployment.deployment import Deployment, read_schedule, read_time, warn_on_stderr

if TYPE_CHECKING:
    # Commands write certificates without the service's packages.
    from structlog.typing import FilteringBoundLogger

EXPIRED = "sweep.expired"


def retire_sweeps(
    deployment: Deployment, runner: ChangeRunner, actor: str, now: datetime
) -> list[str]:
    """Deletes the files of sweeps whose time is over, and audits it; the ids of these sweeps."""
    expired = deployment.sweeps.expire(now)
    if expired:
        entries = tuple(AuditEntry(actor, EXPIRED, key) for key in expired)
        runner.run(
            lambda writer, _: writer.commit(Changes(sequence=writer.sequence, audit=entries))
        )
    return expired


def read_elapsed_s() -> float:
    """Seconds that no setting of the clock changes; those of a suspended machine count."""
    return clock_gettime(CLOCK_BOOTTIME)


CLOCK_FILE = "clock.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_KEEP_EVERY = timedelta(hours=1)


class ClockWatch:
    """The clock, as long as it may be believed: it was first looked at when this was made.

    Kept in a file, a look holds for a service that is started again, while the machine was not.
    """

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
        if self._kept is not None and timedelta() <= at - self._kept[0] <= _KEEP_EVERY:
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


ACTOR = "sosie:retention"
DAY = timedelta(days=1)
LOOK_AGAIN_S = 3600.0
SETTLE_S = 60.0
"""A service that has just started has better things to do."""


class DailyRetention:
    """Runs every day at the set time until it is closed; a run that was missed is made up for.

    Nothing of it fails the service: what cannot be done is logged, and tried again the next day. A
    clock that cannot be right is looked at again every hour, and nothing is deleted until then;
    `tell_refusal` hears whether that is so.
    """

    def __init__(
        self,
        runner: ChangeRunner,
        source: Reader,
        schedule: Schedule,
        at: time | None,
        log: FilteringBoundLogger,
        *,
        settle_s: float,
        watch: ClockWatch,
        also: Callable[[datetime], object] = lambda _: None,
        tell_refusal: Callable[[bool], object] = lambda _: None,
        examine: Callable[[], object] = lambda: None,
        tell_left: Callable[..., object] = lambda **_: None,
    ) -> None:
        self._runner = runner
        self._source = source
        self._schedule = schedule
        self._log = log
        self._watch = watch
        self._settle_s = settle_s
        self._also, self._examine, self._tell_left = also, examine, tell_left
        self._tell_refusal = tell_refusal
        self._is_refused = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if at is not None:
            self._thread = threading.Thread(
                target=self._serve, args=(at,), name="retention", daemon=True
            )
            self._thread.start()

    @classmethod
    def of(
        cls,
        deployment: Deployment,
        log: FilteringBoundLogger,
        watch: ClockWatch,
        tell_refusal: Callable[[bool], object],
        examine: Callable[[], object],
        tell_left: Callable[..., object],
    ) -> Self:
        """By a deployment's settings, on its registrar; `examine` is called after each run, and
        `tell_left` with the number `by` of events that left before a webhook took them."""
        settings = deployment.settings.retention
        return cls(
            deployment.registrar,
            deployment.store,
            read_schedule(settings),
            read_time(settings),
            log,
            settle_s=SETTLE_S,
            watch=watch,
            tell_refusal=tell_refusal,
            also=partial(retire_sweeps, deployment, deployment.registrar, ACTOR),
            examine=examine,
            tell_left=tell_left,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends after the batch that is being worked on."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _serve(self, at: time) -> None:
        if self._closing.wait(self._settle_s):
            return
        if self._is_overdue():
            self._run()
        while not self._closing.wait(self._pause_s(at)):
            self._run()

    def _pause_s(self, at: time) -> float:
        pause_s = seconds_until(at, self._watch.now())
        return min(pause_s, LOOK_AGAIN_S) if self._is_refused else pause_s

    def _is_overdue(self) -> bool:
        """Whether something has stayed a day longer than it may: then a run was missed."""
        try:
            missed = preview(self._source, self._schedule, self._watch.now() - DAY)
        except Exception as error:  # noqa: BLE001 - the thread must outlive any of them
            self._tell_failure(error)
            return False
        return any(due.rows for due in missed.values())

    def _run(self) -> None:
        try:
            now = self._watch.check()
        except ClockImplausible as error:
            # Its text has moments alone.
            self._log.error("retention_refused", code=error.code, reason=str(error))
            self._set_refused(True)
            return
        except Exception as error:  # noqa: BLE001 - the thread must outlive any of them
            self._tell_failure(error)
            return
        self._set_refused(False)
        try:
            made = run_retention(
                self._runner, self._schedule, ACTOR, now=now, is_stopped=self._closing.is_set
            )
            self._also(now)
        except Exception as error:  # noqa: BLE001 - as above
            self._tell_failure(error)
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
                self._tell_left(by=count)
        try:
            self._examine()
        except Exception as error:  # noqa: BLE001 - as above
            self._tell_failure(error)

    def _set_refused(self, is_refused: bool) -> None:
        self._is_refused = is_refused
        self._tell_refusal(is_refused)

    def _tell_failure(self, error: Exception) -> None:
        # By type and code alone: a text may hold anything.
        code = error.code if isinstance(error, SosieError) else "INTERNAL"
        self._log.warning("retention_failed", code=code, error=type(error).__name__)


FINISH_EVERY_S = 60.0


class PendingErasures:
    """Does the erasures that were acknowledged, in a thread of its own until it is closed: at the
    start, when `wake` is set, as after the closing of a case, and every minute.

    What cannot be done is logged, stays acknowledged, and is tried again; `tell_overdue` hears
    whether that is so.
    """

    def __init__(
        self,
        deployment: Deployment,
        wake: threading.Event,
        log: FilteringBoundLogger,
        watch: ClockWatch,
        tell_overdue: Callable[[bool], object],
    ) -> None:
        self._deployment, self._wake, self._log, self._watch = deployment, wake, log, watch
        self._tell_overdue = tell_overdue
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="erasures", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._closing.is_set():
            # Before the look: a case that is closed during it wakes the next.
            self._wake.clear()
            try:
                done = self._deployment.finish_erasures(ACTOR, self._watch.check)
                self._tell_overdue(False)
            except Exception as error:  # noqa: BLE001 - the thread must outlive any of them
                code = error.code if isinstance(error, SosieError) else "INTERNAL"
                self._log.warning("erasures_failed", code=code, error=type(error).__name__)
                self._tell_overdue(True)
            else:
                if done:
                    self._log.info("erasures_finished", documents=len(done))
            if not self._closing.is_set():
                self._wake.wait(FINISH_EVERY_S)


def seconds_until(at: time, now: datetime) -> float:
    """How long it is from now to that time (UTC), a day at most and never nothing."""
    now = now.astimezone(UTC)
    today = datetime.combine(now.date(), at, UTC)
    return ((today if today > now else today + DAY) - now).total_seconds()


MAX_BYTES = 64 * 1024
_KINDS = (TypeAdapter(ErasureCertificate), TypeAdapter(RetentionCertificate))


def write_certificate(made: Certificate) -> dict[str, Any]:
    """A certificate as JSON values, for a file of its own."""
    values: dict[str, Any] = _plain(asdict(made))
    return values


def save_certificate(target: Path, values: dict[str, Any]) -> None:
    """Writes a certificate's file; `OSError` where that fails."""
    target.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_certificate(path: Path) -> Certificate:
    """The certificate in a file; `RequestError` where it has none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    for kind in _KINDS:
        try:
            found: Certificate = kind.validate_json(data, strict=False)
        except ValidationError:
            continue
        return found
    raise RequestError(
        f"{path} holds no certificate: give a file that `sosie erase --certificate` or "
        "`sosie retention run --certificate` has written"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value.isoformat() if isinstance(value, datetime) else value
