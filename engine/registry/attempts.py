"""Reads the attempts that were made under a document: what was decided, not why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, func, select

from engine.registry import tables
from engine.registry.source import KEYS, Source

_enrollments = tables.enrollments
_RANKED = select(
    _enrollments.c.id,
    _enrollments.c.document_id,
    _enrollments.c.carrier,
    _enrollments.c.outlet,
    _enrollments.c.decision,
    _enrollments.c.reasons,
    _enrollments.c.created_at,
    func.row_number()
    .over(
        partition_by=_enrollments.c.document_id,
        order_by=(_enrollments.c.created_at.desc(), _enrollments.c.id.desc()),
    )
    .label("place"),
).where(_enrollments.c.document_id.in_(KEYS))
_newest = _RANKED.subquery()
_NEWEST_OF = (
    select(_newest)
    .where(_newest.c.place <= bindparam("most"))
    .order_by(_newest.c.document_id, _newest.c.place)
)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One enrollment in short; `Reader.enrollment` has its evidence."""

    id: str
    document_id: str
    carrier: str
    outlet: str
    decision: str
    reasons: tuple[str, ...]
    created_at: datetime


class AttemptReader(Source):
    """The enrollments of a deployment, by document."""

    def attempts_of(
        self, document_ids: Sequence[str], most: int = 20
    ) -> dict[str, list[AttemptRecord]]:
        """The `most` newest attempts under each document, newest first; none is left out."""
        found: dict[str, list[AttemptRecord]] = {key: [] for key in document_ids}
        for row in self._rows_of(_NEWEST_OF, document_ids, most=most):
            found[row.document_id].append(
                AttemptRecord(
                    row.id,
                    row.document_id,
                    row.carrier,
                    row.outlet,
                    row.decision,
                    tuple(row.reasons),
                    row.created_at,
                )
            )
        return found
