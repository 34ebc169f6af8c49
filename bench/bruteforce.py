"""What is right: every query against every row by numpy, in float32.

A product finds what may belong to the answer, with a margin for its rounding; those few have
their score computed in float64 and rounded once. Nothing of `indexes` is used.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.vectors import Vectors

_QUERIES_AT_ONCE, _ROWS_AT_ONCE = 512, 8192
# Beyond what a float32 product of unit rows loses in 1,500 dimensions.
_MARGIN = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Query i owns `offsets[i]:offsets[i + 1]` of rows int64[m] and scores float32[m].

    Best first, equal scores by ascending row.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        part = slice(int(self.offsets[query]), int(self.offsets[query + 1]))
        return self.rows[part], self.scores[part]


def find_best(queries: Vectors, rows: Vectors, k: int) -> Answers:
    """The k best rows of each query, or all where there are fewer."""
    parts = [
        _best_of(queries[start : start + _QUERIES_AT_ONCE], rows, min(k, len(rows)), start)
        for start in range(0, len(queries), _QUERIES_AT_ONCE)
    ]
    return _arrange(queries, rows, parts, -np.inf, k)


def find_reaching(queries: Vectors, rows: Vectors, threshold: float) -> Answers:
    """All rows at or above the threshold."""
    parts = []
    for first, start, scores in _products(queries, rows):
        query_of, row_of = np.nonzero(scores >= threshold - _MARGIN)
        parts.append((query_of + first, row_of + start))
    return _arrange(queries, rows, parts, threshold, None)


def find_pairs(
    rows: Vectors, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """All pairs of different rows at or above: the smaller, the greater, their scores."""
    parts = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        tile = rows[start : start + _ROWS_AT_ONCE]
        for first in range(start, len(rows), _QUERIES_AT_ONCE):
            others = rows[first : first + _QUERIES_AT_ONCE]
            left, right = np.nonzero(tile @ others.T >= threshold - _MARGIN)
            kept = left + start < right + first
            parts.append((left[kept] + start, right[kept] + first))
    left, right = (np.concatenate(side) for side in zip(*parts, strict=True))
    scores = _scores(rows, rows, left, right)
    kept = scores.astype(np.float64) >= threshold
    order = np.lexsort((right[kept], left[kept]))
    return left[kept][order], right[kept][order], scores[kept][order]


def _best_of(
    queries: Vectors, rows: Vectors, k: int, first: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (query, row) that hold at least the k best of each query."""
    heaps: list[list[float]] = [[-2.0] * k for _ in queries]
    floors = np.full(len(queries), -2.0, np.float32)
    query_of, row_of, near = [], [], []
    for _, start, scores in _products(queries, rows):
        if start == 0 and scores.shape[1] > k:
            # The best of the first rows at once: one by one there would be very many.
            floors = np.partition(scores, -k, axis=1)[:, -k] - np.float32(_MARGIN)
        found_queries, found_rows = np.nonzero(scores >= floors[:, None] - np.float32(_MARGIN))
        values = scores[found_queries, found_rows]
        for one, value in zip(found_queries.tolist(), values.tolist(), strict=True):
            heapq.heappushpop(heaps[one], value)
        floors = np.maximum(floors, np.array([heap[0] for heap in heaps], np.float32))
        query_of.append(found_queries)
        row_of.append(found_rows + start)
        near.append(values)
    query, row = np.concatenate(query_of), np.concatenate(row_of)
    kept = np.concatenate(near) >= floors[query] - np.float32(_MARGIN)
    return query[kept] + first, row[kept]


def _products(queries: Vectors, rows: Vectors) -> Iterator[tuple[int, int, Vectors]]:
    """Products tile by tile: the first query, the first row, float32[queries, rows]."""
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        part = queries[first : first + _QUERIES_AT_ONCE]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            yield first, start, part @ rows[start : start + _ROWS_AT_ONCE].T


def _arrange(
    queries: Vectors,
    rows: Vectors,
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
    threshold: float,
    k: int | None,
) -> Answers:
    query_of, row_of = (np.concatenate(side) for side in zip(*parts, strict=True))
    scores = _scores(queries, rows, query_of, row_of)
    # In float64, for numpy would round the threshold to the scores' float32.
    kept = scores.astype(np.float64) >= threshold
    query_of, row_of, scores = query_of[kept], row_of[kept], scores[kept]
    order = np.lexsort((row_of, -scores, query_of))
    query_of, row_of, scores = query_of[order], row_of[order], scores[order]
    counts = np.bincount(query_of, minlength=len(queries))
    if k is not None:
        places = np.arange(len(query_of)) - (np.cumsum(counts) - counts)[query_of]
        row_of, scores = row_of[places < k], scores[places < k]
        counts = np.minimum(counts, k)
    return Answers(np.concatenate(([0], np.cumsum(counts))), row_of, scores)


def _scores(
    queries: Vectors, rows: Vectors, query_of: NDArray[np.int64], row_of: NDArray[np.int64]
) -> NDArray[np.float32]:
    scores = np.empty(len(query_of), np.float32)
    for start in range(0, len(scores), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        products = queries[query_of[part]].astype(np.float64) * rows[row_of[part]]
        scores[part] = products.sum(axis=1)
    return scores
