"""Segmented index: flat heads, searchable at once, and sealed segments that merge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from weakref import WeakSet

import numpy as np

from indexes.base import (
    CertifiedHits,
    Ids,
    MemoryAccount,
    Positions,
    VectorIndex,
    Vectors,
    check_distinct,
    check_ids,
    check_references,
    check_vectors,
    overwrite_when_freed,
)
from indexes.errors import IdInvalid
from indexes.exact.device import open_scanner
from indexes.exact.exact8 import Exact8Segment, RowStore
from indexes.exact.scanner import Scanner
from indexes.segmented.merging import (
    Batch,
    Rewrite,
    SegmentsConfig,
    SegmentState,
    due_rewrite,
    due_seal,
    narrowed,
    next_deadline,
    overdue,
    with_tombstones,
)
from indexes.segmented.view import Head, HeadView, Part, SealedView, View

# A batch as large as so many heads becomes a segment of its own.
_BULK_HEADS = 4


class SegmentedIndex(VectorIndex):
    """A `VectorIndex` whose answers are those of comparing with every row, bit for bit.

    Adding costs O(rows added). `begin_rewrite` returns the job that is due, `Rewrite.build` makes
    the new segment, and `finish_rewrite` replaces the old parts by it: `Gallery` does that. Removed
    references are wiped from memory, also where a segment is being made, or was replaced and is
    still read, and are tombstones until their segment is rewritten.

    `view` is the index at this moment: it does not change, and any number of threads may search it
    while one at a time changes the index, provided that what `withdraw` returns waits for them.

    `clock` gives seconds since the epoch: the age of a tombstone outlives a restart.
    """

    kind = "exact8"

    def __init__(
        self,
        dim: int,
        config: SegmentsConfig | None = None,
        *,
        scanner: Scanner | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._dim = dim
        self.config = config or SegmentsConfig()
        self.scanner = scanner or open_scanner(self.config.device)
        self._clock = clock
        self._head = Head(dim, self.config.head_rows)
        self.view = View(dim, (), (self._head.view,), self.scanner)
        self._removed_since: dict[str, float] = {}
        self._rewrites: list[Rewrite] = []
        # Parts that somebody may read although the index has them no more.
        self._replaced_segments: WeakSet[Exact8Segment] = WeakSet()
        self._replaced_heads: WeakSet[Head] = WeakSet()

    @classmethod
    def restore(
        cls,
        dim: int,
        segments: Sequence[Exact8Segment],
        head: tuple[Ids, Vectors],
        config: SegmentsConfig | None = None,
        *,
        removed_since: Mapping[str, float],
        scanner: Scanner | None = None,
        clock: Callable[[], float] = time.time,
    ) -> SegmentedIndex:
        """An index from saved segments, with their tombstones, and the saved head.

        A segment with tombstones that is not in `removed_since` is rewritten at once. `IdInvalid`
        where an id is alive twice.
        """
        index = cls(dim, config, scanner=scanner, clock=clock)
        index.view = replace(index.view, sealed=tuple(map(SealedView.of, segments)))
        for segment in segments:
            assert segment.dim == dim
            if segment.removed:
                index._removed_since[segment.name] = removed_since.get(segment.name, 0.0)
        ids, vectors = head
        index._append(check_ids(ids), ids, check_vectors(vectors, dim))
        held = index.ids
        twice = held[1:] == held[:-1]
        if twice.any() or len(held) != len(index):
            raise IdInvalid("an id is in two segments, or in one and the head; give each id once")
        return index

    @property
    def search_fault(self) -> str | None:
        return self.scanner.fault

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def segments(self) -> tuple[Exact8Segment, ...]:
        """The sealed segments."""
        return tuple(view.segment for view in self.view.sealed)

    @property
    def heads(self) -> tuple[HeadView, ...]:
        """References not sealed yet: full heads, the oldest first, and the growing one."""
        return self.view.heads

    @property
    def removed_since(self) -> dict[str, float]:
        """By the name of a segment, the time of its oldest tombstone; a copy."""
        return dict(self._removed_since)

    @property
    def ids(self) -> Ids:
        return self.view.ids

    def __len__(self) -> int:
        return len(self.view)

    def __contains__(self, key: object) -> bool:
        return key in self.view

    def add(self, ids: Ids, vectors: Vectors) -> None:
        self.admit(self.prepare(ids, vectors))

    def prepare(self, ids: Ids, vectors: Vectors) -> Batch:
        """The slow part of `add`, which does not touch the index."""
        keys, rows = check_references(ids, vectors, self._dim)
        is_narrow = self.config.rows == "float16"
        if is_narrow:
            rows = check_vectors(narrowed(rows), self._dim)
        segments: tuple[Exact8Segment, ...] = ()
        if len(keys) >= _BULK_HEADS * self.config.head_rows:
            pieces = -(-len(keys) // self.config.segment_rows)
            parts = zip(np.array_split(ids, pieces), np.array_split(rows, pieces), strict=True)
            segments = tuple(
                Exact8Segment(
                    some,
                    overwrite_when_freed(part.astype(np.float16)) if is_narrow else part,
                    scanner=self.scanner,
                )
                for some, part in parts
            )
        return Batch(keys, ids, rows, segments)

    def admit(self, batch: Batch) -> None:
        """The rest of `add`."""
        _require_new(batch, self.view)
        if batch.segments:
            sealed = (*self.view.sealed, *map(SealedView.of, batch.segments))
            self.view = replace(self.view, sealed=sealed)
        else:
            self._append(batch.keys, batch.ids, batch.rows)

    def remove(self, ids: Ids) -> None:
        self.withdraw(ids)()

    def withdraw(self, ids: Ids) -> Callable[[], None]:
        """Removes these ids from the view; the result wipes them, when no older view is read."""
        keys = check_distinct(check_ids(ids))
        found = self.view.locate(ids, keys)
        wipes: list[Callable[[], None]] = []
        sealed, heads = list(self.view.sealed), list(self.view.heads)
        for part, _, rows in found:
            if isinstance(part, HeadView):
                wipes.append(part.head.remove(keys))
                heads[heads.index(part)] = part.head.view
            else:
                wipes.append(_remove(part.segment, rows))
                sealed[sealed.index(part)] = SealedView.of(part.segment)
                self._removed_since.setdefault(part.segment.name, self._clock())
        self.view = replace(self.view, sealed=tuple(sealed), heads=tuple(heads))
        for rewrite in self._rewrites:
            rewrite.removed.append(ids.copy())
            wipes += [partial(rewrite.wipe, part, rows) for part, _, rows in found]
        for segment in list(self._replaced_segments):
            rows, present = segment.find(ids)
            if present.any():
                wipes.append(_remove(segment, rows[present]))
        wipes += [head.remove(keys) for head in list(self._replaced_heads)]

        def wipe() -> None:
            # All of them, also where one fails.
            with ExitStack() as each:
                for one in wipes:
                    each.callback(one)

        return wipe

    def watch(self, segment: Exact8Segment) -> None:
        """Has later removals wiped from a segment that is in no view, while it is in use."""
        self._replaced_segments.add(segment)

    def replace_rows(self, name: str, rows: RowStore) -> bool:
        """Reads the rows of a segment from another store from the next view on; False if the
        segment is gone. Who reads an older view keeps the old store, and frees it."""
        for view in self.view.sealed:
            if view.segment.name == name:
                other = SealedView.of(view.segment.reading_from(rows))
                sealed = tuple(other if one is view else one for one in self.view.sealed)
                self.watch(view.segment)
                self.view = replace(self.view, sealed=sealed)
                return True
        return False

    def vectors(self, ids: Ids) -> Vectors:
        return self.view.vectors(ids)

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        return self.view.search(queries, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        return self.view.range_search(queries, threshold)

    def account(self) -> MemoryAccount:
        """Memory use by part, without that of a running rewrite."""
        return self.view.account()

    def deadline_s(self) -> float | None:
        """Seconds until the oldest tombstone has to be gone; None where there is none."""
        deadline = next_deadline(self._states(), self.config)
        return None if deadline is None else deadline - self._clock()

    def begin_rewrite(self, *, all_removed: bool = False) -> Rewrite | None:
        """The next job that is due, or with `all_removed` any that removes tombstones; else None.

        Call it while nothing changes; end it by `finish_rewrite` or `abandon_rewrite`.
        """
        states, now = self._states(), self._clock()
        if all_removed:
            places = with_tombstones(states)
        else:
            places = overdue(states, self.config, now)
            full = self.view.heads[:-1]
            if not places and full:
                count = due_seal([len(head) for head in full], self.config)
                return self._begin(Rewrite(now, heads=full[:count]))
            places = places or due_rewrite(states, self.config)
        if not places:
            return None
        return self._begin(Rewrite(now, sealed=tuple(self.view.sealed[i] for i in places)))

    def finish_rewrite(self, rewrite: Rewrite, product: Exact8Segment | None) -> None:
        """Replaces the parts by the product; call it while nothing changes."""
        if product is not None:
            # First, for it may fail, and then the parts must stay.
            rewrite.settle(product)
        parts: tuple[Part, ...] = (*rewrite.sealed, *rewrite.heads)
        old = [part.source for part in parts]
        old_segments = [view.segment for view in self.view.sealed if view.source in old]
        sealed = tuple(view for view in self.view.sealed if view.source not in old)
        heads = tuple(view for view in self.view.heads if view.source not in old)
        if product is not None and len(product):
            sealed = (*sealed, SealedView.of(product))
            if product.removed:
                self._removed_since[product.name] = rewrite.begun
        self._rewrites.remove(rewrite)
        self._replaced_segments.update(old_segments)
        self._replaced_heads.update(view.head for view in rewrite.heads)
        self.view = replace(self.view, sealed=sealed, heads=heads)
        for segment in old_segments:
            self._removed_since.pop(segment.name, None)

    def abandon_rewrite(self, rewrite: Rewrite) -> None:
        """Ends the job and keeps the parts."""
        self._rewrites.remove(rewrite)

    def _states(self) -> list[SegmentState]:
        since = self._removed_since
        return [
            SegmentState(
                len(view), len(view.segment.row_ids) - len(view), since.get(view.segment.name)
            )
            for view in self.view.sealed
        ]

    def _begin(self, rewrite: Rewrite) -> Rewrite:
        self._rewrites.append(rewrite)
        return rewrite

    def _append(self, keys: list[int], ids: Ids, rows: Vectors) -> None:
        heads, room = [self._head], self._head.free
        # One more where the last is filled; made first, for it may fail, and then nothing changes.
        while room <= len(keys):
            heads.append(Head(self._dim, self.config.head_rows))
            room += self.config.head_rows
        start = 0
        for head in heads:
            part = slice(start, start + head.free)
            head.append(keys[part], ids[part], rows[part])
            start = part.stop
        full = self.view.heads[:-1]
        self._head = heads[-1]
        self.view = replace(self.view, heads=(*full, *(head.view for head in heads)))


def _remove(segment: Exact8Segment, rows: Positions) -> Callable[[], None]:
    segment.mark_removed(rows)
    return partial(segment.wipe_rows, rows)


def _require_new(batch: Batch, view: View) -> None:
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
