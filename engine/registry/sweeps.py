"""Sweeps as the registry keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from engine.errors import NotFound
from engine.registry.casetables import sweeps
from engine.registry.database import reading
from engine.registry.records import is_id
from engine.registry.source import Source
from engine.sweeps.model import Scope, SweepProgress, SweepRecord, SweepState, SweepTerms

_SWEEP = select(sweeps).where(sweeps.c.id == bindparam("id"))
_NEWEST = select(sweeps).order_by(sweeps.c.created_at.desc(), sweeps.c.id.desc())
_LAST_DONE = (
    select(sweeps)
    .where(sweeps.c.state == SweepState.DONE.value)
    .order_by(sweeps.c.ended_at.desc(), sweeps.c.id.desc())
    .limit(1)
)
_REPLACE = (
    update(sweeps)
    .where(sweeps.c.id == bindparam("key"))
    .values({column.name: bindparam(f"new_{column.name}") for column in sweeps.columns})
)


class SweepReader(Source):
    """The sweeps of a deployment."""

    def sweep(self, sweep_id: str) -> SweepRecord:
        """One sweep; `NotFound` if there is none."""
        row = None
        if is_id(sweep_id):
            with reading(self._engine) as connection:
                row = connection.execute(_SWEEP, {"id": sweep_id}).one_or_none()
        if row is None:
            raise NotFound("no sweep has this id: see `sosie sweep list`")
        return _sweep_of(row)

    def sweeps(self, limit: int = 100) -> list[SweepRecord]:
        """The newest sweeps, the newest first."""
        with reading(self._engine) as connection:
            return [_sweep_of(row) for row in connection.execute(_NEWEST.limit(limit))]

    def last_done_sweep(self) -> SweepRecord | None:
        """The one that was done last; `None` where none was."""
        with reading(self._engine) as connection:
            row = connection.execute(_LAST_DONE).one_or_none()
        return None if row is None else _sweep_of(row)


def write_sweeps(connection: Connection, records: Sequence[SweepRecord]) -> None:
    """Enters each sweep, in place of what was known of it before."""
    for record in records:
        values = _sweep_row(record)
        known = {"key": record.id, **{f"new_{name}": value for name, value in values.items()}}
        if connection.execute(_REPLACE, known).rowcount == 0:
            connection.execute(insert(sweeps), values)


def _sweep_of(row: Row[Any]) -> SweepRecord:
    terms, progress = row.terms, row.progress
    return SweepRecord(
        **{
            **row._asdict(),
            "state": SweepState(row.state),
            "terms": SweepTerms(**{**terms, "scope": Scope(terms["scope"])}),
            "progress": SweepProgress(**progress),
        }
    )


def _sweep_row(record: SweepRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state.value,
        "terms": {"threshold": float(record.terms.threshold), "scope": record.terms.scope.value},
        "requested_by": record.requested_by,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "sequence": record.sequence,
        "progress": asdict(record.progress),
        "summary": None if record.summary is None else dict(record.summary),
        "fault": record.fault,
    }
