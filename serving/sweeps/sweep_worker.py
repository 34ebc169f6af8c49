"""What the thread of a sweep does, and what becomes of the sweep when that goes wrong."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from importlib.util import find_spec
from time import monotonic

from engine.cases.sweep_cases import open_sweep_cases
from engine.errors import GalleryBehind, LeaseLost, NotInstalled, SosieError, StorageFailed
from engine.registry.records import utc_now
from engine.sweeps.clustering import vector_reader
from engine.sweeps.estimate import ProgressCount
from engine.sweeps.folder import SweepFolder, SweepStatus
from engine.sweeps.sweep_model import SweepRecord, SweepState
from engine.sweeps.sweep_run import SweepTask, run_sweep
from indexes.errors import ShardLost
from indexes.exact.scanner import Scanner
from indexes.joining.join import Progress
from serving.compose import Deployment
from serving.errors import describe
from serving.sweeps.planning import find_known
from serving.sweeps.sweep_states import ITSELF, SweepBook

# One sweep at work, in a thread of low priority, that can be told to stop.

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
        self.progress = folder.load_status().progress
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
        self.folder.save_status(SweepStatus(self.progress, self.spent_s, self._starts))

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
        kept = self.folder.load_status()
        self._spent_before_s, self._starts = kept.spent_s, kept.starts + 1
        self._keep()


_log = logging.getLogger(__name__)

_RUNNING = frozenset({SweepState.RUNNING})
_NOT_OURS = (LeaseLost, GalleryBehind, ShardLost)
"""The registry is to be opened again, and whoever opens it goes on with the sweep."""
_CURABLE = (OSError, StorageFailed, MemoryError)
"""Somebody can make room and resume it."""


def perform_sweep(
    deployment: Deployment, book: SweepBook, run: SweepRun, record: SweepRecord
) -> None:
    """Raises nothing: how it ended is in the registry."""
    try:
        run.begin()
        _sweep(deployment, book, run, record)
    except SweepStopped:
        _log.info("sweep %s has stopped", record.id)
    except _NOT_OURS as error:
        _log.warning("sweep %s waits for the registry (%s)", record.id, type(error).__name__)
    except Exception as error:  # noqa: BLE001 - whatever it is, people must see it
        _tell_failure(book, run, record, error)
    _tidy(deployment, run, record)


def require_libraries() -> None:
    """A service runs without what a sweep's files are written with; a sweep is refused."""
    if any(find_spec(name) is None for name in ("pyarrow", "jinja2")):
        raise NotInstalled(
            "a sweep writes its files with pyarrow and Jinja2, which are not installed here: "
            "pip install 'sosie[desk]'"
        )


def _sweep(deployment: Deployment, book: SweepBook, run: SweepRun, record: SweepRecord) -> None:
    # Not above: see `require_libraries`.
    from engine.sweeps.outputs import SweepCost, write_outputs  # noqa: PLC0415

    store, scope = deployment.store, record.terms.scope
    task = SweepTask(
        id=record.id,
        terms=record.terms,
        folder=run.folder,
        known=find_known(deployment.sweep_folder, scope, store.sweeps.last_done()),
    )
    with closing(Scanner(threads=deployment.settings.sweep.threads or None)) as scanner:
        join = deployment.joiner(scanner)
        read_vectors = vector_reader(deployment.restored.gallery)
        swept = run_sweep(
            task, join, store, read_vectors=read_vectors, progress=run.tell, check=run.check
        )
    cases = open_sweep_cases(deployment.registrar, store, record.id, swept.groups, ITSELF)
    run.check()
    account = SweepCost(
        comparisons=run.progress.comparisons_total,
        seconds=run.spent_s,
        pace=run.pace,
        at=utc_now(),
    )
    summary = write_outputs(swept, cases, account, store, deployment.calibration)
    done = book.move(
        record.id,
        _RUNNING,
        SweepState.DONE,
        detail={"pairs": len(swept.pairs), "groups": len(swept.groups)},
        change=lambda one: replace(
            one, sequence=swept.sequence, progress=run.progress, summary=summary
        ),
    )
    run.folder.drop_checkpoint()
    deployment.sweeps.erase_since(done)


def _tell_failure(book: SweepBook, run: SweepRun, record: SweepRecord, error: Exception) -> None:
    if isinstance(error, OSError):
        fault = f"its folder cannot be written ({error.strerror}): make room, then resume it"
    else:
        fault = describe(error).message
    target = SweepState.PAUSED if isinstance(error, _CURABLE) else SweepState.FAILED
    _log.error("sweep %s is %s (%s)", record.id, target.value, type(error).__name__)
    try:
        book.move(
            record.id,
            _RUNNING,
            target,
            detail={"error": type(error).__name__},
            change=lambda one: replace(one, fault=fault, progress=run.progress),
        )
    except SosieError as second:
        # Somebody has stopped it meanwhile, or the registry is gone: then it runs at the next open.
        _log.warning("sweep %s: that was not kept (%s)", record.id, type(second).__name__)


def _tidy(deployment: Deployment, run: SweepRun, record: SweepRecord) -> None:
    """Only a sweep that is done has something to read, and only one that is alive goes on."""
    try:
        state = deployment.store.sweeps.get(record.id).state
        if state in {SweepState.CANCELLED, SweepState.FAILED}:
            run.folder.remove()
        elif state is SweepState.PAUSED:
            run.folder.drop_outputs()
    except SosieError as error:
        _log.warning("sweep %s: its folder stays (%s)", record.id, type(error).__name__)
