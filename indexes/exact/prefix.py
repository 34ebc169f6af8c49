"""Axes in which the first components of a face hold most of it, and may decide about a pair alone.

With p the first components of two vectors q and x, and t the others, Cauchy and Schwarz give

    q.x = q_p.x_p + q_t.x_t <= q_p.x_p + |q_t||x_t|

so a pair whose first components reach less than the threshold by |q_t||x_t| is below it, whatever
the axes. In those of the principal components (Jolliffe, Principal Component Analysis, 2002) the
tails are as short as they can be. Codes are made anew along them for the blocks of a join, which
compares each of them with very many others; nothing of it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.base import Vectors

# So many components are beyond the limit of the codes: those of a row in a thousand.
_CLIPPED = 1e-5
# Codes made anew must save a tenth at least.
_WORTH = 0.9
# About what the rounding of both sides adds to the bound.
_MARGIN = 0.03
_PREFIXES = 16
_ORTHONORMAL = 1e-9
# OpenBLAS makes a product of so many multiplications in the calling thread.
_ALONE = 1 << 18
_FEWEST_ROWS = 4


class Grid(NamedTuple):
    """How a kernel compares: in blocks of `rows` x `queries`, `step` components at a time."""

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
    rows = sample.astype(np.float64)
    columns = np.ascontiguousarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1])
    dim = len(columns)
    # So products along the axes differ by far less than the bound allows for rounding.
    assert np.abs(columns.T @ columns - np.eye(dim)).max() < _ORTHONORMAL
    turned = rows @ columns
    apart = max(grid.step, dim // _PREFIXES // grid.step * grid.step)
    costs = {
        prefix: prefix / dim + _share_going_on(turned, prefix, threshold, grid)
        for prefix in range(apart, dim, apart)
    }
    if not costs or min(costs.values()) > _WORTH:
        return None
    limit = float(np.quantile(np.abs(turned), 1 - _CLIPPED))
    return Axes(columns, min(costs, key=costs.__getitem__), min(1.0, limit))


def turn(rows: Vectors, columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """The components of rows along the columns: float64[n, dim].

    By many small products: the threads of a large one would go on waiting actively after it, and
    take a core from the scan that the rows are for.
    """
    dim = len(columns)
    size = max(1, _ALONE // dim**2)
    doubles = rows.astype(np.float64)
    if size < _FEWEST_ROWS:
        return doubles @ columns
    turned = np.empty_like(doubles)
    whole = len(rows) // size * size
    pieces = doubles[:whole].reshape(-1, size, dim)
    np.matmul(pieces, columns, out=turned[:whole].reshape(-1, size, dim))
    np.matmul(doubles[whole:], columns, out=turned[whole:])
    return turned


def tail_norms(codes: NDArray[np.int8], prefix: int) -> NDArray[np.float64]:
    """The norms of the components after the prefix: float64[n]."""
    tails = codes[:, prefix:].astype(np.int32)
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", tails, tails).astype(np.float64))
    return norms


def _share_going_on(
    turned: NDArray[np.float64], prefix: int, threshold: float, grid: Grid
) -> float:
    """The share of blocks in which a pair passes the prefix: of one half with the other."""
    tails = np.linalg.norm(turned[:, prefix:], axis=1)
    half = len(turned) // 2
    # As they lie in a block of a join: those of like tails together.
    order = np.argsort(tails[:half])
    rows, queries = turned[:half][order, :prefix], turned[half:, :prefix]
    most = rows @ queries.T + tails[:half][order, None] * tails[None, half:]
    high, wide = len(rows) // grid.rows, len(queries) // grid.queries
    passing = most[: high * grid.rows, : wide * grid.queries] >= threshold - _MARGIN
    blocks = passing.reshape(high, grid.rows, wide, grid.queries)
    return float(blocks.any(axis=(1, 3)).mean())
