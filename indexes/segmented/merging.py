"""Which segments to rewrite, and when: the policy, which touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from indexes.errors import SegmentsInvalid


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
