"""References that are not sealed yet: rows that are only appended, and views of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, MemoryAccount, Scores, Vectors, is_id, overwrite_when_freed
from indexes.scoring import Positions, exact_scores, products, rounding_bound

_BEYOND_ANY_SCORE = 2.0
# Large tiles: BLAS synchronises its threads at every product, costly where cores are shared.
_TILE_PRODUCTS = 1 << 22
# A product of fewer is made row by row, in this thread alone.
_PRODUCT_FROM = 8
# An entry of a dict and its two numbers.
_ENTRY_BYTES = 104


class Head:
    """Room for `capacity` references, which the system provides as they are written.

    One thread at a time appends, removes and takes a `view`, which others read: an append writes
    behind the rows of every earlier view, and a removal makes new flags, so no view ever changes.
    The rows of removed references stay until they are wiped.
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
        """A view of the present rows. It refers to the head, so the head keeps none: the rows of
        both would stay until the garbage collector runs."""
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


@dataclass(frozen=True, slots=True, eq=False)
class HeadView:
    """A head at one moment: `ids` int64[n], `rows` float32[n, dim], `alive` bool[n], `count` alive.

    The rows are whole until they are wiped, also those removed since.
    """

    head: Head
    stored_ids: Ids
    rows: Vectors
    alive: NDArray[np.bool_]
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
    def alive_now(self) -> NDArray[np.bool_]:
        """The flags by now."""
        return self.head.view.alive

    def take(self, rows: Positions) -> Vectors:
        """These rows: float32[m, dim]; a copy, which is overwritten when it is freed."""
        return overwrite_when_freed(self.rows[rows])

    def contents(self) -> tuple[Ids, Vectors]:
        """A copy of everything alive, in the order of the rows: int64[n], float32[n, dim]."""
        return self.stored_ids[self.alive], overwrite_when_freed(self.rows[self.alive])

    def find(self, keys: list[int]) -> tuple[Positions, NDArray[np.bool_]]:
        """The row of each id, int64[n], and whether it is there, bool[n]."""
        beyond = len(self.alive)
        rows = np.array([self.head.row_of.get(key, beyond) for key in keys], np.int64)
        present = rows < beyond
        present[present] = self.alive[rows[present]]
        return rows, present

    def account(self) -> MemoryAccount:
        """Memory of what has been written."""
        n, dim = self.rows.shape
        return MemoryAccount(self.count, head=n * (4 * dim + 9) + _ENTRY_BYTES * self.count)

    def best(self, queries: Vectors, k: int) -> tuple[Positions, Ids, Scores]:
        """Scored pairs (query, id) that may be among the k best, in no order.

        With products within ε of the scores, the k-th best score is at least the k-th greatest
        product less ε.
        """
        floors = np.full(len(queries), -_BEYOND_ANY_SCORE)
        if k < self.count:
            rows = self.rows if self.alive.all() else self.contents()[1]
            size = max(1, _TILE_PRODUCTS // len(rows))
            for start in range(0, len(queries), size):
                part = slice(start, start + size)
                kth = np.partition(_products(queries[part], rows), -k, axis=1)[:, -k]
                floors[part] = kth.astype(np.float64) - rounding_bound(rows.shape[1])
        return self.at_or_above(queries, floors)

    def at_or_above(
        self, queries: Vectors, floors: NDArray[np.float64]
    ) -> tuple[Positions, Ids, Scores]:
        """Scored pairs (query, id) that reach the floor of their query, in no order."""
        bound = rounding_bound(self.rows.shape[1])
        # A floor far beyond any score would not fit float32; rounding it there must not raise it.
        near = (floors - bound).clip(-_BEYOND_ANY_SCORE, _BEYOND_ANY_SCORE).astype(np.float32)
        below = np.nextafter(near, np.float32(-np.inf))[:, None]
        tile = max(256, _TILE_PRODUCTS // max(1, len(queries)))
        query_of, row_of = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(self.rows), tile):
            found = _products(queries, self.rows[start : start + tile])
            queries_above, rows_above = np.nonzero(found > below)
            query_of.append(queries_above)
            row_of.append(rows_above + start)
        queries_found, rows_found = np.concatenate(query_of), np.concatenate(row_of)
        alive = self.alive[rows_found]
        queries_found, rows_found = queries_found[alive], rows_found[alive]
        scores = exact_scores(queries, self.rows, queries_found, rows_found)
        # In float64, for numpy would round the floors to the scores' float32.
        kept = scores.astype(np.float64) >= floors[queries_found]
        return queries_found[kept], self.stored_ids[rows_found[kept]], scores[kept]


def _products(queries: Vectors, rows: Vectors) -> NDArray[np.float32]:
    """Inner products within `rounding_bound` of the scores: float32[q, n]."""
    if len(queries) >= _PRODUCT_FROM:
        return products(queries, rows)
    found: NDArray[np.float32] = np.vecdot(rows[None], queries[:, None])
    return found
