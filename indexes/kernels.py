"""Scans of byte codes: which (row, query) pairs may reach the level of their query.

Sums are of unsigned codes (0-255, 128 standing for 0) times signed queries, exact in int32; the
128 is a constant of the query and part of its level. A pair's *margin* is how far its sum may be
from its score, in units of the query; a scan keeps what may reach the level, `sum + margin >=
level`, and where the k best are sought it raises the level as it goes: the k-th greatest `sum -
margin` so far is certainly reached by k rows.

All kernels have one signature and keep the same pairs: `scan(rows, wanted, first, last, found)`
reads stretches `first` to `last` of the rows, without the GIL, and writes to `found`, int32[m, 3],
a row, a query and the most the sum could be, `sum + margin`; it returns how many. `found` has room
for all pairs: an array that grew in the loop would cost a count of references for each row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from indexes.intrinsics import (
    BLOCK,
    any_reaches,
    ask_for,
    begin_tiles,
    end_tiles,
    lowest_bit,
    multiply_amx,
    multiply_rows_vnni,
    multiply_vnni,
    tile_shapes,
    which_reach,
)

STRETCH = 1024
"""Rows that share a margin: a stretch of 128 dimensions fits the second-level cache 16 times."""
LOWEST = -(2**30)
"""Below any sum less any margin: the level before k rows are known."""
Found = NDArray[np.int32]

_HALF, _TILE_BYTES, _BLOCK_SUMS = BLOCK // 2, BLOCK * BLOCK, BLOCK * BLOCK
# Packed queries of one pass over a stretch: they stay in the first-level cache beside the rows.
_PASS_BYTES = 32 * 1024
_AHEAD_BYTES = 8 * 1024
_MOST = 2**31 - 1

Function = TypeVar("Function", bound=Callable[..., Any])


class Rows(NamedTuple):
    """What a segment shows a scan; rows are padded to whole blocks, with rows that are not alive.

    `codes` uint8[n, dim], n a multiple of 32 and dim of 64; `alive` bool[n]; `reach`
    float64[stretches], the largest residual norm in each stretch.
    """

    codes: NDArray[np.uint8]
    alive: NDArray[np.bool_]
    reach: NDArray[np.float64]


class Wanted(NamedTuple):
    """A batch of q queries, and what is sought.

    `codes` int8[q, dim]; `packed` the same as blocks read them, q rounded up to 32. The margin of
    a query in a stretch is `base + slope * reach`, rounded up, in units of its sums. `levels`
    int32[q rounded up] and `heaps` int32[q, k] (k = 0: the levels stay) change during a scan:
    each thread has its own.
    """

    codes: NDArray[np.int8]
    packed: NDArray[np.int8]
    base: NDArray[np.float64]
    slope: NDArray[np.float64]
    levels: NDArray[np.int32]
    heaps: NDArray[np.int32]


Scan = Callable[[Rows, Wanted, int, int, Found], int]


def compiled(function: Function, *, reordered: bool = False) -> Function:
    """The function as machine code, made at its first call and kept on disk where that is allowed.

    numba keeps it beside the source, or else in the user's cache folder; where it can write to
    neither, each process makes its own, which takes some seconds. `reordered` lets LLVM add
    floats in any order, as vector instructions do.
    """
    fastmath = {"reassoc", "contract"} if reordered else False
    try:
        made: object = numba.njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:
        made = numba.njit(nogil=True, fastmath=fastmath)(function)
    return cast(Function, made)


@compiled
def scan_one_vnni(rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
    """One query, as fast as memory gives the codes."""
    count, dim = rows.codes.shape
    kept = 0
    floors = np.empty(1, np.int32)
    sums = np.empty(8, np.int32)
    # Addresses are taken once, for numba counts a reference at each taking; and it frees an array
    # after its last use by name, so each local one has such a use at the end of the loop.
    codes_at, query_at, sums_at = (
        rows.codes.ctypes.data,
        wanted.codes.ctypes.data,
        sums.ctypes.data,
    )
    for stretch in range(first, last):
        _set_floors(floors, rows, wanted, stretch)
        for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, count), 8):
            multiply_rows_vnni(codes_at + row * dim, query_at, dim, sums_at)
            for i in range(8):
                if sums[i] >= floors[0]:
                    kept = _keep(rows, wanted, stretch, row + i, 0, sums[i], floors, found, kept)
    return kept


@compiled
def scan_amx(rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
    """A batch by AMX tiles; the sums never leave the first-level cache.

    Only where `has_amx` said yes in this process: it is what asks for the tiles.
    """
    count, dim = rows.codes.shape
    kept = 0
    blocks = len(wanted.packed)
    floors = np.empty(blocks * BLOCK, np.int32)
    sums = _on_a_line(np.empty(_BLOCK_SUMS + 16, np.int32))
    codes_at, packed_at, sums_at, floors_at = (
        rows.codes.ctypes.data,
        wanted.packed.ctypes.data,
        sums.ctypes.data,
        floors.ctypes.data,
    )
    at_once = max(1, _PASS_BYTES // (BLOCK * dim))
    begin_tiles(_TILE_SHAPES.ctypes.data)
    for stretch in range(first, last):
        _set_floors(floors, rows, wanted, stretch)
        for start in range(0, blocks, at_once):
            for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, count), BLOCK):
                codes = codes_at + row * dim
                if start == 0:
                    ask_for(codes + _AHEAD_BYTES, BLOCK * dim)
                for block in range(start, min(start + at_once, blocks)):
                    packed = packed_at + block * BLOCK * dim
                    multiply_amx(codes, dim, packed, dim // 64, sums_at)
                    for tile in range(4):
                        query = block * BLOCK + (tile & 1) * _HALF
                        # Seldom true: whatever follows costs next to nothing.
                        if any_reaches(sums_at + tile * _TILE_BYTES, floors_at + 4 * query):
                            kept = _keep_tile(
                                rows,
                                wanted,
                                stretch,
                                row + (tile >> 1) * _HALF,
                                query,
                                sums,
                                tile,
                                floors,
                                found,
                                kept,
                            )
    end_tiles()
    return kept


@compiled
def scan_vnni(rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
    """A batch by AVX-512; the same as `scan_amx` but for the instructions of a block."""
    count, dim = rows.codes.shape
    kept = 0
    blocks = len(wanted.packed)
    floors = np.empty(blocks * BLOCK, np.int32)
    sums = _on_a_line(np.empty(_BLOCK_SUMS + 16, np.int32))
    codes_at, packed_at, sums_at, floors_at = (
        rows.codes.ctypes.data,
        wanted.packed.ctypes.data,
        sums.ctypes.data,
        floors.ctypes.data,
    )
    at_once = max(1, _PASS_BYTES // (BLOCK * dim))
    for stretch in range(first, last):
        _set_floors(floors, rows, wanted, stretch)
        for start in range(0, blocks, at_once):
            for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, count), BLOCK):
                codes = codes_at + row * dim
                if start == 0:
                    ask_for(codes + _AHEAD_BYTES, BLOCK * dim)
                for block in range(start, min(start + at_once, blocks)):
                    packed = packed_at + block * BLOCK * dim
                    multiply_vnni(codes, dim, packed, dim // 64, sums_at)
                    for tile in range(4):
                        query = block * BLOCK + (tile & 1) * _HALF
                        # Seldom true: whatever follows costs next to nothing.
                        if any_reaches(sums_at + tile * _TILE_BYTES, floors_at + 4 * query):
                            kept = _keep_tile(
                                rows,
                                wanted,
                                stretch,
                                row + (tile >> 1) * _HALF,
                                query,
                                sums,
                                tile,
                                floors,
                                found,
                                kept,
                            )
    return kept


@compiled
def scan_plain(rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
    """Any number of queries on any processor, by whatever LLVM makes of the plain loop."""
    count, dim = rows.codes.shape
    kept = 0
    floors = np.empty(len(wanted.codes), np.int32)
    for stretch in range(first, last):
        _set_floors(floors, rows, wanted, stretch)
        for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, count)):
            codes = rows.codes[row]
            for query in range(len(wanted.codes)):
                factors = wanted.codes[query]
                total = np.int32(0)
                for i in range(dim):
                    total += np.int32(codes[i]) * np.int32(factors[i])
                if total >= floors[query]:
                    kept = _keep(rows, wanted, stretch, row, query, total, floors, found, kept)
    return kept


@compiled
def sift(
    rows: Rows,
    wanted: Wanted,
    stretch: int,
    products: NDArray[np.int32],
    found: Found,
    kept: int,
) -> int:
    """Adds the pairs of one stretch whose sums are there: int32[rows of it, q]."""
    floors = np.empty(len(wanted.codes), np.int32)
    _set_floors(floors, rows, wanted, stretch)
    for i in range(len(products)):
        for query in range(len(floors)):
            # The plain comparison is what LLVM vectorises.
            if products[i, query] >= floors[query]:
                kept = _keep(
                    rows,
                    wanted,
                    stretch,
                    stretch * STRETCH + i,
                    query,
                    products[i, query],
                    floors,
                    found,
                    kept,
                )
    return kept


@functools.partial(compiled, reordered=True)
def inner_products(
    queries: NDArray[np.float32], rows: NDArray[np.float32], found: Found
) -> NDArray[np.float32]:
    """Those of the pairs found, float32[m], within `scoring.rounding_bound` of their scores."""
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
        _replace_least(heaps[found[i, 1]], products[i])
    return heaps[:, 0].copy()


@compiled
def _margin(rows: Rows, wanted: Wanted, stretch: int, query: int) -> int:
    """In units of the query's sums; 2 more than what is cut off and what float64 rounds."""
    return int(wanted.base[query] + wanted.slope[query] * rows.reach[stretch]) + 2


@compiled
def _set_floors(floors: NDArray[np.int32], rows: Rows, wanted: Wanted, stretch: int) -> None:
    floors[:] = _MOST
    for query in range(len(wanted.codes)):
        floors[query] = wanted.levels[query] - _margin(rows, wanted, stretch, query)


@compiled
def _keep_tile(
    rows: Rows,
    wanted: Wanted,
    stretch: int,
    first_row: int,
    first_query: int,
    sums: NDArray[np.int32],
    tile: int,
    floors: NDArray[np.int32],
    found: Found,
    kept: int,
) -> int:
    sums_at = sums.ctypes.data + tile * _TILE_BYTES
    floors_at = floors.ctypes.data + 4 * first_query
    for line in range(_HALF):
        # A bit for each of 16 queries; a floor may rise meanwhile, which keeps too much at most.
        reached = which_reach(sums_at + 4 * _HALF * line, floors_at)
        while reached:
            query = lowest_bit(reached)
            reached &= reached - 1
            total = sums[(tile * _HALF + line) * _HALF + query]
            kept = _keep(
                rows,
                wanted,
                stretch,
                first_row + line,
                first_query + query,
                total,
                floors,
                found,
                kept,
            )
    return kept


@compiled
def _keep(
    rows: Rows,
    wanted: Wanted,
    stretch: int,
    row: int,
    query: int,
    total: np.int32,
    floors: NDArray[np.int32],
    found: Found,
    kept: int,
) -> int:
    """Notes a pair if its row is alive, and raises the level of its query if it can."""
    if not rows.alive[row]:
        return kept
    margin = _margin(rows, wanted, stretch, query)
    found[kept, 0] = row
    found[kept, 1] = query
    found[kept, 2] = total + margin
    if wanted.heaps.shape[1]:
        _replace_least(wanted.heaps[query], total - margin)
        wanted.levels[query] = wanted.heaps[query, 0]
        floors[query] = wanted.levels[query] - margin
    return kept + 1


@compiled
def _replace_least(heap: NDArray[Any], value: Any) -> None:
    """Puts a value for the least of a binary heap, if it is greater."""
    if value <= heap[0]:
        return
    place = 0
    while 2 * place + 1 < len(heap):
        below = 2 * place + 1
        if below + 1 < len(heap) and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= value:
            break
        heap[place] = heap[below]
        place = below
    heap[place] = value


@compiled
def _on_a_line(room: NDArray[np.int32]) -> NDArray[np.int32]:
    """The part of an array that begins on a cache line, 16 items shorter."""
    start = (-room.ctypes.data % 64) // 4
    return room[start : start + len(room) - 16]


_TILE_SHAPES = tile_shapes()
