"""From the pairs that a scan of codes has found to their scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.base import Scores, Vectors
from indexes.exact.kernels import Found, inner_products, kth_best
from indexes.exact.rowstore import RowStore
from indexes.scoring import Positions, exact_scores, rounding_bound

Floors = NDArray[np.float64]
"""The lowest score that counts, one for each query; -inf where every one does."""

# Queries of one pass: their codes stay in the second-level cache.
_QUERIES_AT_ONCE = 2048
_HEAP_ITEMS_AT_ONCE = 1 << 22
_COARSE_PAIRS_AT_ONCE = 1 << 25
# So many rows, at the most, are fetched at once where they have to be copied or opened first.
_PAIRS_AT_ONCE = 1 << 15


class Pairs(NamedTuple):
    """Scored pairs (query, row), in no order: int64[m], int64[m], float32[m]."""

    query_of: Positions
    row_of: Positions
    scores: Scores


def score_pairs(queries: Vectors, rows: RowStore, found: Found, floors: Floors) -> Pairs:
    """Those of the pairs whose score is at or above the floor of their query."""
    parts = []
    for start in range(0, len(found), _PAIRS_AT_ONCE):
        pairs = found[start : start + _PAIRS_AT_ONCE]
        row_of, query_of = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
        matrix, places = rows.select(row_of)
        # A product in float32 costs a tenth of a score, and drops most of what is too low.
        near = _products(queries, matrix, pairs, places) >= (floors - _bound(queries))[query_of]
        query_of, row_of, places = query_of[near], row_of[near], places[near]
        scores = exact_scores(queries, matrix, query_of, places)
        # In float64, for numpy would round the floor to the scores' float32.
        kept = scores.astype(np.float64) >= floors[query_of]
        parts.append(Pairs(query_of[kept], row_of[kept], scores[kept]))
    return joined(parts)


def score_best(queries: Vectors, rows: RowStore, found: Found, k: int, floors: Floors) -> Pairs:
    """Those that may be among the k best, of the pairs and with what else reaches the floors."""
    products = np.empty(len(found), np.float32)
    for start in range(0, len(found), _PAIRS_AT_ONCE):
        pairs = slice(start, start + _PAIRS_AT_ONCE)
        matrix, places = rows.select(found[pairs, 0].astype(np.int64))
        products[pairs] = _products(queries, matrix, found[pairs], places)
    best = kth_best(products, found, len(queries), k).astype(np.float64)
    # The product of a row and that of the k-th best may be off by the bound, both of them.
    lowest = best - 2 * _bound(queries)
    return score_pairs(queries, rows, found[products >= lowest[found[:, 1]]], floors)


def joined(parts: list[Pairs]) -> Pairs:
    """All of them as one."""
    if len(parts) == 1:
        return parts[0]
    nothing = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Pairs(*(np.concatenate(column) for column in zip(nothing, *parts, strict=True)))


def _products(
    queries: Vectors, matrix: Vectors, pairs: Found, places: Positions
) -> NDArray[np.float64]:
    placed = np.empty_like(pairs)
    placed[:, 0], placed[:, 1] = places, pairs[:, 1]
    # In float64, for numpy would round what they are compared with to float32.
    return inner_products(queries, matrix, placed).astype(np.float64)


def _bound(queries: Vectors) -> float:
    return rounding_bound(queries.shape[1])


def passes(queries: int, coarse: int, k: int = 0) -> Iterator[slice]:
    """A batch in pieces, so that memory stays bounded with so many coarsely coded rows."""
    size = min(
        _QUERIES_AT_ONCE,
        _HEAP_ITEMS_AT_ONCE // max(1, k),
        _COARSE_PAIRS_AT_ONCE // max(1, coarse),
    )
    size = max(1, size)
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))
