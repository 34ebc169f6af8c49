"""The definition of a score, and the ordering of scored pairs into an answer.

faiss adds the products of a row in another order for one query than for a batch, so its scores
differ in the last digits from call to call. An index uses it to find candidates, and gives each
the score defined here, which depends on the two vectors alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexes.base import UNIT_TOLERANCE, Hits, Ids, Scores, Vectors

Positions = NDArray[np.int64]

# So few stay in the cache.
_PAIRS_AT_ONCE = 512
# OpenBLAS makes a product of so many multiplications in the calling thread.
_ALONE = 1 << 18
_FEWEST_ROWS = 8


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


def products(queries: Vectors, rows: Vectors) -> NDArray[np.float32]:
    """Inner products within `rounding_bound` of the scores: float32[q, n].

    For a few queries by many small products: the threads of a large one would go on waiting
    actively for 0.1 s after it, and take a core from others.
    """
    count, dim = queries.shape
    size = _ALONE // max(1, count * dim)
    if size < _FEWEST_ROWS or not count:
        return queries @ rows.T
    found = np.empty((count, len(rows)), np.float32)
    whole = len(rows) // size * size
    tiles = found[:, :whole].reshape(count, -1, size).transpose(1, 0, 2)
    np.matmul(queries, rows[:whole].reshape(-1, size, dim).transpose(0, 2, 1), out=tiles)
    np.matmul(queries, rows[whole:].T, out=found[:, whole:])
    return found


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
