"""One sweep at work, in a thread of low priority, that can be told to stop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from engine.sweeps.folder import Standing, SweepFolder
from engine.sweeps.pace import ProgressCount
from indexes.joining.join import Progress

NICENESS = 10
"""Of the threads of a sweep: whoever decides or searches goes first."""


class SweepStopped(Exception):
    """Whoever told it to has said what becomes of the sweep."""


class SweepRun:
    """The thread of one sweep, from its beginning to its end, its being stopped or its failure.

    `perform` does the work; it is given this run, which it tells when it begins and how far it is,
    and asks whether to go on. `after` is the run before it, whose thread may be ending still.
    """

    def __init__(
        self,
        sweep_id: str,
        folder: SweepFolder,
        perform: Callable[[SweepRun], None],
        after: SweepRun | None = None,
    ) -> None:
        self.sweep_id = sweep_id
        self.folder = folder
        self._perform = perform
        self._after = after
        self._stopping = threading.Event()
        self._count = ProgressCount()
        self._begun = monotonic()
        self._spent_before_s, self._starts = 0.0, 0
        self._has_told = False
        self.progress = folder.standing().progress
        self._thread = threading.Thread(target=self._work, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def spent_s(self) -> float:
        """What all runs of the sweep have taken."""
        return self._spent_before_s + monotonic() - self._begun

    @property
    def pace(self) -> float | None:
        """Comparisons a second of this run, as far as it has measured them."""
        return self._count.pace

    def stop(self) -> None:
        """Within a second or so: at the next `check`."""
        self._stopping.set()

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    def check(self) -> None:
        """Raises `SweepStopped` once it was told to stop."""
        if self._stopping.is_set():
            raise SweepStopped

    def tell(self, progress: Progress) -> None:
        """After each tile: keeps how far it is, and stops here if it was told to."""
        if self._has_told:
            self._starts = 0
        self._has_told = True
        self.progress = self._count.count(progress)
        self._keep()
        self.check()

    def _keep(self) -> None:
        self.folder.keep_standing(Standing(self.progress, self.spent_s, self._starts))

    def _work(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None
        with suppress(OSError):  # it works without
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._begun = monotonic()
        self._perform(self)

    def begin(self) -> None:
        """Makes the folder, and counts this start before anything can go wrong."""
        self.folder.make()
        kept = self.folder.standing()
        self._spent_before_s, self._starts = kept.spent_s, kept.starts + 1
        self._keep()
