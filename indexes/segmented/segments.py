"""Segmented index: a flat head, searchable at once, and sealed segments that merge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from indexes.base import (
    Certificate,
    CertifiedHits,
    Hits,
    Ids,
    MemoryAccount,
    Scores,
    VectorIndex,
    Vectors,
    check_distinct,
    check_hit_count,
    check_ids,
    check_references,
    check_threshold,
    check_vectors,
)
from indexes.errors import IdInvalid
from indexes.exact.codes import CodedQueries
from indexes.exact.exact8 import Counts, Exact8Segment, Pairs, passes
from indexes.exact.scanner import Scanner
from indexes.flat import FlatIndex
from indexes.scoring import Positions, arrange, no_hits
from indexes.segmented.merging import (
    Batch,
    Part,
    Rewrite,
    SegmentsConfig,
    SegmentState,
    due_rewrite,
    narrowed,
    next_deadline,
    overdue,
    require_new,
    with_tombstones,
)

# A batch as large as so many heads becomes a segment of its own.
_BULK_HEADS = 4


class SegmentedIndex(VectorIndex):
    """A `VectorIndex` whose answers are those of `FlatIndex` over the same vectors, bit for bit.

    Adding costs O(rows added). Nothing is sealed or merged by itself: `begin_rewrite` returns the
    job that is due, `Rewrite.build` makes the new segment, and `finish_rewrite` replaces the old
    parts by it. `Gallery` does that under its locks. Removed references are wiped from memory at
    once, and are tombstones until their segment is rewritten.

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
        """An index from saved segments, with their tombstones, and the saved head.

        `removed_since` is the property of the saved index; a segment with tombstones that is not in
        it is rewritten at once. `IdInvalid` where an id is alive twice.
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
        """References not sealed yet: full heads, the oldest first, and the growing one."""
        return (*self._frozen, self._head)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Heads and segments."""
        return (*self.heads, *self._segments)

    @property
    def removed_since(self) -> dict[str, float]:
        """By the name of a segment, the time of its oldest tombstone; a copy."""
        return dict(self._removed_since)

    @property
    def ids(self) -> Ids:
        return np.sort(np.concatenate([part.ids for part in self.parts]))

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __contains__(self, key: object) -> bool:
        return any(key in part for part in self.parts)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        self.admit(self.prepare(ids, vectors))

    def prepare(self, ids: Ids, vectors: Vectors) -> Batch:
        """The slow part of `add`, which does not touch the index."""
        keys, rows = check_references(ids, vectors, self._dim)
        if self.config.rows == "float16":
            rows = check_vectors(narrowed(rows), self._dim)
        segment = None
        if len(keys) >= _BULK_HEADS * self.config.head_rows:
            segment = Exact8Segment(ids, rows.astype(self.config.rows), scanner=self.scanner)
        return Batch(keys, ids, rows, segment)

    def admit(self, batch: Batch, *, is_new: bool = False) -> None:
        """The rest of `add`; `is_new` where the caller has checked all parts by `require_new`."""
        if not is_new:
            require_new(batch, self.parts)
        if batch.segment is not None:
            self._segments = (*self._segments, batch.segment)
        else:
            self._append(batch.keys, batch.ids, batch.rows)

    def remove(self, ids: Ids) -> None:
        keys = check_distinct(check_ids(ids))
        for part, places, rows in self._locate(ids, keys):
            if isinstance(part, FlatIndex):
                part.remove(ids[places])
            else:
                part.remove_rows(rows)
                self._removed_since.setdefault(part.name, self._clock())
        for rewrite in self._rewrites:
            rewrite.removed.append(ids.copy())

    def vectors(self, ids: Ids) -> Vectors:
        found = self._locate(ids, check_ids(ids))
        rows = np.empty((len(ids), self._dim), np.float32)
        for part, places, at in found:
            if isinstance(part, FlatIndex):
                rows[places] = part.vectors(ids[places])
            else:
                rows[places] = part.rows.take(at)
        return rows

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        queries, k = check_vectors(queries, self._dim), check_hit_count(k)
        return self._searched().search(queries, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        queries, threshold = check_vectors(queries, self._dim), check_threshold(threshold)
        return self._searched().range_search(queries, threshold)

    def account(self) -> MemoryAccount:
        """Memory use by part, without that of a running rewrite."""
        account = MemoryAccount(0, head=sum(head.account().total for head in self.heads))
        account += MemoryAccount(sum(map(len, self.heads)))
        return sum((segment.account() for segment in self._segments), account)

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
            if not places and self._frozen:
                return self._begin(Rewrite.of_heads(self._frozen[: self.config.fan], now))
            places = places or due_rewrite(states, self.config)
        if not places:
            return None
        return self._begin(Rewrite.of_segments([self._segments[i] for i in places], now))

    def finish_rewrite(self, rewrite: Rewrite, product: Exact8Segment | None) -> None:
        """Replaces the parts by the product; call it while nothing runs."""
        if product is not None:
            # First, for it may fail, and then the parts must stay.
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
        """Ends the job and keeps the parts."""
        self._rewrites.remove(rewrite)

    def _states(self) -> list[SegmentState]:
        return [
            SegmentState(len(s), s.removed, self._removed_since.get(s.name)) for s in self._segments
        ]

    def _searched(self) -> SegmentSearch:
        return SegmentSearch(self._segments, self.heads, self.scanner.kernel)

    def _begin(self, rewrite: Rewrite) -> Rewrite:
        self._rewrites.append(rewrite)
        return rewrite

    def _append(self, keys: list[int], ids: Ids, rows: Vectors) -> None:
        self._head.append(keys, ids, rows)
        if len(self._head) >= self.config.head_rows:
            self._frozen = (*self._frozen, self._head)
            self._head = FlatIndex(self._dim)

    def _locate(self, ids: Ids, keys: list[int]) -> list[tuple[Part, Positions, Positions]]:
        """By part: which of the ids it has, and for a segment their rows."""
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


class SegmentSearch:
    """One search over several sealed segments and flat heads; an id is alive in one of them only.

    The codes of a query are made once for all segments. The largest segment is searched first: its
    k-th best score is the floor for the others, which then find next to nothing.
    """

    def __init__(
        self, segments: Sequence[Exact8Segment], heads: Sequence[FlatIndex], kernel: str
    ) -> None:
        self._segments = sorted((s for s in segments if len(s)), key=len, reverse=True)
        self._heads = [head for head in heads if len(head)]
        self._coarse = sum(segment.coarse for segment in self._segments)
        self._kernel = kernel

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        """The k best of each query; the input is not checked."""
        done = []
        for part in passes(len(queries), self._coarse, k):
            pass_hits = _PassHits(queries[part], self._segments)
            for segment in self._segments:
                found = segment.best(pass_hits.queries, pass_hits.coded, k, pass_hits.floors)
                pass_hits.take_sealed(segment, *found)
                pass_hits.keep_best(k)
            for head in self._heads:
                if pass_hits.is_empty():
                    pass_hits.take(*head.best(pass_hits.queries, k))
                else:
                    pass_hits.take(*head.at_or_above(pass_hits.queries, pass_hits.floors))
                pass_hits.keep_best(k)
            done.append(pass_hits)
        return self._answer(done, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        """Everything at or above the threshold; the input is not checked."""
        done = []
        for part in passes(len(queries), self._coarse):
            pass_hits = _PassHits(queries[part], self._segments)
            floors = np.full(len(pass_hits.queries), threshold)
            for segment in self._segments:
                found = segment.at_or_above(pass_hits.queries, pass_hits.coded, floors)
                pass_hits.take_sealed(segment, *found)
            for head in self._heads:
                pass_hits.take(*head.at_or_above(pass_hits.queries, floors))
            done.append(pass_hits)
        return self._answer(done)

    def _answer(self, done: list[_PassHits], k: int | None = None) -> CertifiedHits:
        hits = [pass_hits.hits(k) for pass_hits in done]
        offsets, ids, scores = [np.zeros(1, np.int64)], [], []
        for part in hits:
            offsets.append(part.offsets[1:] + offsets[-1][-1])
            ids.append(part.ids)
            scores.append(part.scores)
        certificate = Certificate(
            epsilon=np.concatenate([np.empty(0), *(part.epsilon for part in done)]),
            rescored=np.concatenate([np.empty(0, np.int64), *(part.rescored for part in done)]),
            compared=sum(map(len, self._segments)) + sum(map(len, self._heads)),
            kernel=self._kernel,
            bounds=tuple(sorted(set[str]().union(*(part.bounds for part in done)))),
        )
        return CertifiedHits(
            np.concatenate(offsets),
            np.concatenate([np.empty(0, np.int64), *ids]),
            np.concatenate([np.empty(0, np.float32), *scores]),
            certificate,
        )


class _PassHits:
    """Hits of one pass of queries so far."""

    def __init__(self, queries: Vectors, segments: Sequence[Exact8Segment]) -> None:
        self.queries = queries
        self.floors = np.full(len(queries), -np.inf)
        self.epsilon = np.zeros(len(queries))
        self.rescored: Counts = np.zeros(len(queries), np.int64)
        self.bounds: set[str] = set()
        if segments:
            self.coded = CodedQueries.of_vectors(queries)
        self._found: list[tuple[Positions, Ids, Scores]] = []
        self._size = 0

    def take_sealed(self, segment: Exact8Segment, pairs: Pairs, counts: Counts) -> None:
        """Adds the pairs and the certificate of a segment."""
        self.take(pairs.query_of, segment.row_ids[pairs.row_of], pairs.scores)
        np.maximum(self.epsilon, segment.epsilon(self.coded), out=self.epsilon)
        self.rescored += counts
        self.bounds.add(segment.bound(len(self.queries)))

    def take(self, query_of: Positions, ids: Ids, scores: Scores) -> None:
        """Adds scored pairs."""
        self._found.append((query_of, ids, scores))
        self._size += len(ids)

    def is_empty(self) -> bool:
        """True while there are no hits and so no floors."""
        return not self._size

    def keep_best(self, k: int) -> None:
        """Raises the floors to the k-th best scores, where that is worth sorting.

        That is after the first part, and when later ones have doubled the hits.
        """
        if self._size < 2 * k * len(self.queries) and len(self._found) > 1:
            return
        best = self.hits(k)
        counts = np.diff(best.offsets)
        full = np.flatnonzero(counts == k)
        self.floors[full] = best.scores[best.offsets[1:][full] - 1]
        query_of = np.repeat(np.arange(len(self.queries)), counts)
        self._found = [(query_of, best.ids, best.scores)]
        self._size = len(best.ids)

    def hits(self, k: int | None = None) -> Hits:
        """The sorted hits, of each query the k best where k is given."""
        if not self._found:
            return no_hits(len(self.queries))
        query_of, ids, scores = (np.concatenate(c) for c in zip(*self._found, strict=True))
        return arrange(len(self.queries), query_of, ids, scores, k)
