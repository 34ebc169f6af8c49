"""Axes in which the first components of a face hold most of it, and may decide about a pair alone.

With p the first components of two vectors q and x, and t the others, Cauchy and Schwarz give

    q.x = q_p.x_p + q_t.x_t <= q_p.x_p + |q_t||x_t|

so a pair whose first components reach less than the threshold by |q_t||x_t| is below it, whatever
the axes. In those of the principal components (Jolliffe, Principal Component Analysis, 2002) the
tails are as short as they can be. Codes are made anew along them for the blocks of a join, which
compares each of them with very many others; nothing of it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.base import Vectors, overwrite_when_freed, products, rounding_bound

# So many components are beyond the limit of the codes: those of a row in a thousand.
_CLIPPED = 1e-5
# Codes made anew must save a tenth at least.
_WORTH = 0.9
# About what the rounding of both sides adds to the bound.
_MARGIN = 0.03
_PREFIXES = 32
_ORTHONORMAL = 1e-9
# OpenBLAS makes a product of so many multiplications in the calling thread.
_ALONE, _ROWS_AT_ONCE = 1 << 18, 8


class Grid(NamedTuple):
    """A kernel's grid: it compares in blocks of `rows` x `queries`, `step` components at a time."""

    rows: int
    queries: int
    step: int


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """Orthonormal `columns` float64[dim, dim]; `prefix`, how many come first; the codes' limit."""

    columns: NDArray[np.float64]
    prefix: int
    limit: float


def find_axes(sample: Vectors, threshold: float, grid: Grid) -> Axes | None:
    """The principal axes of a sample, where a prefix saves enough at this threshold; else None.

    A block that goes on is counted as one that is compared in full, once more.
    """
    rows = overwrite_when_freed(sample.astype(np.float64))
    columns = np.ascontiguousarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1])
    dim = len(columns)
    # So products along the axes differ by far less than the bound allows for rounding.
    assert np.abs(columns.T @ columns - np.eye(dim)).max() < _ORTHONORMAL
    turned = overwrite_when_freed(overwrite_when_freed(rows @ columns).astype(np.float32))
    apart = max(grid.step, dim // _PREFIXES // grid.step * grid.step)
    cost, prefix = min(_costs(turned, range(apart, dim, apart), threshold, grid), default=(1.0, 0))
    if cost > _WORTH:
        return None
    limit = float(np.quantile(np.abs(turned), 1 - _CLIPPED))
    return Axes(columns, prefix, min(1.0, limit))


def turn(rows: Vectors, columns: Vectors) -> Vectors:
    """The components of rows along the columns, within `turning_bound`: float32[n, dim].

    By many small products: the threads of a large one would go on waiting actively after it, and
    take a core from the scan that the rows are for.
    """
    dim = len(columns)
    turned = overwrite_when_freed(np.empty(rows.shape, np.float32))
    width = max(1, _ALONE // (_ROWS_AT_ONCE * dim))
    whole = len(rows) // _ROWS_AT_ONCE * _ROWS_AT_ONCE
    for part, size in ((slice(whole), _ROWS_AT_ONCE), (slice(whole, None), len(rows) - whole)):
        pieces = rows[part].reshape(-1, max(1, size), dim)
        into = turned[part].reshape(pieces.shape)
        for start in range(0, dim, width):
            some = slice(start, start + width)
            np.matmul(pieces, columns[:, some], out=into[..., some])
    return turned


def turning_bound(dim: int) -> float:
    """The most by which float32 moves a row that `turn` turns: each component by its own bound."""
    return math.sqrt(dim) * rounding_bound(dim)


def tail_norms(codes: NDArray[np.int8], prefix: int) -> NDArray[np.float64]:
    """The norms of the components after the prefix: float64[n]."""
    tails = overwrite_when_freed(codes[:, prefix:].astype(np.int32))
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", tails, tails).astype(np.float64))
    return norms


def _costs(
    turned: Vectors, prefixes: Sequence[int], threshold: float, grid: Grid
) -> Iterator[tuple[float, int]]:
    """The share of all work that each prefix leaves, by comparing one half with the other."""
    half = len(turned) // 2
    high, wide = half // grid.rows * grid.rows, half // grid.queries * grid.queries
    rows, queries = turned[:high], turned[half : half + wide]
    sums, before, least = np.zeros((high, wide), np.float32), 0, 1.0
    for prefix in prefixes:
        if prefix / turned.shape[1] >= least:
            return
        sums += products(rows[:, before:prefix], queries[:, before:prefix])
        before = prefix
        own, others = (np.linalg.norm(part[:, prefix:], axis=1) for part in (rows, queries))
        # As they lie in a block of a join: those of like tails together.
        order = np.argsort(own)
        most = sums[order]
        most += own[order, None] * others
        highest = most.reshape(-1, grid.rows, wide).max(axis=1)
        passing = highest.reshape(len(highest), -1, grid.queries) >= threshold - _MARGIN
        cost = prefix / turned.shape[1] + float(passing.any(axis=2).mean())
        least = min(least, cost)
        yield cost, prefix
