"""The scans: one loop over the rows of a segment for each kind of processor.

All have one signature and keep the same pairs: `scan(rows, wanted, first, last, found)` reads
stretches `first` to `last` of the rows, without the GIL, and writes to `found`, int32[m, 3]: row,
query and the greatest possible sum, `sum + margin`. It returns their number. `found` has space for
all pairs: growing an array in the loop would cost reference counting for each row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Doubles, Flags, Ints, overwrite_when_freed
from indexes.exact.codes import HALF_STEP, HALF_ZERO
from indexes.exact.intrinsics import (
    BLOCK,
    ROWS_AT_ONCE,
    STEP,
    TILE,
    any_reaches,
    begin_tiles,
    compiled,
    end_tiles,
    lowest_bit,
    multiply_amx,
    prefetch_bytes,
    reach_8,
    reach_16,
    reach_32,
    reach_one_halves,
    reach_one_vnni,
    sum_one_vnni,
    which_of_eight,
    which_reach,
)
from indexes.exact.kernels import (
    LOWEST,
    STRETCH,
    Found,
    Rows,
    Sums,
    Wanted,
    keep,
    margin_of,
    replace_least,
    set_floors,
    set_prefix_floors,
)

Scan = Callable[[Rows, Wanted, int, int, Found], int]

# Packed queries of one pass over a stretch: they stay in the first-level cache beside the rows.
_PASS_BYTES = 32 * 1024
_AHEAD_BYTES = 8 * 1024


def pack(queries: NDArray[np.int8], width: int) -> NDArray[np.int8]:
    """Queries `int8[q, dim]` in blocks of 8, 16 or 32: `int8[ceil(q / width), width * dim]`.

    A line of 64 bytes has the next components of up to 16 queries: 4 of each of 16, or 8 of each of
    8. In a block of 32 those of the first half come before all of the other. Queries that are not
    there are 0.
    """
    count, dim = queries.shape
    blocks, wide = -(-count // width), min(width, TILE)
    packed = _aligned(blocks, width * dim)
    padded = np.zeros((blocks * width, dim), np.int8)
    padded[:count] = queries
    some = STEP // wide
    by_line = padded.reshape(-1, wide, dim // some, some).transpose(0, 2, 1, 3)
    packed.reshape(by_line.shape)[:] = by_line
    # It may be of faces of a join, which what is freed must not hold.
    padded.fill(0)
    return overwrite_when_freed(packed)


def _aligned(*shape: int) -> NDArray[np.int8]:
    """An empty array that begins on a cache line."""
    size = math.prod(shape)
    room = np.empty(size + STEP, np.int8)
    start = -room.ctypes.data % STEP
    return room[start : start + size].reshape(shape)


# What `begin_tiles` loads: all eight tiles are 16 lines of 64 bytes.
_TILE_SHAPES = _aligned(STEP)
_TILE_SHAPES[:] = 0
_TILE_SHAPES[0] = 1
_TILE_SHAPES[16:32].view(np.uint16)[:] = STEP
_TILE_SHAPES[48:56] = TILE
# A stretch of which more rows pass the plane is no faster by it: so many next ones do without.
_PAUSE = 4
# The best so far are known at once of so many at most; twice as many rows are looked at for them.
_MOST_BEST, _LIKELY = 64, 2


@compiled
def scan_few_vnni(rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
    """A few queries one by one, bound by the speed of memory.

    With a plane its half bytes are read, and the codes of the rows that may reach by these; without
    one, and where too many may, the codes alone.
    """
    count, dim = rows.codes.shape
    kept = 0
    queries = len(wanted.codes)
    floors = np.empty(queries, np.int32)
    margins = np.empty(queries, np.int32)
    pauses = np.zeros(queries, np.int64)
    factors, zeros, lengths = _prepare_queries(rows, wanted)
    alive, levels, heaps = rows.alive, wanted.levels, wanted.heaps
    halves, plane_lengths, distances, longest = rows.plane
    width = halves.shape[1]
    # Rows of a stretch that may pass the plane before bytes alone are faster: one that passes costs
    # a wait for the memory whatever its dimension, and the more of it there is to read, the more
    # the plane saves: measured, 1 in 22 at 128 dimensions, 1 in 7 at 512.
    most = STRETCH * min(dim, 3 * 128) // (24 * 128)
    sums, places = np.empty(8, np.int32), np.empty(most + ROWS_AT_ONCE, np.int64)
    is_coarse, coarse = _make_coarse(rows, wanted, zeros, factors, first, last)
    # Addresses are taken once, for numba counts a reference each time; and it frees an array after
    # its last use by name, so each local one is used at the end of the loop.
    codes_at, query_at, sums_at, halves_at, factors_at, coarse_at = (
        rows.codes.ctypes.data,
        wanted.codes.ctypes.data,
        sums.ctypes.data,
        halves.ctypes.data,
        factors.ctypes.data,
        coarse.ctypes.data,
    )
    for stretch in range(first, last):
        set_floors(floors, margins, rows, wanted, stretch)
        end = min((stretch + 1) * STRETCH, count)
        for query in range(len(factors)):
            row, zero, own_at = stretch * STRETCH, zeros[query], query_at + query * dim
            is_halved = len(halves) > 0 and floors[query] > zero
            if is_halved and pauses[query]:
                pauses[query] -= 1
            elif is_halved:
                passed = 0
                near, far = _turn(floors[query] - zero, lengths[query], longest)
                while row < end and passed <= most:
                    group = row // ROWS_AT_ONCE
                    least = near * plane_lengths[group] - far * distances[group]
                    # The sum of values at or above it; 2 less: for what int() and float64 round.
                    floor = int((least + HALF_ZERO * zero / 128) / HALF_STEP) - 2
                    here, half_at = halves_at + row * width, factors_at + 2 * query * width
                    if is_coarse[query]:
                        place = query * coarse.shape[1] + row - first * STRETCH
                        reached = which_of_eight(coarse_at + 4 * place, floor)
                    else:
                        reached = reach_one_halves(here, width, half_at, floor, sums_at)
                    while reached:
                        places[passed] = row + lowest_bit(reached)
                        prefetch_bytes(codes_at + places[passed] * dim, dim)
                        reached &= reached - 1
                        passed += 1
                    row += ROWS_AT_ONCE
                # Not at once: each would wait for the memory.
                for place in places[:passed]:
                    total = sum_one_vnni(codes_at + place * dim, dim, own_at)
                    if total >= floors[query]:
                        kept = keep(
                            alive, levels, heaps, floors, margins, place, query, total, found, kept
                        )
                pauses[query] = _PAUSE if passed > most else 0
            for at in range(row, end, ROWS_AT_ONCE):
                reached = reach_one_vnni(codes_at + at * dim, dim, own_at, floors[query], sums_at)
                while reached:
                    i = lowest_bit(reached)
                    reached &= reached - 1
                    kept = keep(
                        alive, levels, heaps, floors, margins, at + i, query, sums[i], found, kept
                    )
    return kept


@compiled
def _prepare_queries(rows: Rows, wanted: Wanted) -> tuple[NDArray[np.int8], Ints, Doubles]:
    """Queries padded to the width of the plane, what 128 adds to their sums, and their lengths."""
    queries, dim = wanted.codes.shape
    factors = np.zeros((queries, 2 * rows.plane.halves.shape[1]), np.int8)
    zeros = np.zeros(queries, np.int64)
    lengths = np.zeros(queries, np.float64)
    for query in range(queries):
        total, squares = np.int64(0), np.int64(0)
        for i in range(dim):
            code = np.int64(wanted.codes[query, i])
            total += code
            squares += code * code
            if i < factors.shape[1]:
                factors[query, i] = code
        zeros[query] = 128 * total
        lengths[query] = math.sqrt(squares)
    return factors, zeros, lengths


@compiled
def _make_coarse(
    rows: Rows, wanted: Wanted, zeros: Ints, factors: NDArray[np.int8], first: int, last: int
) -> tuple[Flags, Sums]:
    """Makes all sums of the half bytes for some queries first: which ones, and int32[q, rows].

    Those of which the k best are wanted and nothing is known yet: else the level rises so slowly
    that in the first third of the rows more pass the plane than in all others.
    """
    queries, k = len(wanted.codes), wanted.heaps.shape[1]
    is_coarse = np.zeros(queries, np.bool_)
    if len(rows.plane.halves) and 0 < k <= _MOST_BEST:
        is_coarse[:] = wanted.levels[:queries] <= zeros
    coarse = np.empty((queries if is_coarse.any() else 0, (last - first) * STRETCH), np.int32)
    for query in range(queries):
        if is_coarse[query]:
            end = min(last * STRETCH, len(rows.codes))
            _raise_level(rows, wanted, query, first * STRETCH, end, factors[query], coarse[query])
    return is_coarse, coarse


@compiled
def _raise_level(
    rows: Rows,
    wanted: Wanted,
    query: int,
    first: int,
    last: int,
    factors: NDArray[np.int8],
    coarse: Sums,
) -> None:
    """Writes the half-byte sums of rows `first` to `last`, and raises the level by their best.

    k rows certainly reach the k-th greatest `sum - margin` of any rows. Those whose half bytes have
    the greatest sums come near it, so hardly a row passes that the level at the end would not let.
    """
    dim, width, k = rows.codes.shape[1], rows.plane.halves.shape[1], wanted.heaps.shape[1]
    codes_at, halves_at = rows.codes.ctypes.data, rows.plane.halves.ctypes.data
    query_at, coarse_at = wanted.codes.ctypes.data + query * dim, coarse.ctypes.data
    factors_at, alive = factors.ctypes.data, rows.alive
    likely = np.full((1, _LIKELY * k), LOWEST, np.int32)
    best = np.full((1, k), LOWEST, np.int32)
    for row in range(first, last, ROWS_AT_ONCE):
        at = row - first
        reached = reach_one_halves(
            halves_at + row * width, width, factors_at, likely[0, 0], coarse_at + 4 * at
        )
        while reached:
            i = lowest_bit(reached)
            reached &= reached - 1
            if alive[row + i]:
                replace_least(likely, 0, coarse[at + i])
    left = 2 * _LIKELY * k
    for row in range(first, last, ROWS_AT_ONCE):
        reached = which_of_eight(coarse_at + 4 * (row - first), likely[0, 0])
        while reached and left:
            i = row + lowest_bit(reached)
            reached &= reached - 1
            if alive[i]:
                left -= 1
                total = sum_one_vnni(codes_at + i * dim, dim, query_at)
                replace_least(best, 0, total - margin_of(rows, wanted, query, i // STRETCH))
    wanted.levels[query] = max(wanted.levels[query], best[0, 0])


@compiled
def _turn(wanted: int, length: float, longest: float) -> tuple[float, float]:
    """|q| cos f and |q| sin f, f the angle between query and row at the sum that is wanted."""
    assert wanted > 0, "the plane bounds no row that may be a right angle away"
    cosine = min(1.0, wanted / (length * longest)) if longest > 0 else 1.0
    return length * cosine, length * math.sqrt(1 - cosine * cosine)


@compiled
def scan_amx(
    packed: NDArray[np.int8], rows: Rows, wanted: Wanted, first: int, last: int, found: Found
) -> int:
    """A batch by AMX tiles; the sums never leave the first-level cache.

    Only after `has_amx` returned True in this process: it asks the system for the tiles.
    """
    count, dim = rows.codes.shape
    kept = 0
    blocks = len(packed)
    floors = np.empty(blocks * BLOCK, np.int32)
    margins = np.empty(blocks * BLOCK, np.int32)
    arrays = (rows.alive, wanted.levels, wanted.heaps, floors, margins)
    sums = _aligned_sums()
    codes_at, packed_at, sums_at, floors_at = (
        rows.codes.ctypes.data,
        packed.ctypes.data,
        sums.ctypes.data,
        floors.ctypes.data,
    )
    at_once = max(1, _PASS_BYTES // (BLOCK * dim))
    begin_tiles(_TILE_SHAPES.ctypes.data)
    for stretch in range(first, last):
        set_floors(floors, margins, rows, wanted, stretch)
        for start in range(0, blocks, at_once):
            for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, count), BLOCK):
                codes = codes_at + row * dim
                if start == 0:
                    prefetch_bytes(codes + _AHEAD_BYTES, BLOCK * dim)
                for block in range(start, min(start + at_once, blocks)):
                    own = packed_at + block * BLOCK * dim
                    multiply_amx(codes, dim, own, dim // STEP, sums_at)
                    for tile in range(4):
                        at, query = row + (tile >> 1) * TILE, block * BLOCK + (tile & 1) * TILE
                        # Rarely true, so what follows costs next to nothing.
                        if any_reaches(sums_at + tile * TILE * STEP, floors_at + 4 * query):
                            own_sums = sums[tile * TILE * TILE :][: TILE * TILE]
                            kept = _keep_reaching(arrays, at, query, TILE, own_sums, found, kept)
    end_tiles()
    return kept


@compiled
def scan_vnni(
    packed: NDArray[np.int8], rows: Rows, wanted: Wanted, first: int, last: int, found: Found
) -> int:
    """A batch by AVX-512; the sums leave the registers only where one reaches its floor."""
    count, dim = rows.codes.shape
    kept = 0
    blocks, width = len(packed), packed.shape[1] // dim
    assert blocks == 1 or width >= TILE, "a block of 8 is alone"
    floors = np.empty(max(blocks * width, TILE), np.int32)
    margins = np.empty(blocks * width, np.int32)
    arrays = (rows.alive, wanted.levels, wanted.heaps, floors, margins)
    sums = _aligned_sums()
    codes_at, packed_at, sums_at, floors_at = (
        rows.codes.ctypes.data,
        packed.ctypes.data,
        sums.ctypes.data,
        floors.ctypes.data,
    )
    prefix, prefix_floors = rows.prefix, np.empty(blocks * width, np.int32)
    prefix_at = prefix_floors.ctypes.data if prefix < dim else floors_at
    at_once = max(1, _PASS_BYTES // (width * dim))
    for stretch in range(first, last):
        set_floors(floors, margins, rows, wanted, stretch)
        if width < TILE:
            # Sums of two rows are compared at once.
            floors[width:] = floors[:width]
        if prefix < dim:
            set_prefix_floors(prefix_floors, floors, rows, wanted, stretch)
        for start in range(0, blocks, at_once):
            for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, count), ROWS_AT_ONCE):
                codes = codes_at + row * dim
                for block in range(start, min(start + at_once, blocks)):
                    own, query = packed_at + block * width * dim, block * width
                    low, high = prefix_at + 4 * query, floors_at + 4 * query
                    # What is there already costs next to nothing.
                    ahead = codes if block else codes + _AHEAD_BYTES
                    if width < TILE:
                        reached = reach_8(codes, dim, own, prefix, low, high, ahead, sums_at)
                    elif width == TILE:
                        reached = reach_16(codes, dim, own, prefix, low, high, ahead, sums_at)
                    else:
                        reached = reach_32(codes, dim, own, prefix, low, high, ahead, sums_at)
                    if reached:
                        own_sums = sums[: ROWS_AT_ONCE * width]
                        kept = _keep_reaching(arrays, row, query, width, own_sums, found, kept)
    return kept


@compiled
def scan_plain(rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
    """Any number of queries on any processor: a plain loop, compiled by LLVM."""
    count, dim = rows.codes.shape
    kept = 0
    floors = np.empty(len(wanted.codes), np.int32)
    margins = np.empty(len(wanted.codes), np.int32)
    alive, levels, heaps = rows.alive, wanted.levels, wanted.heaps
    for stretch in range(first, last):
        set_floors(floors, margins, rows, wanted, stretch)
        for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, count)):
            codes = rows.codes[row]
            for query in range(len(wanted.codes)):
                factors = wanted.codes[query]
                total = np.int32(0)
                for i in range(dim):
                    total += np.int32(codes[i]) * np.int32(factors[i])
                if total >= floors[query]:
                    kept = keep(
                        alive, levels, heaps, floors, margins, row, query, total, found, kept
                    )
    return kept


@compiled
def _keep_reaching(
    arrays: Any, first_row: int, first_query: int, width: int, sums: Sums, found: Found, kept: int
) -> int:
    """Adds those pairs of some rows and so many queries, int32[rows * width], that reach.

    `arrays` are the first of `keep`; here they are taken out of the tuple once for all pairs.
    """
    alive, levels, heaps, floors, margins = arrays
    sums_at, floors_at = sums.ctypes.data, floors.ctypes.data + 4 * first_query
    for start in range(0, len(sums), TILE):
        # A bit for each of 16; a floor that rises meanwhile only lets too many through.
        reached = which_reach(sums_at + 4 * start, floors_at + 4 * (start % width))
        while reached:
            place = start + lowest_bit(reached)
            reached &= reached - 1
            row, query = first_row + place // width, first_query + place % width
            kept = keep(alive, levels, heaps, floors, margins, row, query, sums[place], found, kept)
    return kept


@compiled
def _aligned_sums() -> Sums:
    """Room for those of 32 rows and as many queries, from a cache line on."""
    room = np.empty(BLOCK * BLOCK + TILE, np.int32)
    start = (-room.ctypes.data % STEP) // 4
    return room[start : start + BLOCK * BLOCK]
