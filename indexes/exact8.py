"""Exact search at a byte a dimension: a scan of codes with a bound, then the true scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Scores, Vectors
from indexes.certificate import Certificate, CertifiedHits
from indexes.codes import CodedQueries, Codes, code_limit
from indexes.errors import IdInvalid, VectorInvalid
from indexes.kernels import Found, Wanted, inner_products, kth_best
from indexes.scanner import Scanner
from indexes.scoring import Positions, arrange, exact_scores, rounding_bound
from indexes.validation import (
    check_distinct,
    check_hit_count,
    check_ids,
    check_threshold,
    check_vectors,
)

# Queries of one pass: their codes stay in the second-level cache.
_QUERIES_AT_ONCE = 2048
_HEAP_ITEMS_AT_ONCE = 1 << 22
_PAIRS_AT_ONCE = 1 << 25
# A residual from which the bound says little of a row that is not far off: it may be rescored
# for every query.
_COARSE_RESIDUAL = 0.1

_GREATEST_ID = 2**63 - 1

Scored = tuple[Positions, Positions, Scores]


class Exact8Index:
    """A sealed segment: unit vectors under int64 ids, all given at once; only removal changes it.

    Answers are those of `FlatIndex` over the same vectors, ids and scores, and carry the
    certificate of it. `store` is how the vectors are kept for rescoring: with float16, the
    vectors rounded to it are what is searched, exactly, and what `vectors` returns. `limit` is
    the component that gets the highest code. Memory: dim + 4 * dim (or 2 * dim) + 21 bytes a row,
    dim of the codes rounded up to a multiple of 64. Searches may run together; a removal must
    run alone.
    """

    kind = "exact8"

    def __init__(
        self,
        dim: int,
        ids: Ids,
        vectors: Vectors,
        *,
        scanner: Scanner | None = None,
        store: Literal["float32", "float16"] = "float32",
        limit: float | None = None,
    ) -> None:
        if dim < 1:
            raise VectorInvalid(f"dim is {dim}; give at least 1")
        rows = check_vectors(vectors, dim)
        keys = check_distinct(check_ids(ids))
        if len(keys) != len(rows):
            raise IdInvalid(f"{len(keys)} ids for {len(rows)} vectors; give one for each")
        self._dim = dim
        self._scanner = scanner or Scanner()
        kept: NDArray[Any] = rows.astype(store, copy=False)
        self.codes = Codes(kept, code_limit(dim) if limit is None else limit)
        self._store = kept[self.codes.order]
        self._id_of: Ids = ids[self.codes.order]
        self._by_id = np.argsort(self._id_of).astype(np.int32)
        self._alive = np.zeros(len(self.codes.bytes), np.bool_)
        self._alive[: len(rows)] = True
        self._count = len(rows)
        self._coarse = int((self.codes.residuals > _COARSE_RESIDUAL).sum())

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""
        rows = self._by_id[self._alive[self._by_id]]
        return self._id_of[rows]

    @property
    def row_ids(self) -> Ids:
        """The id of each row, in the order of the rows, removed ones too."""
        return self._id_of

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows have not been removed: bool[rows padded]."""
        return self._alive

    @property
    def scanner(self) -> Scanner:
        return self._scanner

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: object) -> bool:
        # A bool or a float would equal an id; only a whole number is one.
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            return False
        number = int(key)
        return 0 <= number <= _GREATEST_ID and bool(self._places([number])[1].all())

    def remove(self, ids: Ids) -> None:
        """Removes these ids; an unknown one is refused, and then none is removed."""
        rows = self._rows_of(check_distinct(check_ids(ids)))
        self._alive[rows] = False
        self._count -= len(rows)

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order asked: float32[n, dim]; a copy."""
        return self._store[self._rows_of(check_ids(ids))].astype(np.float32, copy=False)

    def stored(self, rows: slice) -> Vectors:
        """The vectors of these rows as they are stored: a view."""
        return self._store[rows]

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        """The k best of each query, or all where there are fewer."""
        queries, k = check_vectors(queries, self._dim), check_hit_count(k)
        # With no heap the level stays below everything, and everything is found.
        heap_items = k if k < len(self) else 0
        parts, rescored = [], []
        for start, coded in self._passes(queries, heap_items):
            wanted = coded.wanted(self.codes, threshold=None, k=heap_items)
            if heap_items:
                found = self._scanner.gather_best(self.codes.rows(self._alive), wanted)
                counts = _counts(found, len(coded))
                parts.append(
                    self._scored(queries, self._near_best(queries, found, start, k), start)
                )
            else:
                scored, counts = self._scored_at_or_above(queries, wanted, start, -np.inf)
                parts += scored
            rescored.append(counts)
        return self._answer(queries, parts, rescored, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        """Everything whose score, as a float, is at or above the threshold."""
        queries, threshold = check_vectors(queries, self._dim), check_threshold(threshold)
        parts, rescored = [], []
        for start, coded in self._passes(queries):
            wanted = coded.wanted(self.codes, threshold)
            scored, counts = self._scored_at_or_above(queries, wanted, start, threshold)
            parts += scored
            rescored.append(counts)
        return self._answer(queries, parts, rescored)

    def _passes(self, queries: Vectors, k: int = 0) -> Iterator[tuple[int, CodedQueries]]:
        """The batch in pieces, with the place of each, so that memory stays bounded."""
        size = min(
            _QUERIES_AT_ONCE,
            _HEAP_ITEMS_AT_ONCE // max(1, k),
            _PAIRS_AT_ONCE // max(1, self._coarse),
        )
        for start in range(0, len(queries), max(1, size)):
            yield start, CodedQueries.of_vectors(queries[start : start + max(1, size)])

    def _scored_at_or_above(
        self, queries: Vectors, wanted: Wanted, start: int, threshold: float
    ) -> tuple[list[Scored], NDArray[np.int64]]:
        """Scores at or above the threshold, and how many of each query were computed."""

        def finish(found: Found) -> tuple[Scored, NDArray[np.int64]]:
            counts = _counts(found, len(wanted.codes))
            near = self._near_threshold(queries, found, start, threshold)
            query_of, row_of, scores = self._scored(queries, near, start)
            # In float64, for numpy would round the threshold to the scores' float32.
            kept = scores.astype(np.float64) >= threshold
            return (query_of[kept], row_of[kept], scores[kept]), counts

        parts = self._scanner.gather(self.codes.rows(self._alive), wanted, finish)
        counts = np.zeros(len(wanted.codes), np.int64)
        for _, counted in parts:
            counts += counted
        return [scored for scored, _ in parts], counts

    def _near_threshold(
        self, queries: Vectors, found: Found, start: int, threshold: float
    ) -> Found:
        """What may reach the threshold by a product in float32, which costs a tenth of a score."""
        if self._store.dtype != np.float32:
            return found
        products = inner_products(queries[start:], self._store, found)
        # In float64, for numpy would round the bound to the products' float32.
        return found[products.astype(np.float64) >= threshold - rounding_bound(self._dim)]

    def _near_best(self, queries: Vectors, found: Found, start: int, k: int) -> Found:
        """What may be among the k best by the same; both products may be off by the bound."""
        if self._store.dtype != np.float32:
            return found
        products = inner_products(queries[start:], self._store, found)
        best = kth_best(products, found, len(queries) - start, k)
        floors = best.astype(np.float64) - 2 * rounding_bound(self._dim)
        return found[products.astype(np.float64) >= floors[found[:, 1]]]

    def _scored(self, queries: Vectors, found: Found, start: int) -> Scored:
        row_of, query_of = found[:, 0].astype(np.int64), found[:, 1].astype(np.int64) + start
        return query_of, row_of, exact_scores(queries, self._store, query_of, row_of)

    def _answer(
        self,
        queries: Vectors,
        parts: list[Scored],
        rescored: list[NDArray[np.int64]],
        k: int | None = None,
    ) -> CertifiedHits:
        nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        query_of, row_of, scores = (
            np.concatenate(column) for column in zip(nothing, *parts, strict=True)
        )
        hits = arrange(len(queries), query_of, self._id_of[row_of], scores, k)
        fixed, slope = CodedQueries.of_vectors(queries).bound(self.codes)
        certificate = Certificate(
            epsilon=fixed + slope * self.codes.reach.max(initial=0),
            rescored=np.concatenate([np.empty(0, np.int64), *rescored]),
            compared=len(self),
            kernel=self._scanner.kernel,
        )
        return CertifiedHits(hits.offsets, hits.ids, hits.scores, certificate)

    def _places(self, keys: list[int]) -> tuple[Positions, NDArray[np.bool_]]:
        """The row of each key, and whether it is really there."""
        if not len(self._id_of):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.bool_)
        wanted = np.array(keys, np.int64)
        places = np.searchsorted(self._id_of, wanted, sorter=self._by_id)
        rows = self._by_id[np.minimum(places, len(self._by_id) - 1)].astype(np.int64)
        return rows, (self._id_of[rows] == wanted) & self._alive[rows]

    def _rows_of(self, keys: list[int]) -> Positions:
        rows, present = self._places(keys)
        if not present.all():
            raise IdInvalid(f"id {keys[int(np.argmin(present))]} is not in the index")
        return rows


def _counts(found: Found, queries: int) -> NDArray[np.int64]:
    """How many pairs each query of a pass has."""
    return np.bincount(found[:, 1], minlength=queries)
