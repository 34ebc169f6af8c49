"""A job that the service does again and again, and the clock that such jobs go by."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import TYPE_CHECKING, ClassVar, Self

from engine.atomic_files import replacing
from engine.errors import ClockImplausible, SosieError
from engine.registry.database import utc_now
from engine.registry.store import Reader
from engine.retention.job import Seen, check_clock, check_step
from serving.deployment.deployment import Deployment, warn_on_stderr

if TYPE_CHECKING:
    # Commands write certificates without the service's packages.
    from structlog.typing import FilteringBoundLogger


class PeriodicJob(ABC):
    """Works again and again in a thread of its own, from `with` on until it is closed; no error
    ends it.

    `wake`, where it is set, brings the next call forward.
    """

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
