"""The oracle of every index: all rows by their ids, and sums in float64 over each."""

import numpy as np
from numpy.typing import NDArray

from indexes.base import Hits, Ids, Scores, Vectors, arrange

Sums = NDArray[np.float64]

# Far more than float32 rounds a score by, or than two orders of adding up differ in.
_MARGIN = 1e-6


class BruteForce:
    """The answers that an index has to give, by brute force; its input is not checked."""

    def __init__(self, dim: int) -> None:
        self.ids: Ids = np.empty(0, np.int64)
        self._rows: Vectors = np.empty((0, dim), np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, key: object) -> bool:
        return key in self.ids.tolist()

    def add(self, ids: Ids, vectors: Vectors) -> None:
        assert not np.isin(ids, self.ids).any()
        ids, rows = np.concatenate([self.ids, ids]), np.concatenate([self._rows, vectors])
        order = np.argsort(ids)
        self.ids, self._rows = ids[order], rows[order]

    def remove(self, ids: Ids) -> None:
        kept = ~np.isin(self.ids, ids)
        self.ids, self._rows = self.ids[kept], self._rows[kept]

    def vectors(self, ids: Ids) -> Vectors:
        return self._rows[np.searchsorted(self.ids, ids)]

    def search(self, queries: Vectors, k: int) -> Hits:
        floors = np.full(len(queries), -np.inf)
        if k < len(self):
            floors = np.partition(self._sums(queries), -k, axis=1)[:, -k]
        return arrange(len(queries), *self._near(queries, floors), k)

    def range_search(self, queries: Vectors, threshold: float) -> Hits:
        found = self._near(queries, np.full(len(queries), threshold))
        kept = found[2].astype(np.float64) >= threshold
        return arrange(len(queries), *(column[kept] for column in found))

    def _sums(self, queries: Vectors) -> Sums:
        sums: Sums = queries.astype(np.float64) @ self._rows.T.astype(np.float64)
        return sums

    def _near(self, queries: Vectors, floors: Sums) -> tuple[Ids, Ids, Scores]:
        """Pairs (query, id) whose sums are about the floor of the query or above, and scores."""
        query_of, row_of = np.nonzero(self._sums(queries) >= floors[:, None] - _MARGIN)
        scores = np.empty(len(query_of), np.float32)
        for start in range(0, len(scores), 512):
            part = slice(start, start + 512)
            products = queries[query_of[part]].astype(np.float64) * self._rows[row_of[part]]
            scores[part] = products.sum(axis=1)
        return query_of, self.ids[row_of], scores
