"""A sealed segment: a byte a dimension, scanned with a bound, and then the true scores."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, MemoryAccount, Vectors
from indexes.exact.codes import CodedQueries, Codes, code_limit
from indexes.exact.kernels import Found
from indexes.exact.rescoring import Floors, Pairs, joined, score_best, score_pairs
from indexes.exact.rowstore import MemoryRows, RowStore
from indexes.exact.scanner import Scanner
from indexes.scoring import Positions
from indexes.validation import is_id

# What a sealed segment is made of, for those who write it down and bring it back.


@dataclass(frozen=True, slots=True, eq=False)
class SegmentParts:
    """A segment without its tombstones; all by row, and rows by ascending residual.

    `name` is 32 hex digits, new for every build and merge: segments of one name hold the same.
    `limit` is the component that has the highest code. `ids` int64[n], `residuals` float32[n],
    `codes` uint8[n padded, dim padded], 128 standing for zero. What was removed is wiped where
    the memory is ours, so codes and rows of removed rows tell nothing.
    """

    name: str
    dim: int
    limit: float
    ids: Ids
    residuals: NDArray[np.float32]
    codes: NDArray[np.uint8]
    rows: RowStore


# A residual from which the bound says little of a row that is not far off: it may be rescored
# for every query.
_COARSE_RESIDUAL = 0.1
_WIPED_CODE = 128

Counts = NDArray[np.int64]


class Exact8Segment:
    """A sealed segment: unit vectors under int64 ids, all given at once; only removal changes it.

    `indexes.segmented.fanout.Parts` makes answers of what it finds.
    `rows`, float32 or float16[n, dim], are taken as sound: whoever seals them let them in before.
    With float16, the vectors rounded to it are what is searched, exactly. `limit` is the
    component that gets the highest code. Memory: dim + 4 * dim (or 2 * dim) + 17 bytes a row,
    dim of the codes rounded up to a multiple of 64. Searches may run together; a removal must
    run alone.
    """

    def __init__(
        self, ids: Ids, rows: NDArray[Any], *, scanner: Scanner, limit: float | None = None
    ) -> None:
        codes = Codes(rows, code_limit(rows.shape[1]) if limit is None else limit)
        store = MemoryRows(rows[codes.order])
        self._hold(secrets.token_hex(16), codes, ids[codes.order], store, scanner)
        # Eight bytes a row, of no use from here on.
        codes.order = np.empty(0, np.int64)

    @classmethod
    def restore(cls, parts: SegmentParts, *, scanner: Scanner) -> Exact8Segment:
        """The segment that had these parts, with nothing removed; they are not verified."""
        segment = cls.__new__(cls)
        codes = Codes.restore(parts.codes, parts.residuals, parts.dim, parts.limit)
        segment._hold(parts.name, codes, parts.ids, parts.rows, scanner)
        return segment

    def _hold(self, name: str, codes: Codes, ids: Ids, rows: RowStore, scanner: Scanner) -> None:
        self._name = name
        self._scanner = scanner
        self.codes = codes
        self._rows = rows
        self._id_of = ids
        self._by_id = np.argsort(ids).astype(np.int32)
        self._lowest = int(ids[self._by_id[0]]) if len(ids) else 0
        self._highest = int(ids[self._by_id[-1]]) if len(ids) else -1
        self._alive = np.zeros(len(codes.bytes), np.bool_)
        self._alive[: len(ids)] = True
        self._count = len(ids)
        self.coarse = int((codes.residuals > _COARSE_RESIDUAL).sum())

    @property
    def name(self) -> str:
        """32 hex digits: segments of one name were built as one."""
        return self._name

    @property
    def dim(self) -> int:
        return self.codes.dim

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
    def alive_rows(self) -> NDArray[np.bool_]:
        """The same without the padding: bool[n]; a view."""
        return self._alive[: len(self._id_of)]

    @property
    def removed(self) -> int:
        """How many of its rows are tombstones."""
        return len(self._id_of) - self._count

    @property
    def rows(self) -> RowStore:
        """The vectors by row."""
        return self._rows

    @property
    def scanner(self) -> Scanner:
        return self._scanner

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: object) -> bool:
        return is_id(key) and self.may_hold(key, key) and self._holds(key)

    def parts(self) -> SegmentParts:
        """What it is made of, removed rows too: views, nothing is copied."""
        return SegmentParts(
            self._name,
            self.dim,
            self.codes.limit,
            self._id_of,
            self.codes.residuals,
            self.codes.bytes,
            self._rows,
        )

    def replace_rows(self, rows: RowStore) -> None:
        """Takes the same vectors from another place; to be done alone, like a removal."""
        assert (len(rows), rows.dim) == (len(self._rows), self.dim)
        assert rows.dtype == self._rows.dtype
        self._rows = rows

    def bury(self, rows: Positions) -> None:
        """Removes these rows, which are alive and distinct, and wipes what is left of them."""
        self._alive[rows] = False
        self._count -= len(rows)
        self.codes.bytes[rows] = _WIPED_CODE
        self._rows.wipe(rows)

    def may_hold(self, lowest: int, highest: int) -> bool:
        """False where all its ids are outside these two: the answer that costs nothing."""
        return self._lowest <= highest and lowest <= self._highest

    def find(self, ids: Ids) -> tuple[Positions, NDArray[np.bool_]]:
        """The row of each id, and whether it is really there."""
        if not len(self._id_of):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        places = self._id_of.searchsorted(ids, sorter=self._by_id)
        rows = self._by_id[np.minimum(places, len(self._by_id) - 1)].astype(np.int64)
        return rows, (self._id_of[rows] == ids) & self._alive[rows]

    def account(self) -> MemoryAccount:
        """Where the memory goes."""
        return MemoryAccount(
            references=len(self),
            codes=self.codes.bytes.nbytes,
            rows=self._rows.memory_bytes,
            ids=self._id_of.nbytes + self._by_id.nbytes,
            residuals=self.codes.residuals.nbytes + self.codes.reach.nbytes,
            alive=self._alive.nbytes,
        )

    def best(
        self, queries: Vectors, coded: CodedQueries, k: int, floors: Floors
    ) -> tuple[Pairs, Counts]:
        """What may be among the k best of one pass, where k rows elsewhere reach the floors.

        And how many pairs of each query were scored for it.
        """
        if k >= len(self):
            return self.at_or_above(queries, coded, floors)
        wanted = coded.wanted(self.codes, floors, k)
        found = self._scanner.gather_best(self.codes.rows(self._alive), wanted)
        return score_best(queries, self._rows, found, k, floors), _counts(found, len(coded))

    def at_or_above(
        self, queries: Vectors, coded: CodedQueries, floors: Floors
    ) -> tuple[Pairs, Counts]:
        """What reaches the floors of one pass, and how many pairs of each query were scored."""
        rows, wanted = self._rows, coded.wanted(self.codes, floors)

        def finish(found: Found) -> tuple[Pairs, Counts]:
            return score_pairs(queries, rows, found, floors), _counts(found, len(coded))

        parts = self._scanner.gather(self.codes.rows(self._alive), wanted, finish)
        counts = sum((counts for _, counts in parts), np.zeros(len(coded), np.int64))
        return joined([pairs for pairs, _ in parts]), counts

    def epsilon(self, coded: CodedQueries) -> NDArray[np.float64]:
        """How far a score may be, at most, from that of the codes: float64[q]."""
        fixed, slope = coded.bound(self.codes)
        reach = float(self.codes.reach.max(initial=0))
        return fixed + slope * reach

    def _holds(self, key: int) -> bool:
        """`find` for one id within its range, a few times as fast."""
        row = self._by_id[self._id_of.searchsorted(key, sorter=self._by_id)]
        return bool(self._id_of[row] == key and self._alive[row])


def _counts(found: Found, queries: int) -> Counts:
    """How many pairs each query of a pass has."""
    return np.bincount(found[:, 1], minlength=queries)
