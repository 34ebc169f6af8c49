"""Rows that an approximate structure proposes candidates among, and what becomes of these."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, MemoryAccount, Scores, Vectors
from indexes.scoring import Positions, exact_scores, rounding_bound

Scored = tuple[Positions, Ids, Scores]
"""Pairs side by side: the query, the id, the score."""

_CANDIDATES_AT_ONCE = 1 << 20
# Asked for more than this share of the rows, a proposer saves nothing: they are all compared.
_SCAN_FROM = 4


class Proposer(Protocol):
    """Knows vectors by the order in which they came, and proposes some near a query."""

    @property
    def memory_bytes(self) -> int: ...

    def add(self, vectors: Vectors) -> None: ...

    def nearest(self, queries: Vectors, count: int) -> Positions:
        """int64[q, count]: the places of candidates, -1 where there are no more."""
        ...


class ProposedRows:
    """Vectors under ids with a proposer over them; every candidate gets its exact score.

    `candidates` is how many are asked for each hit that is wanted. Ids and vectors are taken as
    sound: who owns this has checked them. Searches may run together, a change must run alone.
    """

    def __init__(self, dim: int, proposer: Proposer, *, room: int, candidates: int) -> None:
        self._proposer = proposer
        self._candidates = candidates
        # Memory that is not written yet costs nothing.
        self._rows = np.empty((room, dim), np.float32)
        self._id_of = np.empty(room, np.int64)
        self._alive = np.zeros(room, np.bool_)
        self._end = 0
        self._count = 0
        # Ids in order, and their places.
        self._keys = np.empty(0, np.int64)
        self._places = np.empty(0, np.int32)

    def __len__(self) -> int:
        return self._count

    @property
    def dead(self) -> int:
        """How many of the proposer's vectors have been removed."""
        return self._end - self._count

    @property
    def dead_share(self) -> float:
        return self.dead / self._end

    @property
    def room(self) -> int:
        """How many more rows there is place for."""
        return len(self._rows) - self._end

    @property
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""
        return self._keys[self._alive[self._places]]

    def account(self) -> MemoryAccount:
        """Where the memory goes, removed rows included; room that is not used yet costs nothing."""
        lookup = self._keys.itemsize + self._places.itemsize
        return MemoryAccount(
            references=self._count,
            codes=self._proposer.memory_bytes,
            rows=self._end * self._rows[:1].nbytes,
            ids=self._end * (self._id_of.itemsize + lookup),
            alive=self._end,
        )

    def append(self, ids: Ids, vectors: Vectors) -> None:
        """Takes more rows, at most `room`."""
        assert len(ids) <= self.room
        self._proposer.add(vectors)
        start, end = self._end, self._end + len(ids)
        self._rows[start:end], self._id_of[start:end] = vectors, ids
        self._alive[start:end] = True
        self._end, self._count = end, self._count + len(ids)
        # The dead leave the look-up first: one of them may be back under its old id.
        lasting = self._alive[self._places]
        keys, places = self._keys[lasting], self._places[lasting]
        order = np.argsort(ids)
        into = np.searchsorted(keys, ids[order])
        self._keys = np.insert(keys, into, ids[order])
        self._places = np.insert(places, into, (start + order).astype(np.int32))

    def find(self, ids: Ids) -> tuple[Positions, NDArray[np.bool_]]:
        """The place of each id, and whether it is really there."""
        if not len(self._keys):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        nearest = np.minimum(np.searchsorted(self._keys, ids), len(self._keys) - 1)
        places = self._places[nearest].astype(np.int64)
        return places, (self._keys[nearest] == ids) & self._alive[places]

    def remove(self, places: Positions) -> None:
        """Never answers with these again; their vectors are overwritten, the proposer's are not."""
        self._alive[places] = False
        self._rows[places] = 0
        self._count -= len(places)

    def vectors(self, places: Positions) -> Vectors:
        return self._rows[places]

    def search(self, queries: Vectors, k: int) -> Scored:
        """At least k of each query, or all where there are fewer."""
        least = min(k, self._count)
        assert least
        wish = _Wish(self._candidates, rounding_bound(self._rows.shape[1]), least=least)
        return self._collect(queries, wish, least * self._candidates)

    def range_search(self, queries: Vectors, threshold: float) -> Scored:
        """Candidates with scores at or above the threshold."""
        wish = _Wish(self._candidates, rounding_bound(self._rows.shape[1]), threshold=threshold)
        return self._collect(queries, wish, self._candidates)

    def _collect(self, queries: Vectors, wish: _Wish, depth: int) -> Scored:
        """Asks for `depth` candidates, and for twice as many where that was not enough."""
        parts: list[Scored] = []
        waiting: Positions = np.arange(len(queries))
        while len(waiting) and depth * _SCAN_FROM <= self._end:
            unfinished = []
            for some in _pieces(waiting, depth):
                proposed = self._proposer.nearest(queries[some], depth)
                scored = self._score(queries, *self._living(some, proposed), wish)
                kept = np.bincount(scored[0], minlength=len(queries))[some]
                more = wish.is_unmet(kept, (proposed >= 0).sum(axis=1), depth)
                unfinished.append(some[more])
                finished = ~np.isin(scored[0], some[more])
                parts.append((scored[0][finished], scored[1][finished], scored[2][finished]))
            waiting, depth = np.concatenate(unfinished), 2 * depth
        for query in waiting:
            products = self._rows[: self._end] @ queries[query]
            alive = self._alive[: self._end]
            near = alive & (products.astype(np.float64) >= wish.floor(products[alive]))
            row_of = np.flatnonzero(near)
            parts.append(self._score(queries, np.full(len(row_of), query), row_of, wish))
        nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        query_of, ids, scores = (np.concatenate(x) for x in zip(nothing, *parts, strict=True))
        return query_of, ids, scores

    def _living(self, some: Positions, proposed: Positions) -> tuple[Positions, Positions]:
        """Pairs (query, row) of what was proposed and has not been removed."""
        query_of, row_of = np.repeat(some, proposed.shape[1]), proposed.ravel()
        kept = (row_of >= 0) & self._alive[row_of]
        return query_of[kept], row_of[kept]

    def _score(
        self, queries: Vectors, query_of: Positions, row_of: Positions, wish: _Wish
    ) -> Scored:
        scores = exact_scores(queries, self._rows, query_of, row_of)
        # In float64, for numpy would round the threshold to the scores' float32.
        kept = scores.astype(np.float64) >= wish.threshold
        return query_of[kept], self._id_of[row_of[kept]], scores[kept]


@dataclass(frozen=True, slots=True)
class _Wish:
    """The `least` best of each query, or, where that is 0, everything from the threshold up."""

    candidates: int
    rounding: float
    least: int = 0
    threshold: float = -math.inf

    def is_unmet(
        self, kept: NDArray[np.int64], proposed: NDArray[np.int64], depth: int
    ) -> NDArray[np.bool_]:
        """bool[q]: whether more must be asked for than the `depth` candidates that gave `kept`.

        Hits should be few among the candidates: where they are many, more may lie beyond; and
        where all that was proposed are hits, nothing shows that they are at an end.
        """
        if self.least:
            return kept < self.least
        unmet: NDArray[np.bool_] = (kept * self.candidates > depth) | (kept == proposed)
        return unmet

    def floor(self, products: Vectors) -> float:
        """What every hit reaches by its float32 product; both sums may be off by the rounding."""
        if not self.least:
            return self.threshold - self.rounding
        place = len(products) - self.least
        return float(np.partition(products, place)[place]) - 2 * self.rounding


def _pieces(waiting: Positions, depth: int) -> Iterator[Positions]:
    """The queries in pieces whose candidates fit in memory."""
    size = max(1, _CANDIDATES_AT_ONCE // depth)
    for start in range(0, len(waiting), size):
        yield waiting[start : start + size]
