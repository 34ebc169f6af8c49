"""The work of a join in tiles: a block of references against another, or against itself.

Blocks are cut by id, so tiles stay what they are when segments are sealed, merged or loaded again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from indexes.exact.codes import CodedQueries
from indexes.exact.kernels import STRETCH, Found
from indexes.exact.scanner import Scanner
from indexes.joining.blocks import Block, References
from indexes.joining.pairs import RECORD, Records, sort_records
from indexes.scoring import exact_scores

_QUERIES_AT_ONCE = 4096
_FIRST_QUERIES = 256
# Pairs that one scan may find, with all that is made of them: a few hundred megabytes.
_FOUND_AT_ONCE = 1 << 22
_RUN_RECORDS = 1 << 20


class Tile(NamedTuple):
    """The block `left` of the left side, and the block `right` of the right or of the same."""

    left: int
    right: int
    within: bool


class _TooMany(Exception):
    """More pairs than a scan may find: fewer queries will do."""


def go_on() -> None:
    """Nothing is to be checked."""


class Tiling:
    """The tiles of one join; any of them can be made by itself.

    `within` is for the pairs of the left side, a right side for those between both. The smaller
    id stands on the left of a pair where there are pairs within. `scanner` has the threads, by
    default that of the first segment; `check` is called several times a second, and what it raises
    ends a tile unfinished.
    """

    def __init__(
        self,
        left: References,
        right: References | None,
        threshold: float,
        *,
        within: bool,
        tile_rows: int,
        scanner: Scanner | None = None,
        check: Callable[[], None] = go_on,
    ) -> None:
        self._left, self._right, self._within = left, right, within
        self._scanner, self._check = scanner, check
        self._threshold, self._tile_rows = threshold, tile_rows
        self._queries = _FIRST_QUERIES
        self._left_blocks: tuple[int, list[Block]] = (-1, [])
        self.tiles = list(self._all_tiles())

    def runs_of(self, tile: Tile) -> Iterator[Records]:
        """The pairs of one tile in sorted runs, of any size up to some millions."""
        lefts = self._blocks_of_left(tile.left)
        if tile.within and tile.left == tile.right:
            both = list(itertools.combinations_with_replacement(lefts, 2))
        else:
            other = self._left if tile.within else self._right
            assert other is not None
            both = list(itertools.product(lefts, other.blocks(self._span(tile.right))))
        gathered: list[Records] = []
        for queries, rows in both:
            for records in self._pairs(queries, rows):
                gathered.append(records)
                if sum(map(len, gathered)) >= _RUN_RECORDS:
                    yield sort_records(np.concatenate(gathered))
                    gathered = []
        if gathered:
            yield sort_records(np.concatenate(gathered))

    def comparisons_of(self, tile: Tile) -> int:
        """Pairs of references that a tile decides on, those that are gone too."""
        rows = self._rows_of(self._left, tile.left)
        if tile.within and tile.left == tile.right:
            return rows * (rows - 1) // 2
        other = self._left if tile.within else self._right
        assert other is not None
        return rows * self._rows_of(other, tile.right)

    def _all_tiles(self) -> Iterator[Tile]:
        lefts = -(-len(self._left) // self._tile_rows)
        rights = 0 if self._right is None else -(-len(self._right) // self._tile_rows)
        for left in range(lefts):
            if self._within:
                yield from (Tile(left, right, True) for right in range(left, lefts))
            yield from (Tile(left, right, False) for right in range(rights))

    def _pairs(self, queries: Block, rows: Block) -> Iterator[Records]:
        """All pairs of two blocks, or within one; however many there are, some at a time."""
        start = 0
        while start < len(queries):
            self._check()
            part = slice(start, min(start + self._queries, len(queries)))
            try:
                yield self._scan(queries, rows, part)
            except _TooMany:
                self._queries = max(1, self._queries // 4)
                continue
            start = part.stop
            self._queries = min(2 * self._queries, _QUERIES_AT_ONCE)

    def _scan(self, queries: Block, rows: Block, part: slice) -> Records:
        most, counts = max(_FOUND_AT_ONCE, len(rows)), [0]

        def finish(found: Found) -> Records:
            counts.append(len(found))
            if sum(counts) > most and part.stop - part.start > 1:
                raise _TooMany
            return self._scored(queries, rows, found, part.start)

        coded = CodedQueries.of_rows(queries.codes, part)
        wanted = coded.wanted(rows.codes, self._threshold)
        # Within a block a pair of rows is there once: where the second is the row scanned.
        first = part.start // STRETCH if queries is rows else 0
        scanner = self._scanner or self._left.segments[0].scanner
        return np.concatenate(
            [
                np.empty(0, RECORD),
                *scanner.gather(rows.codes.rows(rows.alive), wanted, finish, first),
            ]
        )

    def _scored(self, queries: Block, rows: Block, found: Found, start: int) -> Records:
        """The pairs at or above the threshold, of those that may be."""
        row_of, query_of = found[:, 0].astype(np.int64), found[:, 1].astype(np.int64) + start
        if queries is rows:
            kept = row_of > query_of
            row_of, query_of = row_of[kept], query_of[kept]
        if not len(row_of):
            return np.empty(0, RECORD)
        own_rows, row_places = np.unique(row_of, return_inverse=True)
        own_queries, query_places = np.unique(query_of, return_inverse=True)
        scores = exact_scores(
            queries.vectors(own_queries), rows.vectors(own_rows), query_places, row_places
        )
        # Last, for a removed row is wiped: what was computed from the rest of it is dropped here.
        there = queries.unremoved(own_queries)[query_places] & rows.unremoved(own_rows)[row_places]
        # In float64, for numpy would round the threshold to the scores' float32.
        kept = there & (scores.astype(np.float64) >= self._threshold)
        left, right = queries.ids[query_of[kept]], rows.ids[row_of[kept]]
        if self._within:
            left, right = np.minimum(left, right), np.maximum(left, right)
        records = np.empty(len(left), RECORD)
        records["left"], records["right"], records["score"] = left, right, scores[kept]
        return records

    def _blocks_of_left(self, i: int) -> list[Block]:
        if self._left_blocks[0] != i:
            self._left_blocks = (i, self._left.blocks(self._span(i)))
        return self._left_blocks[1]

    def _span(self, i: int) -> slice:
        return slice(i * self._tile_rows, (i + 1) * self._tile_rows)

    def _rows_of(self, side: References, i: int) -> int:
        return min((i + 1) * self._tile_rows, len(side)) - i * self._tile_rows
