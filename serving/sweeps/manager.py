"""Manager of sweeps: one at a time over an open deployment, in a thread of its own."""

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, replace
from importlib.util import find_spec
from threading import Lock
from time import monotonic
from typing import Any, Self

from engine.cases.decided import open_sweep_cases
from engine.errors import (
    GalleryBehind,
    LeaseLost,
    NotInstalled,
    RegistryError,
    SosieError,
    StorageFailed,
    advise_extra,
)
from engine.matching.registrar import Runner
from engine.registry.database import utc_now
from engine.sweeps.estimate import ExpectedSweep, ProgressCount, SweepOrder
from engine.sweeps.folder import SweepFolder, SweepStatus
from engine.sweeps.sweep_run import SweepTask, run_sweep
from indexes.errors import ShardLost
from indexes.exact.device import open_scanner
from indexes.joining.join import Progress
from schema.decisions import Comparison
from schema.sweeps import SweepRecord, SweepState
from serving.deployment.deployment import Deployment
from serving.errors import describe
from serving.sweeps.sweep_views import (
    ALIVE,
    ITSELF,
    SweepStates,
    SweepViews,
    find_known,
    is_converted,
    plan_sweep,
)

NICENESS = 10
"""Niceness of the threads of a sweep: decisions and searches go first."""


class SweepStopped(Exception):
    """The sweep was asked to stop; the caller has set its new state."""


_log = logging.getLogger(__name__)

_AT_WORK = frozenset({SweepState.RUNNING})
_LEFT_TO_REOPENING = (LeaseLost, GalleryBehind, ShardLost)
"""The registry must be opened again, which continues the sweep."""
_RESUMABLE = (OSError, StorageFailed, MemoryError)
"""An operator can make room and resume it."""


class SweepRun:
    """The thread of one sweep, from its start to its end, stop or failure; raises nothing, for the
    registry has the outcome. `after` is the previous run, which may still be ending."""

    def __init__(
        self,
        deployment: Deployment,
        states: SweepStates,
        record: SweepRecord,
        after: Self | None = None,
    ) -> None:
        self.record = record
        self._deployment = deployment
        self._states = states
        self.folder = SweepFolder.of(deployment.sweep_folder, record.id)
        self._after = after
        self._stopping = threading.Event()
        self._count = ProgressCount()
        self._begun = monotonic()
        self._spent_before_s, self._starts = 0.0, 0
        self._has_reported = False
        self.progress = self.folder.load_status().progress
        self._thread = threading.Thread(target=self._work, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stops within about a second, at the next `_check`."""
        self._stopping.set()

    def join(self, timeout_s: float | None = None) -> None:
        self._thread.join(timeout_s)

    def _check(self) -> None:
        """Raises `SweepStopped` after `stop`."""
        if self._stopping.is_set():
            raise SweepStopped

    def _report(self, progress: Progress) -> None:
        """Saves the progress after each tile; raises `SweepStopped` after `stop`."""
        if self._has_reported:
            self._starts = 0
        self._has_reported = True
        self.progress = self._count.count(progress)
        self._keep()
        self._check()

    @property
    def _spent_s(self) -> float:
        """Seconds of all runs of the sweep."""
        return self._spent_before_s + monotonic() - self._begun

    def _keep(self) -> None:
        self.folder.save_status(SweepStatus(self.progress, self._spent_s, self._starts))

    def _work(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None
        with suppress(OSError):  # it works without
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._begun = monotonic()
        try:
            self._begin()
            self._sweep()
        except SweepStopped:
            _log.info("sweep %s has stopped", self.record.id)
        except _LEFT_TO_REOPENING as error:
            reason = type(error).__name__
            _log.warning("sweep %s waits for the registry (%s)", self.record.id, reason)
        except Exception as error:  # noqa: BLE001 - any failure must be visible
            self._record_failure(error)
        self._clean()

    def _begin(self) -> None:
        """Makes the folder, and counts this start before anything can fail."""
        self.folder.make()
        kept = self.folder.load_status()
        self._spent_before_s, self._starts = kept.spent_s, kept.starts + 1
        self._keep()

    def _sweep(self) -> None:
        # Not above: see `require_libraries`.
        from engine.sweeps.outputs import SweepCost, write_outputs  # noqa: PLC0415

        deployment, record = self._deployment, self.record
        store, settings = deployment.store, deployment.settings
        if is_converted(deployment, record):
            raise RegistryError(
                "references were converted to another model since it began: start another sweep"
            )
        is_whole = record.terms.budget is None
        last = store.sweeps.last_done()
        known = find_known(deployment, record.terms.scope, last, is_whole=is_whole)
        task = SweepTask(id=record.id, terms=record.terms, folder=self.folder, known=known)
        threads = settings.sweep.threads or None
        with closing(open_scanner(settings.gallery.device, threads)) as scanner:
            swept = run_sweep(
                task,
                deployment.snapshots.joiner(deployment.restored.gallery, scanner),
                store,
                read_vectors=deployment.restored.gallery.held,
                curve=deployment.calibration.curve(Comparison.FUSED),
                progress=self._report,
                check=self._check,
            )
        cases = open_sweep_cases(deployment.registrar, store, record.id, swept.groups, ITSELF)
        self._check()
        compared, pace = self.progress.comparisons_total, self._count.pace
        cost = SweepCost(comparisons=compared, seconds=self._spent_s, pace=pace, at=utc_now())
        console = settings.serve.console_url
        summary = write_outputs(swept, cases, cost, store, deployment.calibration, console)
        detail: dict[str, Any] = {"pairs": len(swept.pairs), "groups": len(swept.groups)}
        if swept.ranking is not None:
            # Whose names and numbers were looked at is not said, but that they were.
            detail["documents_opened"] = swept.ranking.opened
        found = {"sequence": swept.sequence, "progress": self.progress, "summary": summary}
        # An erasure finds it done, and changes its files, or has ended before `finish` looks.
        with deployment.erasing:
            deployment.sweeps.finish(self._move(SweepState.DONE, detail, **found))

    def _move(self, target: SweepState, detail: Mapping[str, Any], **found: Any) -> SweepRecord:
        def change(record: SweepRecord) -> SweepRecord:
            return replace(record, **found)

        return self._states.move(self.record.id, _AT_WORK, target, detail=detail, change=change)

    def _record_failure(self, error: Exception) -> None:
        if isinstance(error, OSError):
            fault = f"its folder cannot be written ({error.strerror}): make room, then resume it"
        else:
            fault = describe(error).message
        target = SweepState.PAUSED if isinstance(error, _RESUMABLE) else SweepState.FAILED
        reason = type(error).__name__
        _log.error("sweep %s is %s (%s)", self.record.id, target.value, reason)
        try:
            self._move(target, {"error": reason}, fault=fault, progress=self.progress)
        except SosieError as second:
            # It was stopped meanwhile, or the registry is gone: then it runs at the next open.
            reason = type(second).__name__
            _log.warning("sweep %s: that was not kept (%s)", self.record.id, reason)

    def _clean(self) -> None:
        """Removes files that nothing will read, as the results of a sweep that is not done."""
        try:
            state = self._deployment.store.sweeps.get(self.record.id).state
            if state in {SweepState.CANCELLED, SweepState.FAILED}:
                self.folder.remove()
            elif state is SweepState.PAUSED:
                self.folder.drop_outputs()
        except SosieError as error:
            _log.warning("sweep %s: its folder stays (%s)", self.record.id, type(error).__name__)


def require_libraries(budget: int | None = None) -> None:
    """`NotInstalled` without pyarrow, for a sweep's files, and matplotlib, for its report, or with
    a budget rapidfuzz, for names; the service runs without them."""
    for library in ("pyarrow", "matplotlib", *(("rapidfuzz",) if budget is not None else ())):
        if find_spec(library) is None:
            raise NotInstalled(
                f"the sweep needs {library}, which is not installed here: {advise_extra('desk')}"
            )


MOST_STARTS = 3
"""A sweep that has started so often without progress is not started again automatically."""
_RUNNING = frozenset({SweepState.QUEUED, SweepState.RUNNING})
_PAUSED = frozenset({SweepState.PAUSED})


class SweepManager:
    """Plans, starts, reports and stops sweeps of a deployment whose registrar is open; thread-safe.
    `SweepBusy` where another is alive, `SweepOver` where its state does not allow the call,
    `NotFound`. Changes are made by `runner`, else by the registrar."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        # Before the gallery is used: acquiring the lease may replace it.
        self.states = SweepStates(deployment.store, deployment.registrar)
        self.views = SweepViews.of(deployment)
        self._lock = Lock()
        self._run: SweepRun | None = None

    def open(self) -> None:
        """Continues the sweep that was running at a crash or stop."""
        self._clean()
        left = self.states.find_alive()
        if left is None or left.state not in _RUNNING:
            return
        folder = SweepFolder.of(self._deployment.sweep_folder, left.id)
        if folder.load_status().starts < MOST_STARTS:
            self._launch(left)
            return
        fault = f"it ended {MOST_STARTS} times without progress: see the log, then resume it"
        self.states.move(
            left.id,
            _RUNNING,
            SweepState.PAUSED,
            detail={"cause": "starts"},
            change=lambda record: replace(record, fault=fault),
        )
        self._clean()

    def plan(self, request: SweepOrder) -> ExpectedSweep:
        """Expected cost and result of a sweep; changes nothing."""
        return plan_sweep(self._deployment, request)

    def start(self, request: SweepOrder, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Starts a sweep; `RateUnsupported` if the calibration does not support its threshold."""
        require_libraries(request.budget)
        self.states.require_none_alive()
        self._clean()
        expectation = self.plan(request)
        expectation.require_sound(request)
        detail = {
            **asdict(expectation.terms),
            "references": expectation.references,
            "is_supported": expectation.is_supported,
        }
        record = self.states.enter(expectation.terms, detail, actor, runner)
        self._launch(record)
        return record

    def pause(self, sweep_id: str, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Stops it within about a second; resuming repeats the unfinished tile."""
        return self._stop(sweep_id, _RUNNING, SweepState.PAUSED, actor, runner)

    def cancel(self, sweep_id: str, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Ends it, and removes its results."""
        moved = self._stop(sweep_id, ALIVE, SweepState.CANCELLED, actor, runner)
        self._clean()
        return moved

    def resume(self, sweep_id: str, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Continues a paused sweep at its last tile."""
        moved = self.states.move(sweep_id, _PAUSED, SweepState.RUNNING, actor, runner=runner)
        self._launch(moved)
        return moved

    @property
    def newest(self) -> SweepRecord | None:
        """The newest sweep with its current progress; does not read the registry."""
        newest = self.states.newest
        return None if newest is None else self._current(newest)

    def status(self, sweep_id: str) -> SweepRecord:
        """The sweep with its current progress."""
        return self._current(self.views.status(sweep_id))

    def list(self, limit: int = 100) -> Sequence[SweepRecord]:
        """The newest sweeps, the newest first."""
        return [self._current(record) for record in self.views.list(limit)]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until no sweep is running; False after the timeout."""
        run = self._run
        if run is not None:
            run.join(timeout_s)
        return run is None or not run.is_alive

    def close(self) -> None:
        """Stops the running sweep; the next `open` continues after its last whole tile."""
        run = self._run
        if run is not None:
            run.stop()
            run.join()

    def _launch(self, record: SweepRecord) -> None:
        with self._lock:
            self._run = SweepRun(self._deployment, self.states, record, after=self._run)
            self._run.start()

    def _stop(
        self,
        sweep_id: str,
        source: frozenset[SweepState],
        target: SweepState,
        actor: str,
        runner: Runner | None,
    ) -> SweepRecord:
        """Registry first: after a crash before the run stops, the sweep must not start again."""
        progress = self.status(sweep_id).progress
        moved = self.states.move(
            sweep_id,
            source,
            target,
            actor,
            runner=runner,
            change=lambda record: replace(record, progress=progress),
        )
        with self._lock:
            if self._run is not None and self._run.record.id == sweep_id:
                self._run.stop()
        return moved

    def _clean(self) -> None:
        """Removes unreadable files; a sweep that is still stopping removes its own."""
        run = self._run
        self._deployment.sweeps.clean(run.record.id if run is not None and run.is_alive else None)

    def _current(self, record: SweepRecord) -> SweepRecord:
        run = self._run
        if record.state in ALIVE and run is not None and run.record.id == record.id:
            return replace(record, progress=run.progress)
        return record
