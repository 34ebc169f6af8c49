"""Making one sealed segment of parts that stay in use meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Vectors
from indexes.exact.exact8 import Exact8Index
from indexes.exact.scanner import Scanner
from indexes.flat import FlatIndex
from indexes.segmented.merging import SegmentsConfig

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """A job: what is to become one segment, as of the moment that it began.

    `alive` bool[n] is a copy for each segment, `loose` the ids and vectors of each head, copied
    too. `removed` gathers what is removed while the job runs: it has to go from the product as
    well, wherever the job was when its rows were wiped.
    """

    begun: float
    segments: tuple[Exact8Index, ...] = ()
    alive: tuple[NDArray[np.bool_], ...] = ()
    heads: tuple[FlatIndex, ...] = ()
    loose: tuple[tuple[Ids, Vectors], ...] = ()
    removed: list[Ids] = field(default_factory=list)

    @classmethod
    def of_segments(cls, segments: Sequence[Exact8Index], begun: float) -> Rewrite:
        """Of these segments without their tombstones; to be called while nothing changes."""
        alive = tuple(segment.alive_rows.copy() for segment in segments)
        return cls(begun, segments=tuple(segments), alive=alive)

    @classmethod
    def of_heads(cls, heads: Sequence[FlatIndex], begun: float) -> Rewrite:
        """Of these heads; to be called while nothing changes."""
        loose = tuple(head.contents() for head in heads)
        return cls(begun, heads=tuple(heads), loose=loose)

    def build(self, config: SegmentsConfig, scanner: Scanner) -> Exact8Index | None:
        """The segment, while the parts are searched and changed; None where nothing is alive."""
        counts = [int(alive.sum()) for alive in self.alive]
        total = sum(counts) + sum(len(ids) for ids, _ in self.loose)
        if not total:
            return None
        rows = np.empty((total, self._dim()), self._dtype(config))
        ids = np.empty(total, np.int64)
        end = 0
        for segment, alive in zip(self.segments, self.alive, strict=True):
            places = np.flatnonzero(alive)
            for first in range(0, len(places), _ROWS_AT_ONCE):
                some = places[first : first + _ROWS_AT_ONCE]
                start, end = end, end + len(some)
                rows[start:end] = segment.rows.take(some)
                ids[start:end] = segment.row_ids[some]
        for loose_ids, vectors in self.loose:
            start, end = end, end + len(loose_ids)
            rows[start:end], ids[start:end] = vectors, loose_ids
        return Exact8Index.of_rows(ids, rows, scanner=scanner)

    def settle(self, product: Exact8Index) -> None:
        """Takes out of the product what was removed meanwhile; to be called while nothing runs."""
        if not self.removed:
            return
        rows, present = product.find(np.unique(np.concatenate(self.removed)))
        product.bury(rows[present])

    def _dim(self) -> int:
        return self.segments[0].dim if self.segments else self.loose[0][1].shape[1]

    def _dtype(self, config: SegmentsConfig) -> np.dtype[Any]:
        """float16 only where that loses nothing: a reference never changes its score."""
        if config.rows == "float16" and self._is_narrow():
            return np.dtype(np.float16)
        return np.dtype(np.float32)

    def _is_narrow(self) -> bool:
        return all(segment.rows.dtype == np.float16 for segment in self.segments) and all(
            np.array_equal(narrowed(vectors), vectors) for _, vectors in self.loose
        )


def narrowed(vectors: Vectors) -> Vectors:
    """The vectors as float16 keeps them, float32[n, dim]."""
    with np.errstate(over="ignore"):
        return vectors.astype(np.float16).astype(np.float32)
