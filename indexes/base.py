"""The interface of every index, its answers, the checks of its input, the memory of its vectors,
the definition of a score and the order of answers. It knows no faces.

BLAS adds the products of a row in another order for one query than for a batch, so they differ in
the last digits from call to call. An index finds candidates by them, and gives each the score
defined here, which depends on the two vectors alone.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import astuple
from operator import add
from typing import Any, Self, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.errors import IdInvalid, SearchInvalid, VectorInvalid
from schema import frozen

Array = TypeVar("Array", bound=NDArray[Any])


class Closing(ABC):
    """Is closed when its block ends."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


GIVEN_BACK_FROM_BYTES = 32 << 20
"""Of so many bytes or more, pages are given back to the system, which costs less than writing
zeros. malloc keeps such blocks, too, where others were freed beside them."""

# madvise(2): give these pages back, which are zeros from then on.
_DONTNEED = 4
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def overwrite_when_freed(array: Array) -> Array:
    """The same array, whose memory is overwritten when it is freed, with the last array there.

    malloc keeps what is freed: a face that is erased later would be read there. Memory that is not
    numpy's own or numba's, as of a mapped file or Ray's store, stays as it is.
    """
    held: Any = array
    while isinstance(held.base, np.ndarray):
        held = held.base
    is_numbas = type(held.base).__module__ == "_nrt_python" and held.flags.forc
    if (held.flags.owndata or is_numbas) and held.nbytes and not _is_overwritten(held):
        weakref.finalize(held, _overwrite, held.ctypes.data, held.nbytes).atexit = False
    return array


def _is_overwritten(owner: NDArray[Any]) -> bool:
    """True where it was asked for before."""
    calls = (getattr(known, "__callback__", None) for known in weakref.getweakrefs(owner))
    found = [call.peek() for call in calls if isinstance(call, weakref.finalize)]
    return any(each is not None and each[1] is _overwrite for each in found)


def overwrite(array: NDArray[Any]) -> None:
    """Overwrites memory of our own at once, which somebody may hold for longer."""
    assert array.flags.c_contiguous
    _overwrite(array.ctypes.data, array.nbytes)


def _overwrite(address: int, size: int) -> None:
    first, end = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, address + size
    last = end - end % mmap.PAGESIZE
    if size < GIVEN_BACK_FROM_BYTES or not _give_back(first, last - first):
        first = last = end
    ctypes.memset(address, 0, first - address)
    ctypes.memset(last, 0, end - last)


def _give_back(start: int, size_bytes: int) -> bool:
    """Gives pages back to the system, True where it takes them; to others than Linux the call means
    something else."""
    return sys.platform == "linux" and bool(_madvise(start, size_bytes, _DONTNEED) == 0)


Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Octets = NDArray[np.uint8]
"""Arrays of any shape, by the type of their numbers."""
Vectors = Floats
Scores = Floats
Ids = Ints
Positions = Ints


@frozen(eq=False)
class Hits:
    """Answers to a batch of q queries, concatenated.

    Query i owns rows `offsets[i]:offsets[i + 1]` of `ids` (int64[m]) and `scores` (float32[m],
    cosine), best first, equal scores by ascending id.
    """

    offsets: Ints
    ids: Ids
    scores: Scores

    def __len__(self) -> int:
        """The number of queries, not of hits."""
        return len(self.offsets) - 1

    @property
    def query_of(self) -> Ints:
        """The query of each hit: int64[m]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def of(self, query: int) -> tuple[Ids, Scores]:
        """The ids and scores of one query."""
        rows = slice(int(self.offsets[query]), int(self.offsets[query + 1]))
        return self.ids[rows], self.scores[rows]


@frozen(eq=False)
class Certificate:
    """Proof that an answer computed from byte codes misses nothing.

    `epsilon` float64[q]: the largest possible difference between a score and that of the codes.
    `rescored` int64[q]: rows that came within that of the threshold or of the k-th place, and were
    scored by the stored vectors. `compared`: rows compared with each query. `bounds`: by what the
    others were dropped: `bytes`, the codes, or `half bytes`, the plane before them, or both.
    """

    epsilon: Doubles
    rescored: Ints
    compared: int
    kernel: str
    bounds: tuple[str, ...]


@frozen(eq=False)
class CertifiedHits(Hits):
    """Hits with their certificate."""

    certificate: Certificate


@frozen
class MemoryAccount:
    """Bytes of memory by part, for a number of references.

    `head` has all of the references not sealed yet, the others those of sealed segments, removed
    rows included: `plane` the codes in half a byte a dimension, `rows` the vectors in memory, `ids`
    with their order. `device`, the codes on an accelerator, is no part of the total.
    """

    references: int
    codes: int = 0
    plane: int = 0
    rows: int = 0
    ids: int = 0
    residuals: int = 0
    alive: int = 0
    head: int = 0
    device: int = 0

    @property
    def total(self) -> int:
        return sum(astuple(self)[1:-1])

    @property
    def bytes_per_reference(self) -> float:
        """0 without references."""
        return self.total / self.references if self.references else 0.0

    def __add__(self, other: MemoryAccount) -> MemoryAccount:
        return MemoryAccount(*map(add, astuple(self), astuple(other)))


class VectorIndex(ABC):
    """Unit vectors under int64 ids, searched by inner product.

    Vectors are `float32[n, dim]`, finite, with rows of unit length to within 1e-3; ids are
    `int64[n]`, not negative; a batch may be empty. Other input raises `VectorInvalid`, `IdInvalid`
    or `SearchInvalid` and changes nothing. Searches may run concurrently, a change must run alone:
    `Gallery` adds the locks.
    """

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name used in snapshots and reports."""

    @property
    @abstractmethod
    def dim(self) -> int: ...

    @property
    def search_fault(self) -> str | None:
        """Why it searches, as exactly, but more slowly than it was set up to; None otherwise."""
        return None

    @property
    @abstractmethod
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds new ids; `IdInvalid` for one that is there already."""

    @abstractmethod
    def remove(self, ids: Ids) -> None:
        """Removes these ids; `IdInvalid` for an unknown one, and then none is removed."""

    @abstractmethod
    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order of the ids: float32[n, dim]; a copy."""

    def held(self, ids: Ids) -> tuple[Ids, Vectors]:
        """The ids of these that are there, in their order, and their rows."""
        there = ids[np.array([key in self for key in ids.tolist()], np.bool_)]
        return there, self.vectors(there)

    @abstractmethod
    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        """The k best hits of each query, or all where there are fewer."""

    @abstractmethod
    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        """Every reference whose score, as a float, is at or above the threshold."""

    @abstractmethod
    def account(self) -> MemoryAccount:
        """Memory use by part."""

    def require_whole(self) -> None:  # noqa: B027 - most are in one piece
        """Raises what every call would where a part of it is known to be gone; asks nobody."""

    def note(self, sequence: int, history: str) -> None:  # noqa: B027 - most have nothing to do
        """Notes the sequence of the next change in the store; for an index whose content outlives
        this process. See `Gallery.add`."""

    def compact(self) -> None:  # noqa: B027 - most have nothing to do
        """Frees what removed references still take in memory; other calls may run meanwhile."""

    def deadline_s(self) -> float | None:
        """Seconds until removed references must be gone; None where nothing is pending."""
        return None


_GREATEST = np.iinfo(np.int64).max

UNIT_TOLERANCE = 1e-3
"""How far from 1 the length of a row may be."""


def check_vectors(vectors: Vectors, dim: int) -> Vectors:
    """Returns the rows, C-contiguous; `VectorInvalid` unless finite unit rows `float32[n, dim]`."""
    array = _array(vectors, VectorInvalid, "vectors")
    if array.dtype != np.float32:
        raise VectorInvalid(f"vectors are {array.dtype}; give float32")
    if array.ndim != 2 or array.shape[1] != dim:
        raise VectorInvalid(f"vectors have shape {array.shape}; give (n, {dim})")
    rows: Vectors = np.ascontiguousarray(array)
    # The square of a large float32 overflows to infinity, which is refused as it should be.
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.vecdot(rows, rows))
        fits = np.abs(lengths - 1) <= UNIT_TOLERANCE
    if not fits.all():
        row = int(fits.argmin())
        if not np.isfinite(rows[row]).all():
            raise VectorInvalid(f"vector {row} is not finite")
        raise VectorInvalid(f"vector {row} has length {lengths[row]:.4g}; scale it to 1")
    return rows


def check_ids(ids: Ids) -> list[int]:
    """Returns the ids as a list; `IdInvalid` unless they are `int64[n]` and not negative."""
    array = _array(ids, IdInvalid, "ids")
    if array.dtype != np.int64:
        raise IdInvalid(f"ids are {array.dtype}; give int64")
    if array.ndim != 1:
        raise IdInvalid(f"ids have shape {array.shape}; give one dimension")
    if len(array) and array.min() < 0:
        raise IdInvalid(f"id {array.min()} is negative; give 0 or more")
    keys: list[int] = array.tolist()
    return keys


def check_distinct(keys: list[int]) -> list[int]:
    """Returns the ids; `IdInvalid` where two are equal."""
    if len(set(keys)) != len(keys):
        values, counts = np.unique(keys, return_counts=True)
        raise IdInvalid(f"id {values[counts > 1][0]} is given twice; give each id once")
    return keys


def check_references(ids: Ids, vectors: Vectors, dim: int) -> tuple[list[int], Vectors]:
    """Returns ids and rows that may be added; `IdInvalid` or `VectorInvalid` otherwise."""
    rows = check_vectors(vectors, dim)
    keys = check_distinct(check_ids(ids))
    if len(keys) != len(rows):
        raise IdInvalid(f"{len(keys)} ids for {len(rows)} vectors; give one for each")
    return keys, rows


def is_id(key: object) -> TypeGuard[int]:
    """True where this can be an id; a bool or a float would equal one in a set or an array."""
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        return False
    return bool(0 <= key <= _GREATEST)


def check_hit_count(k: int) -> int:
    """Returns k; `SearchInvalid` unless it is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise SearchInvalid(f"k is {k!r}; give a whole number of at least 1")
    return int(k)


def check_threshold(threshold: float) -> float:
    """Returns the threshold; `SearchInvalid` unless it is a finite number."""
    if not isinstance(threshold, int | float | np.integer | np.floating) or not math.isfinite(
        threshold
    ):
        raise SearchInvalid(f"threshold is {threshold!r}; give a finite number")
    return float(threshold)


def _array(given: object, refusal: type[Exception], what: str) -> NDArray[Any]:
    if not isinstance(given, np.ndarray):
        raise refusal(f"{what} are a {type(given).__name__}; give a numpy array")
    return given


# So few stay in the cache.
_PAIRS_AT_ONCE = 512
# OpenBLAS makes a product of so many multiplications in the calling thread.
_ALONE = 1 << 18
_FEWEST_ROWS = 8
# A product of fewer is made row by row, in this thread alone.
_PRODUCT_FROM = 8
# Large tiles: BLAS synchronises its threads at every product, costly where cores are shared.
TILE_PRODUCTS = 1 << 22
BEYOND_ANY_SCORE = 2.0
ENTRY_BYTES = 104
"""An entry of a dict and its two numbers."""


def exact_scores(queries: Vectors, rows: Vectors, query_of: Positions, row_of: Positions) -> Scores:
    """Scores of the pairs `(queries[query_of[i]], rows[row_of[i]])`: float32[m].

    The inner product in float64, rounded once to float32: a pair has the same score in every call.
    """
    scores = np.empty(len(query_of), np.float32)
    most = min(len(scores), _PAIRS_AT_ONCE)
    left, right = (np.empty((most, one.shape[1]), one.dtype) for one in (queries, rows))
    products = np.empty(left.shape)
    for start in range(0, len(scores), _PAIRS_AT_ONCE):
        pairs = slice(start, start + _PAIRS_AT_ONCE)
        some = slice(len(scores[pairs]))
        # Checking would take a copy first.
        np.take(queries, query_of[pairs], axis=0, out=left[some], mode="clip")
        np.take(rows, row_of[pairs], axis=0, out=right[some], mode="clip")
        products[some] = left[some]
        products[some] *= right[some]
        scores[pairs] = products[some].sum(axis=1)
    for one in (left, right, products):
        # Faces, which what is freed must not hold.
        one.fill(0)
    return scores


def exact_score(query: Vectors, row: Vectors) -> float:
    """The score of one pair float32[d], equal to `exact_scores`, without the cost of a batch."""
    products = query.astype(np.float64)
    products *= row
    return float(np.float32(np.add.reduce(products)))


def concatenated(parts: Iterable[NDArray[Any]], kind: Any = np.int64) -> NDArray[Any]:
    """The parts, one after another; of none an empty array of this kind."""
    return np.concatenate([np.empty(0, kind), *parts])


def products(queries: Vectors, rows: Vectors) -> Floats:
    """Inner products within `rounding_bound` of the scores: float32[q, n].

    For a few queries by many small products: the threads of a large one would go on waiting
    actively for 0.1 s after it, and take a core from others.
    """
    count, dim = queries.shape
    found: Floats
    if count < _PRODUCT_FROM:
        found = np.vecdot(rows[None], queries[:, None])
        return found
    size = _ALONE // (count * dim)
    if size < _FEWEST_ROWS:
        return queries @ rows.T
    found = np.empty((count, len(rows)), np.float32)
    whole = len(rows) // size * size
    tiles = found[:, :whole].reshape(count, -1, size).transpose(1, 0, 2)
    np.matmul(queries, rows[:whole].reshape(-1, size, dim).transpose(0, 2, 1), out=tiles)
    np.matmul(queries, rows[whole:].T, out=found[:, whole:])
    return found


def find_near(queries: Vectors, rows: Vectors, floors: Doubles) -> tuple[Positions, Positions]:
    """Pairs (query, row) whose float32 product reaches the floor of the query: int64[m] each."""
    # A floor far beyond any score would not fit float32; rounding it there must not raise it.
    near = floors.clip(-BEYOND_ANY_SCORE, BEYOND_ANY_SCORE).astype(np.float32)
    below = np.nextafter(near, np.float32(-np.inf))[:, None]
    tile = max(256, TILE_PRODUCTS // max(1, len(queries)))
    query_of, row_of = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(rows), tile):
        queries_above, rows_above = np.nonzero(
            products(queries, rows[start : start + tile]) > below
        )
        query_of.append(queries_above)
        row_of.append(rows_above + start)
    return np.concatenate(query_of), np.concatenate(row_of)


def rounding_bound(dim: int) -> float:
    """The largest difference between a float32 inner product of unit rows and `exact_scores`.

    dim · 2⁻²⁴ for a product summed in any order (Higham, Accuracy and Stability of Numerical
    Algorithms, 3.5), two more roundings for the float32 result of the exact score, times the square
    of the longest row accepted.
    """
    return (dim + 2) * 2.0**-24 * (1 + UNIT_TOLERANCE) ** 2 * 1.001


def arrange(
    queries: int, query_of: Positions, ids: Ids, scores: Scores, k: int | None = None
) -> Hits:
    """Scored pairs of a batch as `Hits`; the k best of each query where k is given."""
    order = np.lexsort((ids, -scores, query_of))
    query_of, ids, scores = query_of[order], ids[order], scores[order]
    counts = np.bincount(query_of, minlength=queries)
    if k is not None:
        starts = np.cumsum(counts) - counts
        kept = np.arange(len(ids)) - starts[query_of] < k
        ids, scores = ids[kept], scores[kept]
        counts = np.minimum(counts, k)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return Hits(offsets=offsets, ids=ids, scores=scores)


def no_hits(queries: int) -> Hits:
    """The empty answer to so many queries."""
    return Hits(
        offsets=np.zeros(queries + 1, np.int64),
        ids=np.empty(0, np.int64),
        scores=np.empty(0, np.float32),
    )
