"""A sealed segment: byte codes are scanned with a bound, then true scores are computed."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from copy import copy
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.base import (
    Doubles,
    Flags,
    Ids,
    Ints,
    MemoryAccount,
    Positions,
    Scores,
    Vectors,
    exact_scores,
    is_id,
    overwrite_when_freed,
    rounding_bound,
)
from indexes.exact.codes import CodedQueries, Codes, code_limit
from indexes.exact.intrinsics import BLOCK, STEP
from indexes.exact.kernels import Found, inner_products, kth_best
from indexes.exact.scanner import Scanner


class RowStore(Protocol):
    """The vectors of a sealed segment by row, wherever they are kept; reads are thread-safe."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float16: the type of a stored row."""
        ...

    @property
    def dim(self) -> int: ...

    @property
    def memory_bytes(self) -> int:
        """Bytes in the memory of this process."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Positions) -> Vectors:
        """These rows, in any order and with repetitions: float32[m, dim]; a copy, which is
        overwritten when it is freed."""
        ...

    def select(self, rows: Positions) -> tuple[Vectors, Positions]:
        """A matrix float32[p, dim] and the position of each row in it: int64[m]; read only."""
        ...

    def wipe(self, rows: Positions) -> None:
        """Has these rows be zeros from now on, in memory and for all who read them."""
        ...


class MemoryRows:
    """A `RowStore` over an array float32 or float16[n, dim], which it owns from then on."""

    def __init__(self, rows: NDArray[Any]) -> None:
        assert rows.ndim == 2
        assert rows.dtype in (np.float32, np.float16)
        self._rows = overwrite_when_freed(rows)
        self.dtype: np.dtype[Any] = rows.dtype
        self.dim = int(rows.shape[1])
        self.memory_bytes = rows.nbytes

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Positions) -> Vectors:
        taken = overwrite_when_freed(self._rows[rows])
        if self.dtype == np.float32:
            return taken
        return overwrite_when_freed(taken.astype(np.float32))

    def select(self, rows: Positions) -> tuple[Vectors, Positions]:
        """The array itself where it is float32: nothing is copied."""
        if self._rows.dtype == np.float32:
            return self._rows, rows
        distinct, places = np.unique(rows, return_inverse=True)
        return self.take(distinct), places

    def wipe(self, rows: Positions) -> None:
        self._rows[rows] = 0


Floors = Doubles
"""The lowest score that counts for each query: float64[q]; -inf where every score does."""

# Rows fetched at once where they have to be copied or decrypted first.
_PAIRS_AT_ONCE = 1 << 15
# The scores of so few take less time than finding out which to leave.
_FEW_PAIRS = 256


class ScannedPairs(NamedTuple):
    """Scored pairs (query, row), in no order: int64[m], int64[m], float32[m]."""

    query_of: Positions
    row_of: Positions
    scores: Scores


def score_pairs(queries: Vectors, rows: RowStore, found: Found, floors: Floors) -> ScannedPairs:
    """The pairs whose score is at or above the floor of their query."""
    parts = []
    for start in range(0, len(found), _PAIRS_AT_ONCE):
        pairs = found[start : start + _PAIRS_AT_ONCE]
        row_of, query_of = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
        matrix, places = rows.select(row_of)
        if len(pairs) > _FEW_PAIRS:
            # A float32 product costs a tenth of an exact score, and excludes most of the low ones.
            near = _products(queries, matrix, pairs, places) >= (floors - _bound(queries))[query_of]
            query_of, row_of, places = query_of[near], row_of[near], places[near]
        scores = exact_scores(queries, matrix, query_of, places)
        # In float64, for numpy would round the floor to the scores' float32.
        kept = scores.astype(np.float64) >= floors[query_of]
        parts.append(ScannedPairs(query_of[kept], row_of[kept], scores[kept]))
    return joined(parts)


def score_best(
    queries: Vectors, rows: RowStore, found: Found, k: int, floors: Floors
) -> ScannedPairs:
    """The pairs that may be among the k best, together with what else reaches the floors."""
    if len(found) <= _FEW_PAIRS:
        return score_pairs(queries, rows, found, floors)
    products = np.empty(len(found), np.float32)
    for start in range(0, len(found), _PAIRS_AT_ONCE):
        pairs = slice(start, start + _PAIRS_AT_ONCE)
        matrix, places = rows.select(found[pairs, 0].astype(np.int64))
        products[pairs] = _products(queries, matrix, found[pairs], places)
    best = kth_best(products, found, len(queries), k).astype(np.float64)
    # The product of a row and that of the k-th best may be off by the bound, both of them.
    lowest = best - 2 * _bound(queries)
    return score_pairs(queries, rows, found[products >= lowest[found[:, 1]]], floors)


def joined(parts: list[ScannedPairs]) -> ScannedPairs:
    if len(parts) == 1:
        return parts[0]
    nothing = ScannedPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return ScannedPairs(*(np.concatenate(column) for column in zip(nothing, *parts, strict=True)))


def _products(queries: Vectors, matrix: Vectors, pairs: Found, places: Positions) -> Doubles:
    placed = np.empty_like(pairs)
    placed[:, 0], placed[:, 1] = places, pairs[:, 1]
    # In float64, for numpy would round what they are compared with to float32.
    return inner_products(queries, matrix, placed).astype(np.float64)


def _bound(queries: Vectors) -> float:
    return rounding_bound(queries.shape[1])


# A row with a larger residual may have to be rescored for every query.
_COARSE_RESIDUAL = 0.1

Counts = Ints


class Exact8Segment:
    """Unit vectors under int64 ids, all given at once; afterwards they can only be removed.

    `rows`, float32 or float16[n, dim], were checked when they were added; of float16 the rounded
    vectors are searched, exactly. `limit` is the component that gets the highest code. Memory: dim
    + 4 * dim (or 2 * dim) + 17 bytes a row, dim of the codes rounded up to a multiple of 64; and
    where the kernel reads planes dim / 2 + 1, that dim rounded up to a multiple of 128. Searches
    may run concurrently; removals one at a time.

    `name` is 32 hex digits: segments of one name were the same when they were built. `row_ids` and
    `rows` have all rows, removed ones too; `alive` bool[rows padded] is another array after each
    removal: who holds an earlier one goes on with what it says.
    """

    def __init__(
        self, ids: Ids, rows: NDArray[Any], *, scanner: Scanner, limit: float | None = None
    ) -> None:
        codes = Codes(rows, code_limit(rows.shape[1]) if limit is None else limit)
        store = MemoryRows(rows[codes.order])
        self._hold(secrets.token_hex(16), codes, ids[codes.order], store, scanner)
        # Frees eight bytes a row that are not needed any more.
        codes.order = np.empty(0, np.int64)

    @classmethod
    def of_codes(
        cls, ids: Ids, codes: Codes, rows: RowStore, *, scanner: Scanner, name: str = ""
    ) -> Exact8Segment:
        """A segment of rows that are coded already, in the order of their codes, nothing removed;
        without a name a new one."""
        segment = cls.__new__(cls)
        segment._hold(name or secrets.token_hex(16), codes, ids, rows, scanner)
        return segment

    def _hold(self, name: str, codes: Codes, ids: Ids, rows: RowStore, scanner: Scanner) -> None:
        self.name = name
        self.scanner = scanner
        scanner.prepare(codes)
        self.codes = codes
        self.dim = codes.dim
        self.rows = rows
        self.row_ids = ids
        self._by_id = np.argsort(ids).astype(np.int32)
        self._lowest = int(ids[self._by_id[0]]) if len(ids) else 0
        self._highest = int(ids[self._by_id[-1]]) if len(ids) else -1
        self.alive: Flags = np.zeros(len(codes.bytes), np.bool_)
        self.alive[: len(ids)] = True
        self._count = len(ids)
        self.coarse = int((codes.residuals > _COARSE_RESIDUAL).sum())

    @property
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""
        rows = self._by_id[self.alive[self._by_id]]
        return self.row_ids[rows]

    @property
    def alive_rows(self) -> Flags:
        """`alive` without the padding: bool[n]; a view."""
        return self.alive[: len(self.row_ids)]

    @property
    def removed(self) -> int:
        """The number of tombstones."""
        return len(self.row_ids) - self._count

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: object) -> bool:
        return self.holds(key, self.alive)

    def holds(self, key: object, alive: Flags) -> bool:
        """True where the id is alive by these flags."""
        return is_id(key) and self.may_hold(key, key) and self._holds(key, alive)

    def reading_from(self, rows: RowStore) -> Exact8Segment:
        """This segment, with the same codes, its vectors read from another store; call it while
        nothing changes. What is removed later is to be removed from both."""
        assert (len(rows), rows.dim) == (len(self.rows), self.dim)
        assert rows.dtype == self.rows.dtype
        # It may have been filled before they were removed.
        rows.wipe(np.flatnonzero(~self.alive_rows))
        other = copy(self)
        other.rows = rows
        return other

    def remove_rows(self, rows: Positions) -> None:
        """Removes these rows, which are alive and distinct, and wipes their codes and vectors."""
        self.mark_removed(rows)
        self.wipe_rows(rows)

    def mark_removed(self, rows: Positions) -> None:
        """The first half of `remove_rows`, which searches by earlier flags do not notice."""
        alive = self.alive.copy()
        alive[rows] = False
        self.alive = alive
        self._count -= len(rows)

    def wipe_rows(self, rows: Positions) -> None:
        """The second half: no search may run by flags that have these rows alive."""
        with ExitStack() as each:
            each.callback(self.rows.wipe, rows)
            each.callback(self.scanner.wipe, self.codes, rows)
            # The first that is done, for the scanner goes by them.
            each.callback(self.codes.wipe, rows)

    def may_hold(self, lowest: int, highest: int) -> bool:
        """False where all its ids are outside this range; costs nothing."""
        return self._lowest <= highest and lowest <= self._highest

    def find(self, ids: Ids, alive: Flags | None = None) -> tuple[Positions, Flags]:
        """The row of each id, int64[n], and whether it is alive (by these flags), bool[n]."""
        alive = self.alive if alive is None else alive
        if not len(self.row_ids):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        places = self.row_ids.searchsorted(ids, sorter=self._by_id)
        rows = self._by_id[np.minimum(places, len(self._by_id) - 1)].astype(np.int64)
        return rows, (self.row_ids[rows] == ids) & alive[rows]

    def account(self) -> MemoryAccount:
        """Memory use by part."""
        return MemoryAccount(
            references=len(self),
            codes=self.codes.bytes.nbytes,
            rows=self.rows.memory_bytes,
            ids=self.row_ids.nbytes + self._by_id.nbytes,
            plane=sum(part.nbytes for part in self.codes.plane[:3]),
            residuals=self.codes.residuals.nbytes + self.codes.reach.nbytes,
            alive=self.alive.nbytes,
            device=self.scanner.device_bytes(self.codes),
        )

    def best(
        self,
        queries: Vectors,
        coded: CodedQueries,
        k: int,
        floors: Floors,
        alive: Flags | None = None,
    ) -> tuple[ScannedPairs, Counts]:
        """Pairs that may be among the k best of a pass, where k rows elsewhere reach the floors,
        and how many of each query were scored; `alive` are the flags to go by, else the present."""
        alive = self.alive if alive is None else alive
        if k >= len(self):
            return self.at_or_above(queries, coded, floors, alive)
        wanted = coded.wanted(self.codes, floors, k)
        found = self.scanner.gather_best(self.codes, alive, wanted)
        return score_best(queries, self.rows, found, k, floors), _counts(found, len(coded))

    def at_or_above(
        self, queries: Vectors, coded: CodedQueries, floors: Floors, alive: Flags | None = None
    ) -> tuple[ScannedPairs, Counts]:
        """Pairs that reach the floors of a pass, and how many of each query were scored."""
        alive = self.alive if alive is None else alive
        rows, wanted = self.rows, coded.wanted(self.codes, floors)

        def finish(found: Found) -> tuple[ScannedPairs, Counts]:
            return score_pairs(queries, rows, found, floors), _counts(found, len(coded))

        parts = self.scanner.gather(self.codes, alive, wanted, finish)
        counts = sum((counts for _, counts in parts), np.zeros(len(coded), np.int64))
        return joined([pairs for pairs, _ in parts]), counts

    def bound(self, queries: int) -> str:
        """By what a search of so many queries drops rows: see `Certificate`."""
        is_halved = self.scanner.uses_plane(self.codes.plane, queries)
        return "half bytes" if is_halved else "bytes"

    def epsilon(self, coded: CodedQueries) -> Doubles:
        """The largest difference between a score and that of the codes: float64[q]."""
        fixed, slope = coded.bound(self.codes)
        reach = float(self.codes.reach.max(initial=0))
        return fixed + slope * reach

    def _holds(self, key: int, alive: Flags) -> bool:
        """`find` for one id within the range; several times faster."""
        row = self._by_id[self.row_ids.searchsorted(key, sorter=self._by_id)]
        return bool(self.row_ids[row] == key and alive[row])


def _counts(found: Found, queries: int) -> Counts:
    return np.bincount(found[:, 1], minlength=queries)


def compile_kernels(scanner: Scanner) -> None:
    """Has compiled all that this scanner's segments run: a minute's work after an installation."""
    rows = np.eye(BLOCK, STEP, dtype=np.float32)
    segment = Exact8Segment(np.arange(BLOCK), rows, scanner=scanner)
    # By the kernels for few queries and for many.
    for queries in (rows[:1], rows):
        coded, floors = CodedQueries.of_vectors(queries), np.full(len(queries), 0.5)
        segment.best(queries, coded, 1, np.full(len(queries), -np.inf))
        segment.at_or_above(queries, coded, floors)
