"""Merge policy of segments, the rewrite itself, and batches on their way into an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from indexes.base import Doubles, Floats, Ids, Positions, Vectors, overwrite, overwrite_when_freed
from indexes.errors import SegmentsInvalid
from indexes.exact.codes import Codes, code_limit, encode, rounded_up
from indexes.exact.exact8 import Exact8Segment, MemoryRows
from indexes.exact.scanner import Scanner
from indexes.segmented.view import HeadView, Part, SealedView
from schema import frozen


@frozen
class SegmentsConfig:
    """When heads are sealed and segments rewritten.

    `head_rows`: a head of so many references is sealed. `fan`: a class of segments of similar size
    has fewer than so many, those of the next class are so many times larger; a reference is
    rewritten once a class. `dead_share`: a segment with a larger share of removed rows is
    rewritten. `erasure_deadline_s`: so long after rows were removed, and overwritten, a rewrite
    leaves out their ids and flags, and their rows in a mapped file. `rows`: the type of stored
    vectors; to float16 they are rounded when they are added. `segment_rows`: no segment becomes
    larger, nor what a rewrite needs beside the gallery. `device`: one of `device.DEVICES`.
    """

    head_rows: int = 8192
    fan: int = 4
    dead_share: float = 0.2
    erasure_deadline_s: float = 86_400
    rows: Literal["float32", "float16"] = "float32"
    segment_rows: int = 4_000_000
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.head_rows < 1 or self.fan < 2:
            raise SegmentsInvalid(
                f"head_rows is {self.head_rows} and fan {self.fan}; give at least 1 and 2"
            )
        if self.segment_rows < self.head_rows:
            raise SegmentsInvalid(
                f"segment_rows is {self.segment_rows}; give at least head_rows, {self.head_rows}"
            )
        if not 0 <= self.dead_share < 1 or not self.erasure_deadline_s >= 0:
            raise SegmentsInvalid(
                f"dead_share is {self.dead_share} and erasure_deadline_s "
                f"{self.erasure_deadline_s}; give 0 or more, and a share below 1"
            )
        if self.rows not in ("float32", "float16"):
            raise SegmentsInvalid(f"rows is {self.rows!r}; give float32 or float16")


@frozen
class SegmentState:
    """Rows alive and removed, and since when, in seconds of the caller's clock."""

    alive: int
    removed: int
    removed_since: float | None = None


Places = tuple[int, ...]
"""Positions of the segments to rewrite into one without tombstones; may be empty."""


def overdue(segments: Sequence[SegmentState], config: SegmentsConfig, now: float) -> Places:
    """A segment with a tombstone past its deadline."""
    latest = now - config.erasure_deadline_s
    return _first(segments, lambda s: s.removed_since is not None and s.removed_since <= latest)


def with_tombstones(segments: Sequence[SegmentState]) -> Places:
    """A segment with a tombstone."""
    return _first(segments, lambda segment: segment.removed > 0)


def due_rewrite(segments: Sequence[SegmentState], config: SegmentsConfig) -> Places:
    """A rewrite that speeds up search: an empty segment, a full class, many removed rows."""
    share = config.dead_share
    return (
        _first(segments, lambda segment: not segment.alive)
        or due_merge([segment.alive for segment in segments], config)
        or _first(segments, lambda s: s.removed > share * (s.alive + s.removed))
    )


def due_seal(sizes: Sequence[int], config: SegmentsConfig) -> int:
    """How many full heads, the oldest first, become one segment: as many as fit into one."""
    totals = accumulate(sizes[: config.fan])
    return max(1, sum(total <= config.segment_rows for total in totals))


def due_merge(sizes: Sequence[int], config: SegmentsConfig) -> Places:
    """The segments of a full class, and of the classes that would overflow by merging it, together
    not larger than a segment may be; one of more than half of that stays."""
    most = config.segment_rows
    classes: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        if 2 * size <= most:
            classes.setdefault(size_class(size, config), []).append(place)
    full = [order for order, places in classes.items() if len(places) >= config.fan]
    if not full:
        return ()
    merged: list[int] = []
    total = 0
    for place in sorted(classes.pop(min(full)), key=lambda place: sizes[place]):
        if total + sizes[place] <= most:
            merged, total = [*merged, place], total + sizes[place]
    while True:
        # If the result would fill its own class, merge that at once and save one rewrite.
        others = classes.pop(size_class(total, config), [])
        total += sum(sizes[place] for place in others)
        if len(others) + 1 < config.fan or total > most:
            return tuple(sorted(merged))
        merged += others


def size_class(size: int, config: SegmentsConfig) -> int:
    """0 for fewer than `fan` heads of rows, 1 for fewer than `fan` times that, and so on."""
    order, limit = 0, config.head_rows * config.fan
    while size >= limit:
        order, limit = order + 1, limit * config.fan
    return order


def next_deadline(segments: Sequence[SegmentState], config: SegmentsConfig) -> float | None:
    """The time by which the oldest tombstone has to be gone, by the caller's clock."""
    since = [s.removed_since for s in segments if s.removed_since is not None]
    return min(since) + config.erasure_deadline_s if since else None


def _first(segments: Sequence[SegmentState], holds: Callable[[SegmentState], bool]) -> Places:
    return next(((place,) for place, segment in enumerate(segments) if holds(segment)), ())


_ROWS_AT_ONCE = 1 << 12


@dataclass(slots=True, eq=False)
class Rewrite:
    """A job that makes one segment of parts, as of its begin; the parts stay in use meanwhile.

    `removed` collects the ids removed while it runs, whose rows `wipe` overwrites in the product.
    """

    begun: float
    sealed: tuple[SealedView, ...] = ()
    heads: tuple[HeadView, ...] = ()
    removed: list[Ids] = field(default_factory=list)
    _product: _Product | None = field(default=None, init=False)

    def build(self, config: SegmentsConfig, scanner: Scanner) -> Exact8Segment | None:
        """Builds the segment while the parts are searched and changed; None if nothing is alive."""
        parts: tuple[Part, ...] = (*self.sealed, *self.heads)
        if not any(map(len, parts)):
            return None
        product = _Product(parts, self._dtype(config), scanner)
        # From here on removals reach it; nothing has been copied yet.
        self._product = product
        try:
            return product.fill()
        except BaseException:
            # Now, for who has the error has the memory too.
            product.overwrite()
            raise

    def wipe(self, part: Part, rows: Positions) -> None:
        """Overwrites these rows of a part in the product; the part must have them as removed.

        A block that is being copied, or coded, is looked through when that is done: nobody waits.
        """
        if self._product is not None:
            self._product.wipe(part, rows)

    def settle(self, product: Exact8Segment) -> None:
        """Removes from the product what was removed meanwhile; call it while nothing changes."""
        if not self.removed:
            return
        rows, present = product.find(np.unique(np.concatenate(self.removed)))
        product.remove_rows(rows[present])

    def _dtype(self, config: SegmentsConfig) -> np.dtype[Any]:
        """float16 only where that loses nothing, so that no score changes."""
        if config.rows == "float16" and self._is_narrow():
            return np.dtype(np.float16)
        return np.dtype(np.float32)

    def _is_narrow(self) -> bool:
        return all(view.segment.rows.dtype == np.float16 for view in self.sealed) and all(
            np.array_equal(narrowed(head.rows[block]), head.rows[block])
            for head in self.heads
            for block in _blocks(len(head.rows))
        )


class _Product:
    """Room for one segment of the rows alive in its parts, which removals reach while it fills.

    The first pass finds the place of each row by its residual, the second writes it there: there is
    never more in memory than the product beside its parts.

    The flags of a removed row's part change first; then `wipe` overwrites what is there. `fill`
    copies a block and reads the flags again: if they have not changed, `wipe` comes later.
    """

    def __init__(self, parts: Sequence[Part], dtype: np.dtype[Any], scanner: Scanner) -> None:
        self._parts, self._scanner = parts, scanner
        self._places = [np.flatnonzero(part.alive) for part in parts]
        limits = {part.segment.codes.limit for part in parts if isinstance(part, SealedView)}
        assert len(limits) <= 1, "one limit for a dimension"
        dim = parts[0].dim
        self._limit = limits.pop() if limits else code_limit(dim)
        pairs = zip(parts, self._places, strict=True)
        measured = [_measure(part, places, self._limit) for part, places in pairs]
        self._longest = max(longest for _, longest in measured)
        residuals = np.concatenate([residuals for residuals, _ in measured])
        del measured
        order = np.argsort(residuals, kind="stable")
        residuals = residuals[order]
        self._residuals = residuals if residuals.dtype == np.float32 else rounded_up(residuals)
        self._target = np.empty(len(order), np.int64)
        self._target[order] = np.arange(len(order))
        del order, residuals
        total = len(self._target)
        self._codes = Codes.empty(total, dim, self._limit)
        self._ids = np.empty(total, np.int64)
        self._rows = overwrite_when_freed(np.empty((total, dim), dtype))

    def fill(self) -> Exact8Segment:
        """Copies the rows, and makes the segment."""
        end = 0
        for part, places in zip(self._parts, self._places, strict=True):
            for block in _blocks(len(places)):
                some = places[block]
                start, end = end, end + len(some)
                self._copy(part, some, self._target[start:end])
        codes, rows = self._codes, MemoryRows(self._rows)
        codes.fill(self._residuals, self._longest)
        return Exact8Segment.of_codes(self._ids, codes, rows, scanner=self._scanner)

    def wipe(self, part: Part, rows: Positions) -> None:
        """`Rewrite.wipe`."""
        start = 0
        for own, places in zip(self._parts, self._places, strict=True):
            if own.source is part.source:
                at = places.searchsorted(rows)
                held = at < len(places)
                held[held] = places[at[held]] == rows[held]
                self._wipe(self._target[start + at[held]])
            start += len(places)

    def overwrite(self) -> None:
        """Overwrites all of it."""
        for array in (self._rows, self._codes.bytes, self._codes.plane.halves):
            overwrite(array)

    def _copy(self, part: Part, some: Positions, at: Positions) -> None:
        """Copies some rows of a part to these places."""
        self._ids[at] = part.stored_ids[some]
        if isinstance(part, SealedView):
            self._rows[at] = part.take(some)
            self._codes.bytes[at] = overwrite_when_freed(part.segment.codes.bytes[some])
        else:
            self._rows[at] = rows = part.take(some)
            self._codes.bytes[at] = encode(rows, self._limit)[0]
        gone = ~part.alive_now[some]
        if gone.any():
            self._wipe(at[gone])

    def _wipe(self, at: Positions) -> None:
        self._rows[at] = 0
        self._codes.wipe(at)
        # After the codes, for it goes by them.
        self._scanner.wipe(self._codes, at)


def _measure(part: Part, places: Positions, limit: float) -> tuple[Floats | Doubles, float]:
    """The residuals of these rows, float64 where they are not rounded yet, and a length that none
    of them exceeds."""
    if isinstance(part, SealedView):
        return part.segment.codes.residuals[places], part.segment.codes.longest
    residuals, longest = np.empty(len(places)), 0.0
    for block in _blocks(len(places)):
        _, residuals[block], most = encode(part.take(places[block]), limit)
        longest = max(longest, most)
    return residuals, longest


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + _ROWS_AT_ONCE) for start in range(0, count, _ROWS_AT_ONCE)]


def narrowed(vectors: Vectors) -> Vectors:
    """The vectors rounded to float16, as float32[n, dim]."""
    with np.errstate(over="ignore"):
        halves = overwrite_when_freed(vectors.astype(np.float16))
        return overwrite_when_freed(halves.astype(np.float32))


@frozen(eq=False)
class Batch:
    """Checked references to add, whose ids may still be taken; many are in `segments` already."""

    keys: list[int]
    ids: Ids
    rows: Vectors
    segments: tuple[Exact8Segment, ...]
