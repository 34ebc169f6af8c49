"""Exact search over float32 rows by FAISS: the oracle for the tests of the other indexes."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from indexes.base import (
    BEYOND_ANY_SCORE,
    ENTRY_BYTES,
    Hits,
    Ids,
    MemoryAccount,
    Positions,
    Scores,
    VectorIndex,
    Vectors,
    arrange,
    check_distinct,
    check_hit_count,
    check_ids,
    check_references,
    check_threshold,
    check_vectors,
    exact_scores,
    find_near,
    is_id,
    no_hits,
    rounding_bound,
)
from indexes.errors import IdInvalid, VectorInvalid

# Hits requested beyond k, so that ties with the k-th place rarely reach past the result.
_SPARE_HITS = 16
# From so many queries on, a matrix product takes a third of the time of faiss's range search.
_PRODUCT_FROM = 8


class FlatIndex(VectorIndex):
    """A `VectorIndex` that compares every query with every row.

    Scores are those of `indexes.base.exact_scores`: the same pair has the same score in any
    batch, and an answer is complete with respect to these scores, also at the threshold itself and
    among ties at the k-th place. Adding costs O(rows added); removing moves one row for each row
    removed, and overwrites the places that become free.
    """

    kind = "flat"

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise VectorInvalid(f"dim is {dim}; give at least 1")
        self._dim = dim
        self._flat = faiss.IndexFlatIP(dim)
        # Row r belongs to _id_of[r]; entries from len(self) on are reserve.
        self._id_of: Ids = np.empty(0, np.int64)
        self._row_of: dict[int, int] = {}

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def ids(self) -> Ids:
        return np.sort(self._id_of[: len(self)])

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, key: object) -> bool:
        return is_id(key) and key in self._row_of

    def add(self, ids: Ids, vectors: Vectors) -> None:
        keys, rows = check_references(ids, vectors, self._dim)
        self.require_new(keys)
        self.append(keys, ids, rows)

    def require_new(self, keys: list[int]) -> None:
        """`IdInvalid` where one of these ids is there already."""
        if not self._row_of.keys().isdisjoint(keys):
            present = next(key for key in keys if key in self._row_of)
            raise IdInvalid(f"id {present} is in the index already; remove it first")

    def append(self, keys: list[int], ids: Ids, rows: Vectors) -> None:
        """Adds new ids, given as a list and as an array, and their rows; nothing is checked."""
        if not keys:
            return
        start, end = len(self), len(self) + len(keys)
        self._reserve(end)
        self._flat.add(rows)
        self._id_of[start:end] = ids
        self._row_of.update(zip(keys, range(start, end), strict=True))

    def remove(self, ids: Ids) -> None:
        keys = check_distinct(check_ids(ids))
        gone = np.sort(self._rows_of(keys))
        if not keys:
            return
        kept = len(self) - len(keys)
        # Rows of the tail that stay move into the gaps before it; their order has no meaning.
        gaps = gone[gone < kept]
        tail = np.ones(len(keys), np.bool_)
        tail[gone[gone >= kept] - kept] = False
        movers = kept + np.flatnonzero(tail)
        rows = self._rows()
        rows[gaps] = rows[movers]
        rows[kept:] = 0
        self._id_of[gaps] = self._id_of[movers]
        for key in keys:
            del self._row_of[key]
        self._row_of.update(zip(self._id_of[gaps].tolist(), gaps.tolist(), strict=True))
        self._flat.remove_ids(faiss.IDSelectorRange(kept, kept + len(keys)))
        assert self._flat.ntotal == len(self)

    def vectors(self, ids: Ids) -> Vectors:
        return self._rows()[self._rows_of(check_ids(ids))]

    def account(self) -> MemoryAccount:
        return MemoryAccount(
            references=len(self),
            rows=4 * self._dim * len(self),
            ids=self._id_of.nbytes + ENTRY_BYTES * len(self),
        )

    def search(self, queries: Vectors, k: int) -> Hits:
        queries, k = check_vectors(queries, self._dim), check_hit_count(k)
        if not len(self) or not len(queries):
            return no_hits(len(queries))
        return arrange(len(queries), *self.best(queries, k), k)

    def range_search(self, queries: Vectors, threshold: float) -> Hits:
        queries, threshold = check_vectors(queries, self._dim), check_threshold(threshold)
        if not len(self) or not len(queries):
            return no_hits(len(queries))
        return arrange(len(queries), *self.at_or_above(queries, np.full(len(queries), threshold)))

    def best(self, queries: Vectors, k: int) -> tuple[Positions, Ids, Scores]:
        """Scored pairs (query, id) that may be among the k best, in no order."""
        query_of, row_of = self._nearest(queries, k)
        return query_of, self._id_of[row_of], self._scores(queries, query_of, row_of)

    def at_or_above(
        self, queries: Vectors, floors: NDArray[np.float64]
    ) -> tuple[Positions, Ids, Scores]:
        """Scored pairs (query, id) that reach the floor of their query, in no order."""
        query_of, row_of = self._at_or_above(queries, floors - rounding_bound(self._dim))
        scores = self._scores(queries, query_of, row_of)
        # In float64, for numpy would round the floors to the scores' float32.
        kept = scores.astype(np.float64) >= floors[query_of]
        return query_of[kept], self._id_of[row_of[kept]], scores[kept]

    def _scores(self, queries: Vectors, query_of: Positions, row_of: Positions) -> Scores:
        return exact_scores(queries, self._rows(), query_of, row_of)

    def _nearest(self, queries: Vectors, k: int) -> tuple[Positions, Positions]:
        """Pairs (query, row) that include the k best of each query, ties included.

        With faiss's scores within ε of the exact ones, the k-th best exact score is at least
        faiss's k-th less ε, so every row that reaches it has at least faiss's k-th less 2ε. Where
        the whole result is above that, there may be more such rows, and a second search finds
        them.
        """
        asked = k + _SPARE_HITS
        if asked >= len(self):
            return self._at_or_above(queries, np.full(len(queries), -BEYOND_ANY_SCORE))
        scores, rows = self._flat.search(queries, asked)
        floors = scores[:, k - 1].astype(np.float64) - 2 * rounding_bound(self._dim)
        is_cut = scores[:, -1] >= floors
        query_of = [np.repeat(np.flatnonzero(~is_cut), asked)]
        row_of = [rows[~is_cut].ravel()]
        for query in np.flatnonzero(is_cut):
            one = slice(query, query + 1)
            more = self._at_or_above(queries[one], floors[one])[1]
            query_of.append(np.full(len(more), query))
            row_of.append(more)
        return np.concatenate(query_of), np.concatenate(row_of)

    def _at_or_above(
        self, queries: Vectors, floors: NDArray[np.float64]
    ) -> tuple[Positions, Positions]:
        """Pairs (query, row) with a float32 inner product of at least the floor of the query."""
        if len(queries) >= _PRODUCT_FROM:
            return find_near(queries, self._rows(), floors)
        # One floor for all: the exact scores exclude what is too low for its query. faiss returns
        # what is strictly above, and rounds to float32, which a floor far beyond would not fit.
        least = np.float32(floors.min(initial=BEYOND_ANY_SCORE).clip(-BEYOND_ANY_SCORE))
        below = float(np.nextafter(least, np.float32(-np.inf)))
        limits, _, row_of = self._flat.range_search(queries, below)
        query_of = np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64)))
        return query_of, row_of

    def _rows(self) -> Vectors:
        """A view of faiss's memory: float32[n, dim]; valid until the next change."""
        if not len(self):
            return np.empty((0, self._dim), np.float32)
        flat = faiss.rev_swig_ptr(self._flat.get_xb(), len(self) * self._dim)
        rows: Vectors = flat.reshape(len(self), self._dim)
        return rows

    def _rows_of(self, keys: list[int]) -> Positions:
        try:
            return np.array([self._row_of[key] for key in keys], np.int64)
        except KeyError as unknown:
            raise IdInvalid(f"id {unknown.args[0]} is not in the index") from None

    def _reserve(self, rows: int) -> None:
        """Reserves space for the ids of so many rows, doubling so that single adds stay cheap."""
        if rows > len(self._id_of):
            grown = np.empty(max(rows, 2 * len(self._id_of)), np.int64)
            grown[: len(self)] = self._id_of[: len(self)]
            self._id_of = grown
