"""Which segments to rewrite, and when: the policy, which touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Vectors
from indexes.errors import IdInvalid, SegmentsInvalid
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.flat import FlatIndex


@dataclass(frozen=True, slots=True)
class SegmentsConfig:
    """How a gallery grows.

    `head_rows`: a head of so many references is sealed. `fan`: a class of segments of about one
    size holds fewer than so many, and the next class is so many times larger; a reference is
    rewritten once a class. `dead_share`: a segment of which more is removed is rewritten.
    `erasure_deadline_s`: what was removed is overwritten at once; so many seconds later the
    rewrite begins that leaves out its id and flag, and its row in a mapped file. `rows`: how
    the vectors are kept; with float16 a reference is rounded once, when it is added.
    """

    head_rows: int = 8192
    fan: int = 4
    dead_share: float = 0.2
    erasure_deadline_s: float = 86_400
    rows: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        if self.head_rows < 1 or self.fan < 2:
            raise SegmentsInvalid(
                f"head_rows is {self.head_rows} and fan {self.fan}; give at least 1 and 2"
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
    """What the policy has to know of a segment.

    `removed_since` is the time of its oldest tombstone, in seconds of the caller's clock.
    """

    alive: int
    removed: int
    removed_since: float | None = None


Places = tuple[int, ...]
"""Which of the segments given are to become one without tombstones; empty where none are."""


def overdue(segments: Sequence[SegmentState], config: SegmentsConfig, now: float) -> Places:
    """A segment that has kept a tombstone for as long as it may."""
    for place, segment in enumerate(segments):
        since = segment.removed_since
        if since is not None and now - since >= config.erasure_deadline_s:
            return (place,)
    return ()


def buried(segments: Sequence[SegmentState]) -> Places:
    """A segment that has a tombstone."""
    return next(((place,) for place, segment in enumerate(segments) if segment.removed), ())


def due_rewrite(segments: Sequence[SegmentState], config: SegmentsConfig) -> Places:
    """What search would gain by: an empty segment, a class to merge, a segment half dead."""
    for place, segment in enumerate(segments):
        if not segment.alive:
            return (place,)
    merged = due_merge([segment.alive for segment in segments], config)
    return merged or _due_compaction(segments, config)


def due_merge(sizes: Sequence[int], config: SegmentsConfig) -> Places:
    """The places of the segments of a full class, and of the classes that would overflow by it."""
    classes: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        classes.setdefault(size_class(size, config), []).append(place)
    full = [order for order, places in classes.items() if len(places) >= config.fan]
    if not full:
        return ()
    merged = classes.pop(min(full))
    while True:
        # Where the result would fill its own class, that one is merged at once: one rewrite less.
        order = size_class(sum(sizes[place] for place in merged), config)
        if len(classes.get(order, [])) + 1 < config.fan:
            return tuple(sorted(merged))
        merged = merged + classes.pop(order)


def size_class(size: int, config: SegmentsConfig) -> int:
    """0 below fan heads, 1 below fan times as many, and so on."""
    order, limit = 0, config.head_rows * config.fan
    while size >= limit:
        order, limit = order + 1, limit * config.fan
    return order


def next_deadline(segments: Sequence[SegmentState], config: SegmentsConfig) -> float | None:
    """When the first tombstone has to be gone, by the caller's clock."""
    since = [s.removed_since for s in segments if s.removed_since is not None]
    return min(since) + config.erasure_deadline_s if since else None


def _due_compaction(segments: Sequence[SegmentState], config: SegmentsConfig) -> Places:
    for place, segment in enumerate(segments):
        if segment.removed > config.dead_share * (segment.alive + segment.removed):
            return (place,)
    return ()


# Making one sealed segment of parts that stay in use meanwhile.

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """A job: what is to become one segment, as of the moment that it began.

    `alive` bool[n] is a copy for each segment, `loose` the ids and vectors of each head, copied
    too. `removed` gathers what is removed while the job runs: it has to go from the product as
    well, wherever the job was when its rows were wiped.
    """

    begun: float
    segments: tuple[Exact8Segment, ...] = ()
    alive: tuple[NDArray[np.bool_], ...] = ()
    heads: tuple[FlatIndex, ...] = ()
    loose: tuple[tuple[Ids, Vectors], ...] = ()
    removed: list[Ids] = field(default_factory=list)

    @classmethod
    def of_segments(cls, segments: Sequence[Exact8Segment], begun: float) -> Rewrite:
        """Of these segments without their tombstones; to be called while nothing changes."""
        alive = tuple(segment.alive_rows.copy() for segment in segments)
        return cls(begun, segments=tuple(segments), alive=alive)

    @classmethod
    def of_heads(cls, heads: Sequence[FlatIndex], begun: float) -> Rewrite:
        """Of these heads; to be called while nothing changes."""
        loose = tuple(head.contents() for head in heads)
        return cls(begun, heads=tuple(heads), loose=loose)

    def build(self, config: SegmentsConfig, scanner: Scanner) -> Exact8Segment | None:
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
        return Exact8Segment(ids, rows, scanner=scanner)

    def settle(self, product: Exact8Segment) -> None:
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


# References on their way into a segmented index.

Part = FlatIndex | Exact8Segment


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """References to add, checked but for whether their ids are new; sealed where they are many."""

    keys: list[int]
    ids: Ids
    rows: Vectors
    segment: Exact8Segment | None


def require_new(batch: Batch, parts: Sequence[Part]) -> None:
    """Refuses a batch of which an id is in one of the parts already."""
    keys = batch.keys
    lowest, highest = min(keys, default=0), max(keys, default=-1)
    for part in parts:
        if isinstance(part, FlatIndex):
            part.require_new(keys)
        elif part.may_hold(lowest, highest):
            # One id, the usual batch, is looked up without the cost of arrays.
            present = part.find(batch.ids)[1] if len(keys) > 1 else np.array([keys[0] in part])
            if present.any():
                key = keys[int(present.argmax())]
                raise IdInvalid(f"id {key} is in the index already; remove it first")
