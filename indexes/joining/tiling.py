"""Tiles of a join: a block of references against another, or against itself; and the pairs found.

Blocks are cut by id, so tiles stay the same when segments are sealed, merged or loaded again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.base import (
    Flags,
    Ids,
    Positions,
    Scores,
    Vectors,
    concatenated,
    exact_scores,
    overwrite_when_freed,
)
from indexes.errors import IdInvalid, VectorInvalid
from indexes.exact.codes import ZERO_CODE, CodedQueries, Codes, Each, parts_of
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.intrinsics import BLOCK
from indexes.exact.kernels import STRETCH, Axes, Found, find_axes
from indexes.exact.scanner import Scanner
from indexes.joining import PIECE_RECORDS, RECORD, Records


class Pairs:
    """Distinct pairs by ascending left id, then right id.

    `left`, `right` and `scores` are all of them in memory: int64[m], int64[m], float32[m].
    `pieces` needs memory for one piece alone: the runs may lie in a file. `bounds`: by what all
    other pairs were dropped without their score, as in `Certificate`; `prefix 80 of 128` are so
    many components along the principal axes, before the codes of all.
    """

    def __init__(
        self, runs: Sequence[Records], among: Ids | None = None, bounds: tuple[str, ...] = ()
    ) -> None:
        """From sorted runs; with `among`, only pairs of these ids."""
        self.bounds = bounds
        self._runs = [run for run in runs if len(run)]
        self._among = among
        total = sum(map(len, self._runs))
        self._count = total if among is None else sum(map(len, self.pieces()))

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
        # From a sample: each run adds an error of one step at most.
        step = max(1, size // (len(self._runs) + 8))
        sample = concatenated(run["left"][::step] for run in self._runs)
        sample.sort()
        cuts = np.unique(sample[max(1, size // step) :: max(1, size // step)])
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

    def _sorted(self, parts: Sequence[Records]) -> Records:
        records = concatenated(parts, RECORD)
        if self._among is not None:
            kept = np.isin(records["left"], self._among) & np.isin(records["right"], self._among)
            records = records[kept]
        return sort_records(records)

    def _column(self, name: str) -> NDArray[Any]:
        # The columns of packed records are not aligned, which slows down what uses them.
        return np.ascontiguousarray(self.records[name])


def sort_records(records: Records) -> Records:
    """By left id, then right id."""
    return records[np.lexsort((records["right"], records["left"]))]


# 64 bits of the golden ratio: odd, and without a pattern.
_FACTOR = 0x9E3779B97F4A7C15


class References:
    """The references of one side: `ids` int64[n] ascending, `places` int64[n] of each.

    A place is a row, counted through all segments; -1 for a reference that is gone. `IdInvalid` for
    an id in two segments, `VectorInvalid` for segments of two dimensions.
    """

    def __init__(self, segments: Sequence[Exact8Segment], alive: Sequence[Flags]) -> None:
        self.segments = tuple(segments)
        dims = sorted({segment.dim for segment in self.segments})
        if len(dims) > 1:
            raise VectorInvalid(f"dim is {dims[0]} and {dims[1]}; join segments of one dimension")
        sizes = [len(segment.row_ids) for segment in segments]
        self._starts = np.cumsum([0, *sizes])
        counted = [mask[:size] for mask, size in zip(alive, sizes, strict=True)]
        places = np.flatnonzero(concatenated(counted, np.bool_))
        ids = concatenated(segment.row_ids for segment in segments)[places]
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

    def aligned_to(self, ids: Ids) -> References:
        """These ascending ids in their order; those that are not here are marked as gone."""
        aligned = References.__new__(References)
        aligned.segments, aligned._starts = self.segments, self._starts
        aligned.ids = ids
        aligned.places = np.full(len(ids), -1, np.int64)
        here = np.isin(ids, self.ids, assume_unique=True)
        aligned.places[here] = self.places[np.searchsorted(self.ids, ids[here])]
        return aligned

    def digests(self) -> tuple[Ids, NDArray[np.uint64]]:
        """The ids that have not been removed by the end, ascending, and a digest of each (its id,
        codes and residual): int64[m], uint64[m].

        Two vectors with equal codes and residuals would have the same digest; those of two faces,
        models or keys do not. The vectors, which may lie on a disk, are not read.
        """
        parts = (_digests(segment) for segment in self.segments)
        digests = concatenated(parts, np.uint64)
        # Last, for a removal marks a row before it wipes its codes: no digest is of wiped ones.
        flags = (segment.alive_rows for segment in self.segments)
        there = concatenated(flags, np.bool_)[self.places]
        return self.ids[there], digests[self.places[there]]

    def blocks(self, part: slice, axes: Axes | None, each: Each = map) -> list[Block]:
        """Blocks of the references in this part that are not gone, one for each code limit.

        With `axes` they are coded anew along these, all of them with one limit.
        """
        places = self.places[part]
        places = places[places >= 0]
        if axes is not None:
            return [Block(self, np.sort(places), axes, each)] if len(places) else []
        chosen_of: dict[float, list[Positions]] = {}
        for segment, chosen, _ in self.split(places):
            chosen_of.setdefault(segment.codes.limit, []).append(chosen)
        return [
            Block(self, np.sort(places[np.concatenate(chosen)]))
            for _, chosen in sorted(chosen_of.items(), key=lambda item: item[0])
        ]

    def sample(self, count: int) -> Vectors:
        """The vectors of so many references, or of all where there are fewer: float32[m, dim]."""
        places = self.places[self.places >= 0]
        chosen = np.random.default_rng(0).permutation(len(places))[:count]
        return self.vectors(np.sort(places[chosen]))

    def vectors(self, places: Positions, each: Each = map) -> Vectors:
        """The vectors at these places: float32[m, dim]."""
        vectors = overwrite_when_freed(np.empty((len(places), self.dim or 0), np.float32))

        def take(part: slice) -> None:
            for segment, chosen, rows in self.split(places[part]):
                vectors[part.start + chosen] = segment.rows.take(rows)

        list(each(take, parts_of(len(places))))
        return vectors

    def split(self, places: Positions) -> Iterator[tuple[Exact8Segment, Positions, Positions]]:
        """For each segment with some of the places: which ones, and their rows in it."""
        segment_of = np.searchsorted(self._starts, places, side="right") - 1
        # bincount, for sorting or hashing so many would cost more than all the rest.
        for i in np.flatnonzero(np.bincount(segment_of)):
            chosen = np.flatnonzero(segment_of == i)
            yield self.segments[i], chosen, places[chosen] - self._starts[i]


class Block:
    """Some references of one side and one code limit, as codes: rows by ascending residual.

    Gathering them from the segments costs some hundredths of the comparisons. A block does not
    depend on how references are distributed over segments. `ids` int64[n] by row; `alive` bool[n
    padded] is false for the padding, and for what was removed since. `places` are ascending.
    """

    def __init__(
        self, side: References, places: Positions, axes: Axes | None = None, each: Each = map
    ) -> None:
        self._side = side
        if axes is None:
            self._gather(places)
        else:
            self.codes = Codes.in_axes(side.vectors(places, each), axes, each)
            self._places = places[self.codes.order]
        self.ids: Ids = np.empty(len(places), np.int64)
        for segment, chosen, rows in side.split(self._places):
            self.ids[chosen] = segment.row_ids[rows]
        self.alive = np.arange(len(self.codes.bytes)) < len(places)
        # Not those of now: rows may have been removed while they were gathered.
        self._flags: list[Flags] = []

    def _gather(self, places: Positions) -> None:
        """Takes the codes that the segments have."""
        side = self._side
        residuals = np.empty(len(places), np.float32)
        for segment, chosen, rows in side.split(places):
            residuals[chosen] = segment.codes.residuals[rows]
        # By place the rows of a segment are in order already: sorting finds runs, and gathering
        # reads memory in sequence.
        order = np.argsort(residuals, kind="stable")
        self._places = places[order]
        padded = -(-len(places) // BLOCK) * BLOCK
        first = next(side.split(places))[0].codes
        codes = np.full((padded, first.bytes.shape[1]), ZERO_CODE, np.uint8)
        overwrite_when_freed(codes)
        for segment, chosen, rows in side.split(self._places):
            # Twice as fast as indexing.
            codes[chosen] = overwrite_when_freed(np.take(segment.codes.bytes, rows, axis=0))
        self.codes = Codes.restore(codes, residuals[order], first.dim, first.limit)

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, rows: Positions) -> Vectors:
        """The vectors of these rows: float32[m, dim]."""
        return self._side.vectors(self._places[rows])

    def unremoved(self, rows: Positions) -> Flags:
        """Which of these rows have not been removed from their segments since: bool[m]."""
        unremoved = np.empty(len(rows), np.bool_)
        for segment, chosen, own_rows in self._side.split(self._places[rows]):
            unremoved[chosen] = segment.alive_rows[own_rows]
        return unremoved

    def wipe_removed(self, scanner: Scanner) -> None:
        """Overwrites the codes of rows that have been removed from their segments since."""
        flags = [segment.alive for segment in self._side.segments]
        # A removal makes new ones.
        if len(flags) == len(self._flags) and all(map(is_, flags, self._flags)):
            return
        there = self.alive[: len(self)]
        gone = np.flatnonzero(there & ~self.unremoved(np.arange(len(self))))
        self.alive[gone] = False
        self.codes.wipe(gone)
        scanner.wipe(self.codes, gone)
        self._flags = flags


def _digests(segment: Exact8Segment) -> NDArray[np.uint64]:
    """Polynomials over 64 bits of the id, residual and codes of each row."""
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
# Pairs of one scan: with all that is made of them, a few hundred megabytes.
_FOUND_AT_ONCE = 1 << 22
_RUN_RECORDS = 1 << 20
# Comparisons of a second or more.
_AXES_FROM = 1 << 32
_SAMPLE = 2048


class JoinTile(NamedTuple):
    """Block `left` of the left side, block `right` of the right side or, if `within`, the left."""

    left: int
    right: int
    within: bool


class _TooMany(Exception):
    """More pairs than a scan may find: to be repeated with fewer queries."""


def no_check() -> None:
    """The default of `check`: never stops."""


class Tiling:
    """The tiles of one join, each of which can be made by itself.

    `within` adds the pairs of the left side, a right side those between both. With `within` the
    smaller id of a pair is on the left. `scanner` has the threads, by default that of the first
    segment; `check` is called several times a second, and an exception from it stops a tile.
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
        check: Callable[[], None] = no_check,
    ) -> None:
        self._left, self._right, self._within = left, right, within
        self._check = check
        self._threshold, self._tile_rows = threshold, tile_rows
        self._queries = _FIRST_QUERIES
        self._left_blocks: tuple[int, list[Block]] = (-1, [])
        self.tiles = list(self._all_tiles())
        self._scanner = scanner or (left.segments[0].scanner if left.segments else None)
        self._axes = self._find_axes()

    @property
    def bounds(self) -> tuple[str, ...]:
        """By what its tiles drop pairs: see `Pairs`."""
        if self._axes is None:
            return ("bytes",)
        return (f"prefix {self._axes.prefix} of {len(self._axes.columns)}",)

    def runs_of(self, tile: JoinTile) -> Iterator[Records]:
        """The pairs of one tile in sorted runs of at most some millions."""
        if self._left_blocks[0] != tile.left:
            self._left_blocks = (tile.left, self._blocks(self._left, tile.left))
        lefts = self._left_blocks[1]
        if tile.within and tile.left == tile.right:
            both = list(itertools.combinations_with_replacement(lefts, 2))
        else:
            other = self._left if tile.within else self._right
            assert other is not None
            both = list(itertools.product(lefts, self._blocks(other, tile.right)))
        gathered: list[Records] = []
        for queries, rows in both:
            for records in self._pairs(queries, rows):
                gathered.append(records)
                if sum(map(len, gathered)) >= _RUN_RECORDS:
                    yield sort_records(np.concatenate(gathered))
                    gathered = []
        if gathered:
            yield sort_records(np.concatenate(gathered))

    def comparisons_of(self, tile: JoinTile) -> int:
        """Pairs of references that a tile decides, counting those that are gone."""
        rows = self._rows_of(self._left, tile.left)
        if tile.within and tile.left == tile.right:
            return rows * (rows - 1) // 2
        other = self._left if tile.within else self._right
        assert other is not None
        return rows * self._rows_of(other, tile.right)

    def _find_axes(self) -> Axes | None:
        """Axes that save more than it takes to find them, and to code the blocks anew."""
        if self._scanner is None or self._scanner.grid is None:
            return None
        if sum(map(self.comparisons_of, self.tiles)) < _AXES_FROM:
            return None
        return find_axes(self._left.sample(_SAMPLE), self._threshold, self._scanner.grid)

    def _all_tiles(self) -> Iterator[JoinTile]:
        lefts = -(-len(self._left) // self._tile_rows)
        rights = 0 if self._right is None else -(-len(self._right) // self._tile_rows)
        for left in range(lefts):
            if self._within:
                yield from (JoinTile(left, right, True) for right in range(left, lefts))
            yield from (JoinTile(left, right, False) for right in range(rights))

    def _pairs(self, queries: Block, rows: Block) -> Iterator[Records]:
        """All pairs of two blocks, or within one, a bounded number at a time."""
        start = 0
        assert self._scanner is not None, "there are rows"
        while start < len(queries):
            self._check()
            for block in {queries, rows}:
                block.wipe_removed(self._scanner)
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
        # Within a block a pair is kept once: where the second one is the row scanned.
        first = part.start // STRETCH if queries is rows else 0
        assert self._scanner is not None
        return np.concatenate(
            [
                np.empty(0, RECORD),
                *self._scanner.gather(
                    rows.codes, rows.alive, wanted, finish, first, gives_way=True
                ),
            ]
        )

    def _scored(self, queries: Block, rows: Block, found: Found, start: int) -> Records:
        """The pairs found whose score is at or above the threshold."""
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
        # Last, for a removed row is wiped: scores computed from a half wiped row are dropped here.
        there = queries.unremoved(own_queries)[query_places] & rows.unremoved(own_rows)[row_places]
        # In float64, for numpy would round the threshold to the scores' float32.
        kept = there & (scores.astype(np.float64) >= self._threshold)
        left, right = queries.ids[query_of[kept]], rows.ids[row_of[kept]]
        if self._within:
            left, right = np.minimum(left, right), np.maximum(left, right)
        records = np.empty(len(left), RECORD)
        records["left"], records["right"], records["score"] = left, right, scores[kept]
        return records

    def _blocks(self, side: References, i: int) -> list[Block]:
        each = map if self._scanner is None else self._scanner.each
        return side.blocks(self._span(i), self._axes, each)

    def _span(self, i: int) -> slice:
        return slice(i * self._tile_rows, (i + 1) * self._tile_rows)

    def _rows_of(self, side: References, i: int) -> int:
        return min((i + 1) * self._tile_rows, len(side)) - i * self._tile_rows
