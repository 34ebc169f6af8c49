"""One sweep at a time over an opened deployment: in a thread beside the writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from threading import Lock
from typing import Any

from engine.matching.registrar import Runner
from engine.sweeps.estimate import Expectation, SweepRequest
from engine.sweeps.folder import SweepFolder
from engine.sweeps.sweep_model import SweepRecord, SweepState
from serving.compose import Deployment
from serving.sweeps.planning import plan_sweep
from serving.sweeps.sweep_states import ALIVE, SweepBook
from serving.sweeps.sweep_views import GroupPage, SweepShelf
from serving.sweeps.sweep_worker import SweepRun, perform_sweep, require_libraries

MOST_STARTS = 3
"""A sweep that has begun so often without getting on is not begun again by itself."""
_RUNNING = frozenset({SweepState.QUEUED, SweepState.RUNNING})
_PAUSED = frozenset({SweepState.PAUSED})


class SweepDesk:
    """Plans, starts, watches and stops sweeps of a deployment whose registrar is at work.

    Safe to use from many threads. `SweepBusy`: another sweep is alive. `SweepOver`: the sweep is
    not in a state for that. `NotFound`: there is none of this id. A change is made by `runner`
    where one is given, else by the registrar.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        # Before the gallery is looked at: taking the lease may bring another one.
        self._book = SweepBook(deployment.store, deployment.registrar)
        self._shelf = SweepShelf(deployment.store, deployment.sweep_folder)
        self._lock = Lock()
        self._run: SweepRun | None = None

    def open(self) -> None:
        """Goes on with the sweep that a crash or a stop has left running."""
        self._clean()
        left = self.find_alive()
        if left is None or left.state not in _RUNNING:
            return
        if self._folder(left.id).load_status().starts < MOST_STARTS:
            self._launch(left)
            return
        fault = f"it ended {MOST_STARTS} times without getting on: see the log, then resume it"
        self._book.move(
            left.id,
            _RUNNING,
            SweepState.PAUSED,
            detail={"cause": "starts"},
            change=lambda record: replace(record, fault=fault),
        )

    def plan(self, request: SweepRequest) -> Expectation:
        """What a sweep would cost and bring; changes nothing."""
        return plan_sweep(self._deployment, request)

    def start(self, request: SweepRequest, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Starts a sweep; `RateUnsupported` where its threshold, or any that would do, is beyond
        the calibration."""
        require_libraries()
        self._book.require_none_alive()
        self._clean()
        expectation = self.plan(request)
        expectation.require_sound(request)
        detail = {
            **asdict(expectation.terms),
            "references": expectation.references,
            "is_supported": expectation.is_supported,
        }
        record = self._book.enter(expectation.terms, detail, actor, runner)
        self._launch(record)
        return record

    def pause(self, sweep_id: str, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Stops it within a second or so; what it had made of a tile is made again when resumed."""
        return self._stop(sweep_id, _RUNNING, SweepState.PAUSED, actor, runner)

    def cancel(self, sweep_id: str, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Ends it, and removes what it has found."""
        moved = self._stop(sweep_id, ALIVE, SweepState.CANCELLED, actor, runner)
        self._clean()
        return moved

    def resume(self, sweep_id: str, actor: str, runner: Runner | None = None) -> SweepRecord:
        """Goes on with a paused sweep, at the tile where it was."""
        moved = self._book.move(sweep_id, _PAUSED, SweepState.RUNNING, actor, runner=runner)
        self._launch(moved)
        return moved

    def find_alive(self) -> SweepRecord | None:
        """The sweep that has not ended, as the registry knows it."""
        return self._book.find_alive()

    @property
    def newest(self) -> SweepRecord | None:
        """The newest sweep with its progress of this moment; asks the registry nothing."""
        newest = self._book.newest
        return None if newest is None else self._current(newest)

    def status(self, sweep_id: str) -> SweepRecord:
        """The sweep with its progress of this moment."""
        return self._current(self._shelf.status(sweep_id))

    def list(self, limit: int = 100) -> Sequence[SweepRecord]:
        """The newest sweeps, the newest first."""
        return [self._current(record) for record in self._shelf.list(limit)]

    def groups(self, sweep_id: str, after: int = 0, limit: int = 100) -> GroupPage:
        """Groups of a done sweep by rank, those that follow the place `after`."""
        return self._shelf.groups(sweep_id, after, limit)

    def group(self, sweep_id: str, key: str) -> dict[str, Any]:
        """One group of a done sweep, with its members and links."""
        return self._shelf.group(sweep_id, key)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until no sweep is at work; False where one still is."""
        run = self._run
        if run is not None:
            run.join(timeout_s)
        return run is None or not run.is_alive

    def close(self) -> None:
        """Stops the one at work; the next `open` goes on after its last whole tile."""
        run = self._run
        if run is not None:
            run.stop()
            run.join()

    def _folder(self, sweep_id: str) -> SweepFolder:
        return SweepFolder.of(self._deployment.sweep_folder, sweep_id)

    def _launch(self, record: SweepRecord) -> None:
        def perform(run: SweepRun) -> None:
            perform_sweep(self._deployment, self._book, run, record)

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
        """First in the registry: a crash before the run has stopped must not begin it again."""
        progress = self.status(sweep_id).progress
        moved = self._book.move(
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
        """Removes what nobody can read any more; a sweep that is stopping still does so itself."""
        run = self._run
        self._deployment.sweeps.clean(run.sweep_id if run is not None and run.is_alive else None)

    def _current(self, record: SweepRecord) -> SweepRecord:
        run = self._run
        if record.state in ALIVE and run is not None and run.sweep_id == record.id:
            return replace(record, progress=run.progress)
        return record
