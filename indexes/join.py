"""Every pair at or above a threshold, in one segment or between two: exact, and resumable.

The rows of the left segment go in tiles, each a batch of queries to the right one; within one
segment a tile meets only the rows from its own beginning on, which is the upper triangle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Scores
from indexes.checkpoint import Checkpoint
from indexes.codes import CodedQueries
from indexes.errors import SearchInvalid, VectorInvalid
from indexes.exact8 import Exact8Index
from indexes.kernels import STRETCH, Found
from indexes.scoring import exact_scores
from indexes.validation import check_threshold

TILE_ROWS = 4 * STRETCH
RECORD = np.dtype([("left", "<i8"), ("right", "<i8"), ("score", "<f4")])


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs by ascending left id, then right id: `int64[m]` each, their scores `float32[m]`.

    Within one segment a pair is there once, the smaller id on the left.
    """

    left: Ids
    right: Ids
    scores: Scores

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a join is: `pairs` found by the `comparisons` of the first `tiles_done` tiles."""

    tiles_done: int
    tiles: int
    comparisons: int
    pairs: int


def join(
    left: Exact8Index,
    right: Exact8Index | None,
    threshold: float,
    *,
    checkpoint: Path | None = None,
    tile_rows: int = TILE_ROWS,
    progress: Callable[[Progress], None] | None = None,
) -> Pairs:
    """All pairs of `left` and `right`, or within `left` where there is no right.

    With a checkpoint folder every tile is on the disk when the next one begins, and a join that
    was stopped goes on after its last whole tile; `SearchInvalid` where the folder is of another
    join or damaged. Neither segment may change meanwhile. The result depends on the segments and
    the threshold alone. `progress` is called after each tile; what it raises stops the join.
    """
    threshold = check_threshold(threshold)
    if right is not None and right.dim != left.dim:
        raise VectorInvalid(f"dim is {left.dim} and {right.dim}; join segments of one dimension")
    if tile_rows < 1 or tile_rows % STRETCH:
        raise SearchInvalid(f"tile_rows is {tile_rows}; give a multiple of {STRETCH}")
    tiling = _Tiling(left, right, threshold, tile_rows)
    kept = Checkpoint(checkpoint, tiling.fingerprint() if checkpoint else "")
    for tile in range(kept.next_tile, tiling.tiles):
        kept.append(tiling.pairs_of(tile).tobytes())
        if progress:
            comparisons = sum(map(tiling.comparisons_of, range(tile + 1)))
            pairs = kept.size_bytes // RECORD.itemsize
            progress(Progress(tile + 1, tiling.tiles, comparisons, pairs))
    return _sorted_pairs(np.frombuffer(kept.read(), RECORD))


class _Tiling:
    """The tiles of one join; any of them can be made by itself."""

    def __init__(
        self, left: Exact8Index, right: Exact8Index | None, threshold: float, tile_rows: int
    ) -> None:
        self._left, self._right = left, left if right is None else right
        self._within = right is None
        self._threshold = threshold
        self._tile_rows = tile_rows
        self.tiles = -(-len(left.row_ids) // tile_rows)

    def pairs_of(self, tile: int) -> NDArray[np.void]:
        """The pairs of one tile as `RECORD`s, in the order of the result."""
        start, end = self._span(tile)
        queries = self._left.stored(slice(start, end))
        rows = self._right.stored(slice(None))
        queries_alive = self._left.alive[start:end]

        def finish(found: Found) -> NDArray[np.void]:
            row_of, query_of = found[:, 0].astype(np.int64), found[:, 1].astype(np.int64)
            kept = queries_alive[query_of]
            if self._within:
                kept &= row_of > query_of + start
            row_of, query_of = row_of[kept], query_of[kept]
            scores = exact_scores(queries, rows, query_of, row_of)
            kept = scores.astype(np.float64) >= self._threshold
            return self._records(query_of[kept] + start, row_of[kept], scores[kept])

        coded = CodedQueries.of_rows(self._left.codes, slice(start, end))
        wanted = coded.wanted(self._right.codes, self._threshold)
        first = start // STRETCH if self._within else 0
        scanned = self._right.codes.rows(self._right.alive)
        parts = self._left.scanner.gather(scanned, wanted, finish, first)
        records = np.concatenate([np.empty(0, RECORD), *parts])
        return records[np.lexsort((records["right"], records["left"]))]

    def comparisons_of(self, tile: int) -> int:
        """Pairs of rows that a tile decides on."""
        start, end = self._span(tile)
        rows = len(self._right.row_ids)
        if not self._within:
            return (end - start) * rows
        return sum(rows - row - 1 for row in range(start, end))

    def fingerprint(self) -> str:
        """What the result depends on, and the tiles too."""
        digest = hashlib.sha256(f"{self._within} {self._threshold!r} {self._tile_rows} ".encode())
        for side in {id(self._left): self._left, id(self._right): self._right}.values():
            stored = side.stored(slice(None))
            digest.update(f"{len(side.row_ids)} {side.dim} {stored.dtype} ".encode())
            for part in (side.row_ids, side.alive, stored):
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def _span(self, tile: int) -> tuple[int, int]:
        start = tile * self._tile_rows
        return start, min(start + self._tile_rows, len(self._left.row_ids))

    def _records(
        self, left_rows: NDArray[np.int64], right_rows: NDArray[np.int64], scores: Scores
    ) -> NDArray[np.void]:
        left, right = self._left.row_ids[left_rows], self._right.row_ids[right_rows]
        if self._within:
            left, right = np.minimum(left, right), np.maximum(left, right)
        records = np.empty(len(scores), RECORD)
        records["left"], records["right"], records["score"] = left, right, scores
        return records


def _sorted_pairs(records: NDArray[np.void]) -> Pairs:
    order = np.lexsort((records["right"], records["left"]))
    left, right = (records[side][order].astype(np.int64) for side in ("left", "right"))
    return Pairs(left, right, records["score"][order].astype(np.float32))
