"""An index that grows: a flat head, visible at once, and sealed segments that merge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from indexes.base import Ids, MemoryAccount, VectorIndex, Vectors
from indexes.errors import IdInvalid
from indexes.exact.certificate import CertifiedHits
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.flat import FlatIndex
from indexes.scoring import Positions
from indexes.segmented.fanout import Parts
from indexes.segmented.merging import (
    Batch,
    Part,
    Rewrite,
    SegmentsConfig,
    SegmentState,
    buried,
    due_rewrite,
    narrowed,
    next_deadline,
    overdue,
    require_new,
)
from indexes.validation import (
    check_distinct,
    check_hit_count,
    check_ids,
    check_references,
    check_threshold,
    check_vectors,
)

# A batch of so many heads is worth a segment of its own.
_BULK_HEADS = 4


class SegmentedIndex(VectorIndex):
    """A `VectorIndex` whose answers are those of `FlatIndex` over the same vectors, bit for bit.

    Adding costs O(rows added), and nothing here seals or merges by itself: `begin_rewrite` says
    what is due, `Rewrite.build` makes the new segment beside the old parts, and `finish_rewrite`
    puts it in their place. `Gallery` does that with the locks it takes. Removed references are
    wiped from memory at once, and are tombstones until their segment is rewritten.

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
        self._head = FlatIndex(dim)
        self._dim = dim
        self.config = config or SegmentsConfig()
        self.scanner = scanner or Scanner()
        self._clock = clock
        self._frozen: tuple[FlatIndex, ...] = ()
        self._segments: tuple[Exact8Segment, ...] = ()
        self._removed_since: dict[str, float] = {}
        self._rewrites: list[Rewrite] = []

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
        """The index that had these segments, their tombstones in them, and this head.

        `removed_since` is the property of that index; a segment with tombstones that is not in it
        is rewritten at once. Ids that are alive twice are refused with `IdInvalid`.
        """
        index = cls(dim, config, scanner=scanner, clock=clock)
        index._segments = tuple(segments)
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
    def dim(self) -> int:
        return self._dim

    @property
    def segments(self) -> tuple[Exact8Segment, ...]:
        """The sealed segments."""
        return self._segments

    @property
    def heads(self) -> tuple[FlatIndex, ...]:
        """What is not sealed yet: full heads, the oldest first, and the one that grows."""
        return (*self._frozen, self._head)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that may hold a reference."""
        return (*self.heads, *self._segments)

    @property
    def removed_since(self) -> dict[str, float]:
        """By the name of a segment, the time of its oldest tombstone; a copy."""
        return dict(self._removed_since)

    @property
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""
        return np.sort(np.concatenate([part.ids for part in self.parts]))

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __contains__(self, key: object) -> bool:
        return any(key in part for part in self.parts)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds new ids; an id that is there already is refused."""
        self.admit(self.prepare(ids, vectors))

    def prepare(self, ids: Ids, vectors: Vectors) -> Batch:
        """What of `add` needs nothing of the index, and takes long for many."""
        keys, rows = check_references(ids, vectors, self._dim)
        if self.config.rows == "float16":
            rows = check_vectors(narrowed(rows), self._dim)
        segment = None
        if len(keys) >= _BULK_HEADS * self.config.head_rows:
            segment = Exact8Segment(ids, rows.astype(self.config.rows), scanner=self.scanner)
        return Batch(keys, ids, rows, segment)

    def admit(self, batch: Batch, *, is_new: bool = False) -> None:
        """The rest of `add`; `is_new` where `require_new` was asked of all parts by the caller."""
        if not is_new:
            require_new(batch, self.parts)
        if batch.segment is not None:
            self._segments = (*self._segments, batch.segment)
        else:
            self._append(batch.keys, batch.ids, batch.rows)

    def remove(self, ids: Ids) -> None:
        """Removes these ids; an unknown one is refused, and then none is removed."""
        keys = check_distinct(check_ids(ids))
        for part, places, rows in self._locate(ids, keys):
            if isinstance(part, FlatIndex):
                part.remove(ids[places])
            else:
                part.bury(rows)
                self._removed_since.setdefault(part.name, self._clock())
        for rewrite in self._rewrites:
            rewrite.removed.append(ids.copy())

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order asked: float32[n, dim]; a copy."""
        found = self._locate(ids, check_ids(ids))
        rows = np.empty((len(ids), self._dim), np.float32)
        for part, places, at in found:
            if isinstance(part, FlatIndex):
                rows[places] = part.vectors(ids[places])
            else:
                rows[places] = part.rows.take(at)
        return rows

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        """The k best of each query, or all where there are fewer."""
        queries, k = check_vectors(queries, self._dim), check_hit_count(k)
        return self._searched().search(queries, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        """Everything whose score, as a float, is at or above the threshold."""
        queries, threshold = check_vectors(queries, self._dim), check_threshold(threshold)
        return self._searched().range_search(queries, threshold)

    def account(self) -> MemoryAccount:
        """Where the memory goes; without what a rewrite takes while it runs."""
        account = MemoryAccount(0, head=sum(head.account().total for head in self.heads))
        account += MemoryAccount(sum(map(len, self.heads)))
        return sum((segment.account() for segment in self._segments), account)

    def deadline_s(self) -> float | None:
        """How long until the oldest tombstone has to be gone; None where there is none."""
        deadline = next_deadline(self._states(), self.config)
        return None if deadline is None else deadline - self._clock()

    def begin_rewrite(self, *, all_removed: bool = False) -> Rewrite | None:
        """The next job that is due, or any that takes out tombstones; None if none is.

        To be called while nothing changes; end it by `finish_rewrite` or `abandon_rewrite`.
        """
        states, now = self._states(), self._clock()
        if all_removed:
            places = buried(states)
        else:
            places = overdue(states, self.config, now)
            if not places and self._frozen:
                return self._begin(Rewrite.of_heads(self._frozen[: self.config.fan], now))
            places = places or due_rewrite(states, self.config)
        if not places:
            return None
        return self._begin(Rewrite.of_segments([self._segments[i] for i in places], now))

    def finish_rewrite(self, rewrite: Rewrite, product: Exact8Segment | None) -> None:
        """Puts the product in the place of its parts; to be called while nothing runs."""
        if product is not None:
            # First, for it may fail, and the parts must still be there then.
            rewrite.settle(product)
        frozen = tuple(head for head in self._frozen if head not in rewrite.heads)
        segments = tuple(s for s in self._segments if s not in rewrite.segments)
        if product is not None and len(product):
            segments = (*segments, product)
            if product.removed:
                self._removed_since[product.name] = rewrite.begun
        self._rewrites.remove(rewrite)
        self._frozen, self._segments = frozen, segments
        for segment in rewrite.segments:
            self._removed_since.pop(segment.name, None)

    def abandon_rewrite(self, rewrite: Rewrite) -> None:
        """Leaves the parts as they are."""
        self._rewrites.remove(rewrite)

    def _states(self) -> list[SegmentState]:
        return [
            SegmentState(len(s), s.removed, self._removed_since.get(s.name)) for s in self._segments
        ]

    def _searched(self) -> Parts:
        return Parts(self._segments, self.heads, self.scanner.kernel)

    def _begin(self, rewrite: Rewrite) -> Rewrite:
        self._rewrites.append(rewrite)
        return rewrite

    def _append(self, keys: list[int], ids: Ids, rows: Vectors) -> None:
        self._head.append(keys, ids, rows)
        if len(self._head) >= self.config.head_rows:
            self._frozen = (*self._frozen, self._head)
            self._head = FlatIndex(self._dim)

    def _locate(self, ids: Ids, keys: list[int]) -> list[tuple[Part, Positions, Positions]]:
        """Where ids are: the part, which of the ids, and their rows where it is a segment."""
        found: list[tuple[Part, Positions, Positions]] = []
        missing = np.ones(len(keys), np.bool_)
        lowest, highest = min(keys, default=0), max(keys, default=-1)
        for segment in self._segments:
            if not segment.may_hold(lowest, highest):
                continue
            rows, present = segment.find(ids)
            found.append((segment, np.flatnonzero(present), rows[present]))
        for head in self.heads:
            places = np.flatnonzero(head.among(keys))
            found.append((head, places, places))
        for _, places, _ in found:
            missing[places] = False
        if missing.any():
            raise IdInvalid(f"id {keys[int(missing.argmax())]} is not in the index")
        return [place for place in found if len(place[1])]
