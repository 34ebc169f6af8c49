"""Pairs of documents that people have judged."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select

from engine.casework.model import Outcome
from engine.registry.casefile import JudgedPair
from engine.registry.casetables import judged_pairs
from engine.registry.database import reading
from engine.registry.source import Source

EXCEPTIONS = frozenset({Outcome.TWINS, Outcome.MISTAKE})
"""What later sweeps respect: these two documents are two people, or one with good reason."""

_PAIRS = select(judged_pairs).order_by(judged_pairs.c.left_document, judged_pairs.c.right_document)
_DOCUMENTS = select(judged_pairs.c.left_document, judged_pairs.c.right_document)
_FORGET = (
    delete(judged_pairs)
    .where(judged_pairs.c.left_document == bindparam("left_document"))
    .where(judged_pairs.c.right_document == bindparam("right_document"))
)


class JudgedReader(Source):
    """What people said of pairs."""

    def judged_pairs(self, outcomes: Collection[Outcome] | None = None) -> list[JudgedPair]:
        """Every judged pair, or those with one of these outcomes; by document."""
        query = _PAIRS
        if outcomes is not None:
            query = query.where(judged_pairs.c.outcome.in_([one.value for one in outcomes]))
        with reading(self._engine) as connection:
            return [
                JudgedPair(**{**row._asdict(), "outcome": Outcome(row.outcome)})
                for row in connection.execute(query)
            ]

    def exceptions(self) -> set[tuple[str, str]]:
        """The pairs (left, right) that were judged twins or a mistake."""
        return self._pairs(EXCEPTIONS)

    def decided_pairs(self) -> set[tuple[str, str]]:
        """The pairs (left, right) that were judged at all."""
        return self._pairs(tuple(Outcome))

    def _pairs(self, outcomes: Collection[Outcome]) -> set[tuple[str, str]]:
        query = _DOCUMENTS.where(judged_pairs.c.outcome.in_([one.value for one in outcomes]))
        with reading(self._engine) as connection:
            return {(left, right) for left, right in connection.execute(query)}


def write_judged(connection: Connection, pairs: Sequence[JudgedPair]) -> None:
    """Enters the pairs, each in place of what was said of it before."""
    if not pairs:
        return
    assert all(pair.left_document < pair.right_document for pair in pairs), "left < right"
    rows = [
        {
            "left_document": pair.left_document,
            "right_document": pair.right_document,
            "outcome": pair.outcome.value,
            "score": pair.score,
            "case_id": pair.case_id,
            "sweep_id": pair.sweep_id,
            "decided_at": pair.decided_at,
            "decided_by": pair.decided_by,
        }
        for pair in pairs
    ]
    connection.execute(_FORGET, rows)
    connection.execute(insert(judged_pairs), rows)
