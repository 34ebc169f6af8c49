"""The work of a join in tiles: a block of references against another, or against itself.

Blocks are cut by id, so tiles stay what they are when segments are sealed, merged or loaded again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Vectors
from indexes.errors import IdInvalid, VectorInvalid
from indexes.exact.codes import CodedQueries, Codes
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.intrinsics import BLOCK
from indexes.exact.kernels import STRETCH, Found
from indexes.exact.scanner import Scanner
from indexes.joining.pairs import RECORD, Records, sort_records
from indexes.scoring import Positions, exact_scores

# The references of a join by id, and blocks of them as codes, wherever their segments keep them.
#
# A block is gathered from the segments, which costs some hundredths of its comparisons; it has
# no removed row in it, and does not depend on how the references lie in segments.

_ZERO_CODE = 128
# 64 bits of the golden ratio: odd, and without a pattern.
_FACTOR = 0x9E3779B97F4A7C15


class References:
    """The references of one side: `ids` int64[n] ascending, `places` int64[n] where each lies.

    A place is a row, counted through all segments; -1 says that the reference is gone. An id in
    two segments is refused with `IdInvalid`, segments of two dimensions with `VectorInvalid`.
    """

    def __init__(
        self, segments: Sequence[Exact8Segment], alive: Sequence[NDArray[np.bool_]]
    ) -> None:
        self.segments = tuple(segments)
        _one_dim(self.segments)
        sizes = [len(segment.row_ids) for segment in segments]
        self._starts = np.cumsum([0, *sizes])
        counted = [mask[:size] for mask, size in zip(alive, sizes, strict=True)]
        places = np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *counted]))
        ids = np.concatenate([np.empty(0, np.int64), *(s.row_ids for s in segments)])[places]
        order = np.argsort(ids)
        self.ids: Ids = ids[order]
        self.places: Positions = places[order]
        twice = np.flatnonzero(self.ids[1:] == self.ids[:-1])
        if len(twice):
            raise IdInvalid(f"id {self.ids[twice[0]]} is in two segments; give each id once")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int | None:
        """The dimension; None where there is no segment."""
        return self.segments[0].dim if self.segments else None

    def laid_out(self, ids: Ids) -> References:
        """Those of these ascending ids, in their order; what is not here is gone."""
        laid_out = References.__new__(References)
        laid_out.segments, laid_out._starts = self.segments, self._starts
        laid_out.ids = ids
        laid_out.places = np.full(len(ids), -1, np.int64)
        here = np.isin(ids, self.ids, assume_unique=True)
        laid_out.places[here] = self.places[np.searchsorted(self.ids, ids[here])]
        return laid_out

    def digests(self) -> NDArray[np.uint64]:
        """A number for what each reference is: its id, its codes and what they leave over.

        Two vectors with equal codes and residuals would have one number; those of two faces,
        models or keys do not. The vectors, which may lie on a disk, are not read.
        """
        parts = (_digests(segment) for segment in self.segments)
        return np.concatenate([np.empty(0, np.uint64), *parts])[self.places]

    def blocks(self, part: slice) -> list[Block]:
        """Those of this part of the ids that are not gone: a block for each code limit."""
        places = self.places[part]
        places = places[places >= 0]
        chosen_of: dict[float, list[Positions]] = {}
        for segment, chosen, _ in self.split(places):
            chosen_of.setdefault(segment.codes.limit, []).append(chosen)
        return [
            Block(self, np.sort(places[np.concatenate(chosen)]))
            for _, chosen in sorted(chosen_of.items(), key=lambda item: item[0])
        ]

    def split(self, places: Positions) -> Iterator[tuple[Exact8Segment, Positions, Positions]]:
        """For each segment that has some of the places: which ones, and their rows in it."""
        segment_of = np.searchsorted(self._starts, places, side="right") - 1
        # Counted: sorting or hashing so many costs more than all else here.
        for i in np.flatnonzero(np.bincount(segment_of)):
            chosen = np.flatnonzero(segment_of == i)
            yield self.segments[i], chosen, places[chosen] - self._starts[i]


class Block:
    """Some references of one side and one code limit, as codes: rows by ascending residual.

    `ids` int64[n] by row; `alive` bool[n padded] is false for the padding alone. `places` are
    ascending.
    """

    def __init__(self, side: References, places: Positions) -> None:
        residuals = np.empty(len(places), np.float32)
        for segment, chosen, rows in side.split(places):
            residuals[chosen] = segment.codes.residuals[rows]
        # By place the rows of a segment are in order already: sorting finds runs, and whatever is
        # gathered lies one after another in memory.
        order = np.argsort(residuals, kind="stable")
        self._side, self._places = side, places[order]
        padded = -(-len(places) // BLOCK) * BLOCK
        first = next(side.split(places))[0].codes
        codes = np.full((padded, first.bytes.shape[1]), _ZERO_CODE, np.uint8)
        self.ids: Ids = np.empty(len(places), np.int64)
        for segment, chosen, rows in side.split(self._places):
            # Twice as fast as indexing.
            codes[chosen] = np.take(segment.codes.bytes, rows, axis=0)
            self.ids[chosen] = segment.row_ids[rows]
        self.codes = Codes.restore(codes, residuals[order], first.dim, first.limit)
        self.alive = np.arange(padded) < len(places)

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, rows: Positions) -> Vectors:
        """The vectors of these rows: float32[m, dim]."""
        vectors = np.empty((len(rows), self.codes.dim), np.float32)
        for segment, chosen, own_rows in self._side.split(self._places[rows]):
            vectors[chosen] = segment.rows.take(own_rows)
        return vectors

    def unremoved(self, rows: Positions) -> NDArray[np.bool_]:
        """Which of these rows have not been removed from their segments by now."""
        unremoved = np.empty(len(rows), np.bool_)
        for segment, chosen, own_rows in self._side.split(self._places[rows]):
            unremoved[chosen] = segment.alive_rows[own_rows]
        return unremoved


def _one_dim(segments: Sequence[Exact8Segment]) -> None:
    dims = sorted({segment.dim for segment in segments})
    if len(dims) > 1:
        raise VectorInvalid(f"dim is {dims[0]} and {dims[1]}; join segments of one dimension")


def _digests(segment: Exact8Segment) -> NDArray[np.uint64]:
    """Polynomials over 64 bits, of all that is known of a row."""
    words = segment.codes.bytes.view(np.uint64)
    powers = [pow(_FACTOR, power, 1 << 64) for power in range(1, words.shape[1] + 3)]
    of_words, of_id, of_residual = np.split(
        np.array(powers, np.uint64), [words.shape[1], words.shape[1] + 1]
    )
    ids, residuals = segment.row_ids.view(np.uint64), segment.codes.residuals.view(np.uint32)
    digests: NDArray[np.uint64] = ids * of_id + residuals * of_residual
    digests += words[: len(digests)] @ of_words
    return digests


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
