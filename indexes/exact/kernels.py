"""Input of the scans of byte codes, and the levels that pairs must reach.

Sums are of unsigned codes (0-255, 128 standing for 0) times signed queries, exact in int32; the
128 is a constant of the query and part of its level. The *margin* of a pair is how far its sum may
be from its score, in units of the query. A scan keeps each pair that may reach the level (`sum +
margin >= level`). In a search for the k best it raises the level as it goes: k rows certainly
reach the k-th greatest `sum - margin` so far. A *floor* is a level less the margin.

The first components of a face may decide about a pair alone. With p the first components of two
vectors q and x, and t the others, Cauchy and Schwarz give

    q.x = q_p.x_p + q_t.x_t <= q_p.x_p + |q_t||x_t|

so a pair whose first components reach less than the threshold by |q_t||x_t| is below it, whatever
the axes. In those of the principal components (Jolliffe, Principal Component Analysis, 2002) the
tails are as short as they can be. Codes are made anew along them for the blocks of a join, which
compares each of them with very many others; nothing of it is kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.base import (
    Doubles,
    Flags,
    Floats,
    Ints,
    Octets,
    Vectors,
    overwrite_when_freed,
    products,
    rounding_bound,
)
from indexes.exact.intrinsics import compiled
from schema import frozen

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


@frozen(eq=False)
class Axes:
    """Orthonormal `columns` float64[dim, dim]; `prefix`, how many come first; the codes' limit."""

    columns: Doubles
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


def tail_norms(codes: NDArray[np.int8], prefix: int) -> Doubles:
    """The norms of the components after the prefix: float64[n]."""
    tails = overwrite_when_freed(codes[:, prefix:].astype(np.int32))
    norms: Doubles = np.sqrt(np.einsum("ij,ij->i", tails, tails).astype(np.float64))
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


STRETCH = 1024
"""Rows that share a margin: a stretch of 128 dimensions fits the second-level cache 8 times."""
LOWEST = -(2**30)
"""Below any sum less any margin: the level before k rows are known."""
HIGHEST = 2**30
"""Above any sum: the floor of a query that is not there."""
Sums = NDArray[np.int32]
Found = Sums


class Plane(NamedTuple):
    """Rows in half a byte a dimension, and how well these fit the byte codes of each eight rows.

    `halves` uint8[n, width]; `lengths` and `distances` float32[n / 8], and `longest`, as
    `indexes.exact.codes` says.
    """

    halves: Octets
    lengths: Floats
    distances: Floats
    longest: float


class Rows(NamedTuple):
    """Rows of a segment for a scan, padded to whole blocks with rows that are not alive.

    `codes` uint8[n, dim], n a multiple of 32 and dim of 64; `alive` bool[n]; `reach`
    float64[stretches], the largest residual norm in each stretch; `plane` has the rows in half a
    byte a dimension, or no rows. The first `prefix` components are compared first, unless these
    are all; `tails` float64[stretches] is then the greatest norm of the others' codes.
    """

    codes: Octets
    alive: Flags
    reach: Doubles
    plane: Plane
    prefix: int
    tails: Doubles


class Wanted(NamedTuple):
    """A batch of q queries, and the level that each pair must reach.

    `codes` int8[q, dim]. The margin of a query in a stretch is `base + slope * reach`, rounded up,
    in units of its sums.
    `levels` int32[q rounded up] and `heaps` int32[q, k] (k = 0: the levels stay) change during a
    scan: each thread has its own heaps, and all raise the same levels. `tails` float64[q] are the
    norms of the codes after the prefix, `tail_zeros` int64[q] what 128 in the rows adds to these.
    """

    codes: NDArray[np.int8]
    base: Doubles
    slope: Doubles
    levels: Sums
    heaps: Sums
    tails: Doubles
    tail_zeros: Ints


@compiled
def set_floors(floors: Sums, margins: Sums, rows: Rows, wanted: Wanted, stretch: int) -> None:
    """The floors and the margins of all queries in one stretch: int32[q rounded up] each."""
    floors[:] = HIGHEST
    for query in range(len(wanted.codes)):
        margins[query] = margin_of(rows, wanted, query, stretch)
        floors[query] = _floor(wanted.levels[query] - margins[query])


@compiled
def margin_of(rows: Rows, wanted: Wanted, query: int, stretch: int) -> int:
    """The margin of a query in a stretch."""
    # 2 more: for what int() cuts off and what float64 rounds.
    return int(wanted.base[query] + wanted.slope[query] * rows.reach[stretch]) + 2


@compiled
def set_prefix_floors(
    prefix_floors: Sums, floors: Sums, rows: Rows, wanted: Wanted, stretch: int
) -> None:
    """Sets the floor of a prefix's sum: the whole floor less the most that the others can add.

    That is the product of the norms of both sides' other components (Cauchy and Schwarz).
    """
    prefix_floors[:] = HIGHEST
    for query in range(len(wanted.codes)):
        # 2 more: for what int() cuts off and what float64 rounds.
        most = int(wanted.tails[query] * rows.tails[stretch]) + 2 + wanted.tail_zeros[query]
        prefix_floors[query] = _floor(floors[query] - most)


@compiled
def _floor(level: int) -> int:
    """Clipped so that a sum less the floor fits int32; no sum is beyond."""
    return max(LOWEST, min(HIGHEST, level))


@compiled
def keep(
    alive: Flags,
    levels: Sums,
    heaps: Sums,
    floors: Sums,
    margins: Sums,
    row: int,
    query: int,
    total: np.int32,
    found: Found,
    kept: int,
) -> int:
    """Adds a pair if its row is alive, and raises the level of its query if possible.

    It takes arrays alone: taking one out of a tuple counts a reference, by an instruction for which
    the threads wait for each other.
    """
    if not alive[row]:
        return kept
    found[kept, 0] = row
    found[kept, 1] = query
    found[kept, 2] = total + margins[query]
    if heaps.shape[1]:
        replace_least(heaps, query, total - margins[query])
        # Other threads raise it too; if one undoes another's step, more pairs are kept, not fewer.
        levels[query] = max(levels[query], heaps[query, 0])
        floors[query] = _floor(levels[query] - margins[query])
    return kept + 1


@compiled
def replace_least(heaps: NDArray[Any], query: int, value: Any) -> None:
    """Replaces the least of the binary heap of a query by a value, if that is greater."""
    if value <= heaps[query, 0]:
        return
    place = 0
    while 2 * place + 1 < heaps.shape[1]:
        below = 2 * place + 1
        if below + 1 < heaps.shape[1] and heaps[query, below + 1] < heaps[query, below]:
            below += 1
        if heaps[query, below] >= value:
            break
        heaps[query, place] = heaps[query, below]
        place = below
    heaps[query, place] = value


@functools.partial(compiled, reordered=True)
def inner_products(queries: Floats, rows: Floats, found: Found) -> Floats:
    """Products of the pairs found: float32[m], within `scoring.rounding_bound` of their scores."""
    products = np.empty(len(found), np.float32)
    for i in range(len(found)):
        row, query = rows[found[i, 0]], queries[found[i, 1]]
        total = np.float32(0)
        for j in range(len(row)):
            total += row[j] * query[j]
        products[i] = total
    return products


@compiled
def kth_best(products: Floats, found: Found, queries: int, k: int) -> Floats:
    """The k-th greatest product of each query, float32[q]; -inf where there are fewer."""
    heaps = np.full((queries, k), -np.inf, np.float32)
    for i in range(len(found)):
        replace_least(heaps, found[i, 1], products[i])
    return heaps[:, 0].copy()
