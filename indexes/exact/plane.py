"""Rows in half a byte a dimension, which tell by half the memory what their byte codes can't reach.

With x the byte codes of a row as signed integers, q those of a query and y the halves of the row as
integers of the same scale, let a be the angle between x and y, and L > 0 what q.x must reach. Then

    q.x = |q||x| cos(q, x) >= L   and   angle(q, y) <= angle(q, x) + a

by the triangle inequality on the sphere, so with f = arccos(L / |q||x|) every row that reaches has

    q.y >= |q||y| cos(f + a) = |q| (cos f |y| cos a - sin f |y| sin a),

as long as f + a is at most two right angles, beyond which the cosine rises again. So neither may be
more than one, which is asserted: f since L > 0, and a since halves have the signs of their codes.
|y| cos a and |y| sin a are measured on the codes, so the bound holds however the halves were made;
eight rows share the least of one and the greatest of the other, and all rows the greatest |x|.
What a scan keeps is then what the byte codes alone would have kept, with the same certificate.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from indexes.exact.intrinsics import ROWS_AT_ONCE, STEP, compiled
from indexes.exact.kernels import Plane
from indexes.memory import overwrite_when_freed

HALF_STEP, HALF_ZERO = 10, 75
"""A half h stands for HALF_STEP * h - HALF_ZERO: 0 to 15 are -75 to 75, 2.7 standard deviations."""
_ZERO_CODE = 128
_WIPED = 0x88


def empty_plane(count: int, dim: int) -> Plane:
    """Room for the plane of so many rows: `fill_plane` part by part, then set `longest`."""
    halves = np.zeros((count, -(-dim // (2 * STEP)) * STEP), np.uint8)
    overwrite_when_freed(halves)
    groups = count // ROWS_AT_ONCE
    return Plane(halves, np.zeros(groups, np.float32), np.zeros(groups, np.float32), 0.0)


def fill_plane(plane: Plane, codes: NDArray[np.uint8], dim: int, part: slice) -> float:
    """Writes these rows, whole groups of eight, of codes uint8[n padded, dim padded], of whose
    columns the first `dim` are used; returns the greatest length of their codes."""
    groups = slice(part.start // ROWS_AT_ONCE, part.stop // ROWS_AT_ONCE)
    return _fill(
        codes[part], dim, plane.halves[part], plane.lengths[groups], plane.distances[groups]
    )


def no_plane() -> Plane:
    """That of codes that are scanned by whole bytes alone."""
    nothing = np.empty(0, np.float32)
    return Plane(np.empty((0, STEP), np.uint8), nothing, nothing, 0.0)


def wipe_plane(plane: Plane, rows: NDArray[np.int64]) -> None:
    """Overwrites what is there of these rows."""
    if len(plane.halves):
        plane.halves[rows] = _WIPED


@compiled
def _fill(
    codes: NDArray[np.uint8],
    dim: int,
    halves: NDArray[np.uint8],
    lengths: NDArray[np.float32],
    distances: NDArray[np.float32],
) -> float:
    """Writes the halves and how they fit; returns the greatest length of a row of codes."""
    longest = 0.0
    width = halves.shape[1]
    signed, coarse = np.zeros(2 * width, np.int32), np.zeros(2 * width, np.int32)
    for group in range(len(lengths)):
        # Rows of zeros, removed or never there, reach nothing that is wanted, and bind no other.
        least, most = np.inf, 0.0
        for row in range(group * ROWS_AT_ONCE, (group + 1) * ROWS_AT_ONCE):
            across, own, other = 0, 0, 0
            for i in range(dim):
                value = np.int32(codes[row, i]) - np.int32(_ZERO_CODE)
                half = (value + np.int32(HALF_ZERO + HALF_STEP // 2)) // np.int32(HALF_STEP)
                coarse[i] = min(max(half, 0), 15)
                signed[i] = value
            for i in range(dim):
                value = np.int32(HALF_STEP) * coarse[i] - np.int32(HALF_ZERO)
                across += signed[i] * value
                own += signed[i] * signed[i]
                other += value * value
            for start in range(0, width, STEP):
                for i in range(start, start + STEP):
                    halves[row, i] = coarse[start + i] | coarse[start + i + STEP] << 4
            if own:
                assert across >= 0, "the halves point away from their codes"
                length = across / math.sqrt(own)
                least = min(least, length)
                most = max(most, math.sqrt(max(0.0, other - length * length)))
                longest = max(longest, math.sqrt(own))
        # Rounded to float32 so that the bound holds.
        if least < np.inf:
            lengths[group] = least * (1 - 2.0**-20)
            distances[group] = most * (1 + 2.0**-20) + 2.0**-10
    return longest * (1 + 2.0**-20)
