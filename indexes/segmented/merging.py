"""Merge policy of segments, the rewrite itself, and batches on their way into an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from indexes.base import Ids, Vectors
from indexes.errors import IdInvalid, SegmentsInvalid
from indexes.exact.codes import Codes
from indexes.exact.exact8 import Exact8Segment, MemoryRows
from indexes.exact.scanner import Scanner
from indexes.memory import overwrite_when_freed
from indexes.segmented.head import HeadView
from indexes.segmented.view import Part, SealedView, View


@dataclass(frozen=True, slots=True)
class SegmentsConfig:
    """When heads are sealed and segments rewritten.

    `head_rows`: a head of so many references is sealed. `fan`: a class of segments of similar size
    has fewer than so many, and the segments of the next class are so many times larger; a reference
    is rewritten once a class. `dead_share`: a segment with a larger share of removed rows is
    rewritten. `erasure_deadline_s`: removed rows are overwritten at once; so many seconds later the
    rewrite begins that leaves out their ids and flags, and their rows in a mapped file. `rows`: the
    type of stored vectors; with float16 a reference is rounded once, when it is added.
    `segment_rows`: no segment becomes larger, so that a rewrite never needs the memory of more than
    so many references beside the gallery. `device`: where codes are compared, one of
    `indexes.exact.device.DEVICES`.
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


@dataclass(frozen=True, slots=True)
class SegmentState:
    """Input of the policy: rows alive and removed.

    `removed_since` is the time of the oldest tombstone, in seconds of the caller's clock.
    """

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
    """How many of the full heads, the oldest first, become one segment: as many as fit into one.

    At least one, for none is larger than a segment may be.
    """
    totals = accumulate(sizes[: config.fan])
    return max(1, sum(total <= config.segment_rows for total in totals))


def due_merge(sizes: Sequence[int], config: SegmentsConfig) -> Places:
    """The segments of a full class, and of the classes that would overflow by merging it.

    Together they are not larger than a segment may be. One of more than half of that stays.
    """
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


@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """A job that makes one segment of parts, as of its begin; the parts stay in use meanwhile.

    `removed` collects the ids removed while the job runs: they must be removed from the product
    too, for their rows may have been copied before they were wiped.
    """

    begun: float
    sealed: tuple[SealedView, ...] = ()
    heads: tuple[HeadView, ...] = ()
    removed: list[Ids] = field(default_factory=list)

    def build(self, config: SegmentsConfig, scanner: Scanner) -> Exact8Segment | None:
        """Builds the segment while the parts are searched and changed; None if nothing is alive."""
        parts: tuple[Part, ...] = (*self.sealed, *self.heads)
        total = sum(map(len, parts))
        if not total:
            return None
        if self.sealed:
            return _merged(self.sealed, total, self._dtype(config), scanner)
        rows = np.empty((total, self.heads[0].rows.shape[1]), self._dtype(config))
        overwrite_when_freed(rows)
        ids = np.empty(total, np.int64)
        end = 0
        for head in self.heads:
            start, end = end, end + len(head)
            ids[start:end], rows[start:end] = head.contents()
        return Exact8Segment(ids, rows, scanner=scanner)

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
            np.array_equal(narrowed(head.rows), head.rows) for head in self.heads
        )


def _merged(
    sealed: Sequence[SealedView], total: int, dtype: np.dtype[Any], scanner: Scanner
) -> Exact8Segment:
    """One segment of the rows alive, by the codes and residuals that they have already.

    The first pass finds the place of each row, the second writes it there: there is never more in
    memory than the product beside its parts.
    """
    limit, dim = sealed[0].segment.codes.limit, sealed[0].segment.dim
    assert all(view.segment.codes.limit == limit for view in sealed), "one limit for a dimension"
    places_of = [np.flatnonzero(view.alive) for view in sealed]
    pairs = list(zip(sealed, places_of, strict=True))
    residuals = np.concatenate([view.segment.codes.residuals[places] for view, places in pairs])
    order = np.argsort(residuals, kind="stable")
    residuals = residuals[order]
    target = np.empty(total, np.int64)
    target[order] = np.arange(total)
    del order
    codes = Codes.empty(total, dim, limit)
    ids, rows = np.empty(total, np.int64), np.empty((total, dim), dtype)
    end = 0
    for view, places in pairs:
        for first in range(0, len(places), _ROWS_AT_ONCE):
            some = places[first : first + _ROWS_AT_ONCE]
            start, end = end, end + len(some)
            at = target[start:end]
            rows[at] = view.segment.rows.take(some)
            codes.bytes[at] = overwrite_when_freed(view.segment.codes.bytes[some])
            ids[at] = view.segment.row_ids[some]
    codes.fill(residuals, max(view.segment.codes.longest for view in sealed))
    return Exact8Segment.of_codes(ids, codes, MemoryRows(rows), scanner=scanner)


def narrowed(vectors: Vectors) -> Vectors:
    """The vectors rounded to float16, as float32[n, dim]."""
    with np.errstate(over="ignore"):
        halves = overwrite_when_freed(vectors.astype(np.float16))
        return overwrite_when_freed(halves.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Checked references to add, whose ids may still be taken.

    Where there are many they are in `segments` already.
    """

    keys: list[int]
    ids: Ids
    rows: Vectors
    segments: tuple[Exact8Segment, ...]


def require_new(batch: Batch, view: View) -> None:
    """`IdInvalid` where an id of the batch is in the index already."""
    keys = batch.keys
    lowest, highest = min(keys, default=0), max(keys, default=-1)
    for head in view.heads:
        if not head.head.row_of.keys().isdisjoint(keys):
            _refuse(next(key for key in keys if key in head.head.row_of))
    for sealed in view.sealed:
        if sealed.segment.may_hold(lowest, highest):
            # A single id, the usual batch, is looked up without the cost of arrays.
            present = sealed.find(batch.ids)[1] if len(keys) > 1 else np.array([keys[0] in sealed])
            if present.any():
                _refuse(keys[int(present.argmax())])


def _refuse(key: int) -> None:
    raise IdInvalid(f"id {key} is in the index already; remove it first")
