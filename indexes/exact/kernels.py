"""Input of the scans of byte codes, and the levels that pairs must reach.

Sums are of unsigned codes (0-255, 128 standing for 0) times signed queries, exact in int32; the
128 is a constant of the query and part of its level. The *margin* of a pair is how far its sum may
be from its score, in units of the query. A scan keeps each pair that may reach the level (`sum +
margin >= level`). In a search for the k best it raises the level as it goes: k rows certainly
reach the k-th greatest `sum - margin` so far. A *floor* is a level less the margin.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.exact.intrinsics import compiled

STRETCH = 1024
"""Rows that share a margin: a stretch of 128 dimensions fits the second-level cache 8 times."""
LOWEST = -(2**30)
"""Below any sum less any margin: the level before k rows are known."""
HIGHEST = 2**30
"""Above any sum: the floor of a query that is not there."""
Found = NDArray[np.int32]


class Plane(NamedTuple):
    """Rows in half a byte a dimension, and how well these fit the byte codes of each eight rows.

    `halves` uint8[n, width]; `lengths` and `distances` float32[n / 8], and `longest`, as
    `indexes.exact.codes` says.
    """

    halves: NDArray[np.uint8]
    lengths: NDArray[np.float32]
    distances: NDArray[np.float32]
    longest: float


class Rows(NamedTuple):
    """Rows of a segment for a scan, padded to whole blocks with rows that are not alive.

    `codes` uint8[n, dim], n a multiple of 32 and dim of 64; `alive` bool[n]; `reach`
    float64[stretches], the largest residual norm in each stretch; `plane` has the rows in half a
    byte a dimension, or no rows. The first `prefix` components are compared first, unless these
    are all; `tails` float64[stretches] is then the greatest norm of the others' codes.
    """

    codes: NDArray[np.uint8]
    alive: NDArray[np.bool_]
    reach: NDArray[np.float64]
    plane: Plane
    prefix: int
    tails: NDArray[np.float64]


class Wanted(NamedTuple):
    """A batch of q queries, and the level that each pair must reach.

    `codes` int8[q, dim]. The margin of a query in a stretch is `base + slope * reach`, rounded up,
    in units of its sums.
    `levels` int32[q rounded up] and `heaps` int32[q, k] (k = 0: the levels stay) change during a
    scan: each thread has its own heaps, and all raise the same levels. `tails` float64[q] are the
    norms of the codes after the prefix, `tail_zeros` int64[q] what 128 in the rows adds to these.
    """

    codes: NDArray[np.int8]
    base: NDArray[np.float64]
    slope: NDArray[np.float64]
    levels: NDArray[np.int32]
    heaps: NDArray[np.int32]
    tails: NDArray[np.float64]
    tail_zeros: NDArray[np.int64]


@compiled
def set_floors(
    floors: NDArray[np.int32], margins: NDArray[np.int32], rows: Rows, wanted: Wanted, stretch: int
) -> None:
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
    prefix_floors: NDArray[np.int32],
    floors: NDArray[np.int32],
    rows: Rows,
    wanted: Wanted,
    stretch: int,
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
    alive: NDArray[np.bool_],
    levels: NDArray[np.int32],
    heaps: NDArray[np.int32],
    floors: NDArray[np.int32],
    margins: NDArray[np.int32],
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
def inner_products(
    queries: NDArray[np.float32], rows: NDArray[np.float32], found: Found
) -> NDArray[np.float32]:
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
def kth_best(
    products: NDArray[np.float32], found: Found, queries: int, k: int
) -> NDArray[np.float32]:
    """The k-th greatest product of each query, float32[q]; -inf where there are fewer."""
    heaps = np.full((queries, k), -np.inf, np.float32)
    for i in range(len(found)):
        replace_least(heaps, found[i, 1], products[i])
    return heaps[:, 0].copy()
