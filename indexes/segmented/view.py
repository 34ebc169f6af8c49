"""One search of a segmented index, and the parts that it reads, which do not change: sealed
segments, and views of the heads, whose rows are only appended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from indexes.base import (
    BEYOND_ANY_SCORE,
    ENTRY_BYTES,
    TILE_PRODUCTS,
    Certificate,
    CertifiedHits,
    Doubles,
    Flags,
    Hits,
    Ids,
    MemoryAccount,
    Positions,
    Scores,
    Vectors,
    arrange,
    check_hit_count,
    check_ids,
    check_threshold,
    check_vectors,
    concatenated,
    exact_scores,
    find_near,
    is_id,
    no_hits,
    overwrite_when_freed,
    products,
    rounding_bound,
)
from indexes.errors import IdInvalid
from indexes.exact.codes import CodedQueries, Codes
from indexes.exact.exact8 import Counts, Exact8Segment, ScannedPairs
from indexes.exact.scanner import Scanner
from schema import frozen


class Head:
    """Room for `capacity` references, which the system provides as they are written.

    One thread at a time appends, removes and takes a `view`, which others read: an append writes
    behind the rows of every earlier view, and a removal makes new flags, so no view ever changes.
    """

    def __init__(self, dim: int, capacity: int) -> None:
        self._ids: Ids = np.empty(capacity, np.int64)
        self._rows: Vectors = overwrite_when_freed(np.empty((capacity, dim), np.float32))
        self._alive = np.zeros(capacity, np.bool_)
        self._length = self._removed = 0
        self.row_of: dict[int, int] = {}

    @property
    def free(self) -> int:
        """The number of references that can still be appended."""
        return len(self._ids) - self._length

    @property
    def view(self) -> HeadView:
        """A view of the present rows, which the head does not keep: it refers to the head."""
        held = slice(self._length)
        return HeadView(
            self, self._ids[held], self._rows[held], self._alive[held], self._length - self._removed
        )

    def append(self, keys: list[int], ids: Ids, rows: Vectors) -> None:
        """Appends new ids, given as a list and as an array, and their rows; nothing is checked."""
        start, end = self._length, self._length + len(keys)
        self._rows[start:end], self._ids[start:end] = rows, ids
        self._alive[start:end] = True
        self.row_of.update(zip(keys, range(start, end), strict=True))
        self._length = end

    def remove(self, keys: list[int]) -> Callable[[], None]:
        """Removes those of these ids that are here; the result wipes their rows."""
        rows = [self.row_of.pop(key) for key in keys if key in self.row_of]
        alive = self._alive.copy()
        alive[rows] = False
        self._alive = alive
        self._removed += len(rows)

        def wipe() -> None:
            self._rows[rows] = 0

        return wipe


@frozen(eq=False)
class HeadView:
    """A head at one moment: `ids` int64[n], `rows` float32[n, dim], `alive` bool[n], `count` alive.

    The rows are whole until they are wiped, also those removed since.
    """

    head: Head
    stored_ids: Ids
    rows: Vectors
    alive: Flags
    count: int

    def __len__(self) -> int:
        return self.count

    def __contains__(self, key: object) -> bool:
        if not is_id(key):
            return False
        row = self.head.row_of.get(key, len(self.alive))
        return row < len(self.alive) and bool(self.alive[row])

    @property
    def ids(self) -> Ids:
        """The ids alive, in the order of the rows; a copy."""
        return self.stored_ids[self.alive]

    @property
    def dim(self) -> int:
        return int(self.rows.shape[1])

    @property
    def source(self) -> Head:
        """The head or segment that it is a view of."""
        return self.head

    @property
    def alive_now(self) -> Flags:
        """The flags by now."""
        return self.head.view.alive

    def take(self, rows: Positions) -> Vectors:
        """These rows: float32[m, dim]; a copy, which is overwritten when it is freed."""
        return overwrite_when_freed(self.rows[rows])

    def contents(self) -> tuple[Ids, Vectors]:
        """A copy of everything alive, in the order of the rows: int64[n], float32[n, dim]."""
        return self.stored_ids[self.alive], overwrite_when_freed(self.rows[self.alive])

    def find(self, keys: list[int]) -> tuple[Positions, Flags]:
        """The row of each id, int64[n], and whether it is there, bool[n]."""
        beyond = len(self.alive)
        rows = np.array([self.head.row_of.get(key, beyond) for key in keys], np.int64)
        present = rows < beyond
        present[present] = self.alive[rows[present]]
        return rows, present

    def account(self) -> MemoryAccount:
        """Memory of what has been written."""
        n, dim = self.rows.shape
        return MemoryAccount(self.count, head=n * (4 * dim + 9) + ENTRY_BYTES * self.count)

    def best(self, queries: Vectors, k: int) -> tuple[Positions, Ids, Scores]:
        """Scored pairs (query, id) that may be among the k best, in no order.

        With products within ε of the scores, the k-th best score is at least the k-th greatest
        product less ε.
        """
        floors = np.full(len(queries), -BEYOND_ANY_SCORE)
        if k < self.count:
            rows = self.rows if self.alive.all() else self.contents()[1]
            size = max(1, TILE_PRODUCTS // len(rows))
            for start in range(0, len(queries), size):
                part = slice(start, start + size)
                kth = np.partition(products(queries[part], rows), -k, axis=1)[:, -k]
                floors[part] = kth.astype(np.float64) - rounding_bound(rows.shape[1])
        return self.at_or_above(queries, floors)

    def at_or_above(self, queries: Vectors, floors: Doubles) -> tuple[Positions, Ids, Scores]:
        """Scored pairs (query, id) that reach the floor of their query, in no order."""
        near = floors - rounding_bound(self.rows.shape[1])
        query_of, row_of = find_near(queries, self.rows, near)
        alive = self.alive[row_of]
        query_of, row_of = query_of[alive], row_of[alive]
        scores = exact_scores(queries, self.rows, query_of, row_of)
        # In float64, for numpy would round the floors to the scores' float32.
        kept = scores.astype(np.float64) >= floors[query_of]
        return query_of[kept], self.stored_ids[row_of[kept]], scores[kept]


@frozen(eq=False)
class SealedView:
    """A sealed segment at one moment: `alive` bool[n padded] never changes, `count` are alive.

    The rows are whole until they are wiped, also those removed since.
    """

    segment: Exact8Segment
    alive: Flags
    count: int

    @classmethod
    def of(cls, segment: Exact8Segment) -> SealedView:
        """The segment as it is now; call it while nothing changes."""
        return cls(segment, segment.alive, len(segment))

    @property
    def alive_rows(self) -> Flags:
        """`alive` without the padding: bool[n]."""
        return self.alive[: len(self.segment.row_ids)]

    @property
    def ids(self) -> Ids:
        """The ids alive, in the order of the rows; a copy."""
        return self.segment.row_ids[self.alive_rows]

    @property
    def stored_ids(self) -> Ids:
        """The id of each row, removed ones too."""
        return self.segment.row_ids

    @property
    def dim(self) -> int:
        return self.segment.dim

    @property
    def source(self) -> Codes:
        """The part that it is a view of, wherever its vectors are read from."""
        return self.segment.codes

    @property
    def alive_now(self) -> Flags:
        """The flags by now."""
        return self.segment.alive

    def take(self, rows: Positions) -> Vectors:
        """These rows: float32[m, dim]; a copy, which is overwritten when it is freed."""
        return self.segment.rows.take(rows)

    def __len__(self) -> int:
        return self.count

    def __contains__(self, key: object) -> bool:
        return self.segment.holds(key, self.alive)

    def find(self, ids: Ids) -> tuple[Positions, Flags]:
        """The row of each id, int64[n], and whether it is there, bool[n]."""
        return self.segment.find(ids, self.alive)


Part = HeadView | SealedView


@frozen(eq=False)
class View:
    """A segmented index at one moment, by any number of threads, whatever is changed meanwhile.

    `heads` has those that are full, the oldest first, and the growing one.
    """

    dim: int
    sealed: tuple[SealedView, ...]
    heads: tuple[HeadView, ...]
    scanner: Scanner

    @property
    def parts(self) -> tuple[Part, ...]:
        """Heads and segments."""
        return (*self.heads, *self.sealed)

    @property
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""
        return np.sort(np.concatenate([part.ids for part in self.parts]))

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    def __contains__(self, key: object) -> bool:
        return any(key in part for part in self.parts)

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order of the ids: float32[n, dim]; a copy."""
        return self._take(len(ids), self.locate(ids, check_ids(ids)))

    def held(self, ids: Ids) -> tuple[Ids, Vectors]:
        """The ids of these that are there, in their order, and their rows."""
        # Looked up once: a head forgets the rows of ids that are removed meanwhile.
        found = self._find(ids, check_ids(ids))
        present = np.zeros(len(ids), np.bool_)
        for _, places, _ in found:
            present[places] = True
        return ids[present], overwrite_when_freed(self._take(len(ids), found)[present])

    def _take(self, count: int, found: list[tuple[Part, Positions, Positions]]) -> Vectors:
        vectors = overwrite_when_freed(np.empty((count, self.dim), np.float32))
        for part, places, rows in found:
            vectors[places] = part.take(rows)
        return vectors

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        """The k best hits of each query, or all where there are fewer."""
        queries, k = check_vectors(queries, self.dim), check_hit_count(k)
        return SegmentSearch(self.sealed, self.heads, self.scanner.kernel).search(queries, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        """Every reference whose score, as a float, is at or above the threshold."""
        queries, threshold = check_vectors(queries, self.dim), check_threshold(threshold)
        search = SegmentSearch(self.sealed, self.heads, self.scanner.kernel)
        return search.range_search(queries, threshold)

    def account(self) -> MemoryAccount:
        """Memory use by part."""
        accounts = [head.account() for head in self.heads]
        accounts += [view.segment.account() for view in self.sealed]
        return sum(accounts, MemoryAccount(0))

    def locate(self, ids: Ids, keys: list[int]) -> list[tuple[Part, Positions, Positions]]:
        """By part: which of the ids it has, and their rows; `IdInvalid` for one in none."""
        found = self._find(ids, keys)
        missing = np.ones(len(keys), np.bool_)
        for _, places, _ in found:
            missing[places] = False
        if missing.any():
            raise IdInvalid(f"id {keys[int(missing.argmax())]} is not in the index")
        return found

    def _find(self, ids: Ids, keys: list[int]) -> list[tuple[Part, Positions, Positions]]:
        found: list[tuple[Part, Positions, Positions]] = []
        lowest, highest = min(keys, default=0), max(keys, default=-1)
        for view in self.sealed:
            if view.segment.may_hold(lowest, highest):
                rows, present = view.find(ids)
                found.append((view, np.flatnonzero(present), rows[present]))
        for head in self.heads:
            rows, present = head.find(keys)
            found.append((head, np.flatnonzero(present), rows[present]))
        return [place for place in found if len(place[1])]


# Queries of one pass: their codes stay in the second-level cache.
_QUERIES_AT_ONCE = 2048
_HEAP_ITEMS_AT_ONCE = 1 << 22
_COARSE_PAIRS_AT_ONCE = 1 << 25


def _passes(queries: int, coarse: int, k: int = 0) -> Iterator[slice]:
    """Slices of a batch that keep memory bounded, with so many coarsely coded rows."""
    size = min(
        _QUERIES_AT_ONCE, _HEAP_ITEMS_AT_ONCE // max(1, k), _COARSE_PAIRS_AT_ONCE // max(1, coarse)
    )
    size = max(1, size)
    for start in range(0, queries, size):
        yield slice(start, start + size)


class SegmentSearch:
    """One search over several sealed segments and flat heads; an id is alive in one of them only.

    The codes of a query are made once for all segments. The largest segment is searched first: its
    k-th best score is the floor for the others, which then find next to nothing.
    """

    def __init__(
        self, sealed: Sequence[SealedView], heads: Sequence[HeadView], kernel: str
    ) -> None:
        self._sealed = sorted((view for view in sealed if len(view)), key=len, reverse=True)
        self._heads = [head for head in heads if len(head)]
        self._coarse = sum(view.segment.coarse for view in self._sealed)
        self._kernel = kernel

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        """The k best of each query; the input is not checked."""
        done = []
        for part in _passes(len(queries), self._coarse, k):
            pass_hits = _PassHits(queries[part], has_codes=bool(self._sealed))
            for view in self._sealed:
                found = view.segment.best(
                    pass_hits.queries, pass_hits.coded, k, pass_hits.floors, view.alive
                )
                pass_hits.take_sealed(view.segment, *found)
                if self._heads or view is not self._sealed[-1]:
                    pass_hits.keep_best(k)
            for head in self._heads:
                if pass_hits.is_empty():
                    pass_hits.take(*head.best(pass_hits.queries, k))
                else:
                    pass_hits.take(*head.at_or_above(pass_hits.queries, pass_hits.floors))
                if head is not self._heads[-1]:
                    pass_hits.keep_best(k)
            done.append(pass_hits)
        return self._answer(done, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        """Everything at or above the threshold; the input is not checked."""
        done = []
        for part in _passes(len(queries), self._coarse):
            pass_hits = _PassHits(queries[part], has_codes=bool(self._sealed))
            floors = np.full(len(pass_hits.queries), threshold)
            for view in self._sealed:
                found = view.segment.at_or_above(
                    pass_hits.queries, pass_hits.coded, floors, view.alive
                )
                pass_hits.take_sealed(view.segment, *found)
            for head in self._heads:
                pass_hits.take(*head.at_or_above(pass_hits.queries, floors))
            done.append(pass_hits)
        return self._answer(done)

    def _answer(self, done: list[_PassHits], k: int | None = None) -> CertifiedHits:
        hits = [pass_hits.hits(k) for pass_hits in done]
        offsets = [np.zeros(1, np.int64)]
        for part in hits:
            offsets.append(part.offsets[1:] + offsets[-1][-1])
        epsilon, rescored = [part.epsilon for part in done], [part.rescored for part in done]
        ids, scores = [part.ids for part in hits], [part.scores for part in hits]
        certificate = Certificate(
            epsilon=concatenated(epsilon, np.float64),
            rescored=concatenated(rescored),
            compared=sum(map(len, self._sealed)) + sum(map(len, self._heads)),
            kernel=self._kernel,
            bounds=tuple(sorted(set[str]().union(*(part.bounds for part in done)))),
        )
        return CertifiedHits(
            np.concatenate(offsets),
            concatenated(ids),
            concatenated(scores, np.float32),
            certificate,
        )


class _PassHits:
    """Hits of one pass of queries so far."""

    def __init__(self, queries: Vectors, *, has_codes: bool) -> None:
        self.queries = queries
        self.floors = np.full(len(queries), -np.inf)
        self.epsilon = np.zeros(len(queries))
        self.rescored: Counts = np.zeros(len(queries), np.int64)
        self.bounds: set[str] = set()
        if has_codes:
            self.coded = CodedQueries.of_vectors(queries)
        self._found: list[tuple[Positions, Ids, Scores]] = []
        self._size = 0

    def take_sealed(self, segment: Exact8Segment, pairs: ScannedPairs, counts: Counts) -> None:
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
        """Raises the floors to the k-th best scores, after the first part, and when later ones have
        doubled the hits."""
        if self._size < 2 * k * len(self.queries) and len(self._found) > 1:
            return
        best = self.hits(k)
        counts = np.diff(best.offsets)
        full = np.flatnonzero(counts == k)
        self.floors[full] = best.scores[best.offsets[1:][full] - 1]
        self._found = [(best.query_of, best.ids, best.scores)]
        self._size = len(best.ids)

    def hits(self, k: int | None = None) -> Hits:
        """The sorted hits, of each query the k best where k is given."""
        if not self._found:
            return no_hits(len(self.queries))
        query_of, ids, scores = (np.concatenate(c) for c in zip(*self._found, strict=True))
        return arrange(len(self.queries), query_of, ids, scores, k)
