"""Manager of sweeps: one at a time over an open deployment, in a thread of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from threading import Lock

from engine.matching.registrar import Runner
from engine.sweeps.estimate import ExpectedSweep, SweepOrder
from engine.sweeps.folder import SweepFolder
from schema.sweeps import SweepRecord, SweepState
from serving.deployment.deployment import Deployment
from serving.sweeps.sweep_states import ALIVE, SweepStates, plan_sweep
from serving.sweeps.sweep_views import SweepViews
from serving.sweeps.sweep_worker import SweepRun, perform_sweep, require_libraries
from serving.wire.sweeps import Group, GroupPage

MOST_STARTS = 3
"""A sweep that has started so often without progress is not started again automatically."""
_RUNNING = frozenset({SweepState.QUEUED, SweepState.RUNNING})
_PAUSED = frozenset({SweepState.PAUSED})


class SweepManager:
    """Plans, starts, reports and stops sweeps of a deployment whose registrar is open; thread-safe.

    `SweepBusy`: another sweep is alive. `SweepOver`: the state of the sweep does not allow the
    call. `NotFound`: no sweep has this id. Changes are made by `runner` where one is given, else by
    the registrar.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        # Before the gallery is used: acquiring the lease may replace it.
        self._states = SweepStates(deployment.store, deployment.registrar)
        self._reader = SweepViews.of(deployment)
        self._lock = Lock()
        self._run: SweepRun | None = None

    def open(self) -> None:
        """Continues the sweep that was running at a crash or stop."""
        self._clean()
        left = self.find_alive()
        if left is None or left.state not in _RUNNING:
            return
        if self._folder(left.id).load_status().starts < MOST_STARTS:
            self._launch(left)
            return
        fault = f"it ended {MOST_STARTS} times without progress: see the log, then resume it"
        self._states.move(
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
        self._states.require_none_alive()
        self._clean()
        expectation = self.plan(request)
        expectation.require_sound(request)
        detail = {
            **asdict(expectation.terms),
            "references": expectation.references,
            "is_supported": expectation.is_supported,
        }
        record = self._states.enter(expectation.terms, detail, actor, runner)
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
        moved = self._states.move(sweep_id, _PAUSED, SweepState.RUNNING, actor, runner=runner)
        self._launch(moved)
        return moved

    def find_alive(self) -> SweepRecord | None:
        """The sweep that has not ended, from the registry; None if all have."""
        return self._states.find_alive()

    @property
    def newest(self) -> SweepRecord | None:
        """The newest sweep with its current progress; does not read the registry."""
        newest = self._states.newest
        return None if newest is None else self._current(newest)

    def status(self, sweep_id: str) -> SweepRecord:
        """The sweep with its current progress."""
        return self._current(self._reader.status(sweep_id))

    def list(self, limit: int = 100) -> Sequence[SweepRecord]:
        """The newest sweeps, the newest first."""
        return [self._current(record) for record in self._reader.list(limit)]

    def groups(self, sweep_id: str, after: int = 0, limit: int = 100) -> GroupPage:
        """Groups of a completed sweep by rank, from the one after `after`."""
        return self._reader.groups(sweep_id, after, limit)

    def group(self, sweep_id: str, key: str) -> Group:
        """One group of a completed sweep, with as much of it as an answer carries."""
        return self._reader.group(sweep_id, key)

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

    def _folder(self, sweep_id: str) -> SweepFolder:
        return SweepFolder.of(self._deployment.sweep_folder, sweep_id)

    def _launch(self, record: SweepRecord) -> None:
        def perform(run: SweepRun) -> None:
            perform_sweep(self._deployment, self._states, run, record)

        with self._lock:
            self._run = SweepRun(record.id, self._folder(record.id), perform, after=self._run)
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
        moved = self._states.move(
            sweep_id,
            source,
            target,
            actor,
            runner=runner,
            change=lambda record: replace(record, progress=progress),
        )
        with self._lock:
            if self._run is not None and self._run.sweep_id == sweep_id:
                self._run.stop()
        return moved

    def _clean(self) -> None:
        """Removes unreadable files; a sweep that is still stopping removes its own."""
        run = self._run
        self._deployment.sweeps.clean(run.sweep_id if run is not None and run.is_alive else None)

    def _current(self, record: SweepRecord) -> SweepRecord:
        run = self._run
        if record.state in ALIVE and run is not None and run.sweep_id == record.id:
            return replace(record, progress=run.progress)
        return record
