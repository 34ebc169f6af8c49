"""What a registry would say of a synthetic gallery: a document for each row, with a line or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from engine.registry.records import LineStatus
from engine.sweeps.groups import Referenced
from engine.sweeps.model import Identity, LineFact

_CARRIERS, _OUTLETS = 3, 400
_FIRST_OPENING = datetime(2019, 12, 1, tzinfo=UTC)
_MINUTES = 3 * 365 * 24 * 60
# Odd numbers without a pattern: what a row has follows from it, with nothing kept.
_SCATTER = 0x9E3779B1


@dataclass(frozen=True, slots=True)
class SyntheticFacts:
    """Of `count` references, each under its own document; nobody has judged anything."""

    count: int

    def document_owner_array(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = np.arange(self.count, dtype=np.int64)
        return rows, rows

    def exceptions(self) -> set[tuple[str, str]]:
        return set()

    def documents_by_id(self, ids: Sequence[str]) -> Mapping[str, Referenced]:
        return {key: introduce(int(key)) for key in ids}

    def identities_of(self, reference_ids: Sequence[int]) -> list[Identity]:
        return [introduce(row) for row in reference_ids]


def introduce(row: int) -> Identity:
    """The identity in this row of the gallery; its document's id is the row in digits."""
    number = row * _SCATTER % (1 << 32)
    lines = tuple(
        LineFact(
            line_id=f"{row}-{line}",
            carrier=f"carrier-{number % _CARRIERS}",
            outlet=f"outlet-{number % _OUTLETS}",
            opened_at=_FIRST_OPENING + timedelta(minutes=(number + line * _SCATTER) % _MINUTES),
            status=LineStatus.ACTIVE.value,
        )
        for line in range(1 + number % 2)
    )
    return Identity(f"{row:09d}", (row,), tuple(sorted(lines, key=lambda one: one.opened_at)))
