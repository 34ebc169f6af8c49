"""States of sweeps in the registry: each change is one audited transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from engine.errors import SweepBusy, SweepOver
from engine.matching.registrar import Runner
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.store import Reader
from engine.registry.sweeps import SweepChange
from engine.registry.writer import Writer
from schema.sweeps import SweepRecord, SweepState, SweepTerms

ALIVE = frozenset({SweepState.QUEUED, SweepState.RUNNING, SweepState.PAUSED})
"""At most one sweep is in one of these."""
ITSELF = "sweep"
"""The actor of changes that a sweep makes itself."""


class SweepStates:
    """Changes the states of sweeps; `runner` makes the changes where no other is given."""

    def __init__(self, registry: Reader, runner: Runner) -> None:
        self._registry = registry
        self._runner = runner
        found = registry.sweeps.newest(1)
        self.newest = found[0] if found else None
        """As last written: the holder of the lease is the only writer."""

    def find_alive(self) -> SweepRecord | None:
        """The sweep that has not ended: always the newest."""
        newest = self._registry.sweeps.newest(1)
        return newest[0] if newest and newest[0].state in ALIVE else None

    def require_none_alive(self) -> None:
        """`SweepBusy`, naming the sweep that is alive."""
        alive = self.find_alive()
        if alive is not None:
            raise SweepBusy(
                f"sweep {alive.id} is {alive.state.value}, and one runs at a time: "
                "let it end, or cancel it"
            )

    def enter(
        self, terms: SweepTerms, detail: Mapping[str, Any], actor: str, runner: Runner | None = None
    ) -> SweepRecord:
        """Adds a running sweep; `SweepBusy` where another is alive."""

        def perform(writer: Writer, now: datetime) -> SweepRecord:
            # Inside the transaction, where nothing else is written.
            self.require_none_alive()
            record = SweepRecord(
                id=new_id(),
                state=SweepState.RUNNING,
                terms=terms,
                requested_by=actor,
                created_at=now,
                started_at=now,
            )
            entry = AuditEntry(actor, "sweep.started", record.id, detail)
            return self._commit(writer, record, entry)

        return (runner or self._runner).run(perform)

    def move(
        self,
        sweep_id: str,
        source: Collection[SweepState],
        target: SweepState,
        actor: str = ITSELF,
        *,
        runner: Runner | None = None,
        detail: Mapping[str, Any] | None = None,
        change: Callable[[SweepRecord], SweepRecord] = lambda record: record,
    ) -> SweepRecord:
        """Moves a sweep to `target`; `SweepOver` unless its state is in `source`, or `NotFound`."""

        def perform(writer: Writer, now: datetime) -> SweepRecord:
            record = self._registry.sweeps.get(sweep_id)
            if record.state not in source:
                raise SweepOver(
                    f"the sweep is {record.state.value}, and can't become {target.value}: "
                    f"that is for one that is {' or '.join(sorted(source))}"
                )
            ended_at = None if target in ALIVE else now
            fault = None if target is SweepState.RUNNING else record.fault
            moved = change(replace(record, state=target, ended_at=ended_at, fault=fault))
            entry = AuditEntry(actor, _ACTIONS[target], sweep_id, detail or {})
            return self._commit(writer, moved, entry)

        return (runner or self._runner).run(perform)

    def _commit(self, writer: Writer, record: SweepRecord, entry: AuditEntry) -> SweepRecord:
        writer.commit([entry, SweepChange(record)])
        self.newest = record
        return record


_ACTIONS = {
    SweepState.RUNNING: "sweep.resumed",
    SweepState.PAUSED: "sweep.paused",
    SweepState.DONE: "sweep.done",
    SweepState.CANCELLED: "sweep.cancelled",
    SweepState.FAILED: "sweep.failed",
}
