"""Scored pairs of ids: many sorted runs, read as one sorted list or in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Scores

RECORD = np.dtype([("left", "<i8"), ("right", "<i8"), ("score", "<f4")])
Records = NDArray[np.void]
"""Pairs as `RECORD`s."""

PIECE_RECORDS = 1 << 20


class Pairs:
    """Distinct pairs by ascending left id, then right id.

    `left`, `right` and `scores` are all of them in memory: int64[m], int64[m], float32[m].
    `pieces` needs memory for one piece alone: the runs may lie in a file. `bounds`: by what all
    other pairs were dropped without their score, as in `Certificate`; `prefix 80 of 128` are so
    many components along the principal axes, before the codes of all.
    """

    def __init__(
        self,
        runs: Sequence[Records],
        known: tuple[Ids, Ids] | None = None,
        bounds: tuple[str, ...] = (),
    ) -> None:
        """From sorted runs; with `known`, only pairs with one of these left and right ids."""
        self.bounds = bounds
        self._runs = [run for run in runs if len(run)]
        self._known = known
        total = sum(map(len, self._runs))
        self._count = total if known is None else sum(map(len, self.pieces()))

    def __len__(self) -> int:
        return self._count

    @property
    def left(self) -> Ids:
        return self._column("left")

    @property
    def right(self) -> Ids:
        return self._column("right")

    @property
    def scores(self) -> Scores:
        return self._column("score")

    @cached_property
    def records(self) -> Records:
        """All pairs as `RECORD`s."""
        return self._sorted([run[:] for run in self._runs])

    def pieces(self, size: int = PIECE_RECORDS) -> Iterator[Records]:
        """All pairs in order, about `size` at once; those of one left id stay together."""
        cuts = self._cuts(size)
        places = [
            np.concatenate(
                [[0], np.searchsorted(np.ascontiguousarray(run["left"]), cuts), [len(run)]]
            )
            for run in self._runs
        ]
        for i in range(len(cuts) + 1):
            parts = [
                run[place[i] : place[i + 1]] for run, place in zip(self._runs, places, strict=True)
            ]
            piece = self._sorted(parts)
            if len(piece):
                yield piece

    def _cuts(self, size: int) -> Ids:
        """Left ids that begin a piece, from a sample of the runs."""
        # Each run adds an error of one step at most.
        step = max(1, size // (len(self._runs) + 8))
        sample = np.concatenate(
            [np.empty(0, np.int64), *(run["left"][::step] for run in self._runs)]
        )
        sample.sort()
        return np.unique(sample[max(1, size // step) :: max(1, size // step)])

    def _sorted(self, parts: Sequence[Records]) -> Records:
        records = np.concatenate([np.empty(0, RECORD), *parts])
        if self._known is not None:
            lefts, rights = self._known
            among = np.isin(records["left"], lefts) & np.isin(records["right"], rights)
            records = records[among]
        return sort_records(records)

    def _column(self, name: str) -> NDArray[Any]:
        # The columns of packed records are not aligned, which slows down what uses them.
        return np.ascontiguousarray(self.records[name])


def sort_records(records: Records) -> Records:
    """By left id, then right id."""
    return records[np.lexsort((records["right"], records["left"]))]
