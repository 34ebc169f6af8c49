"""Byte codes of unit vectors, and the bound on what they change in a score.

With x the row, q the query, x' and q' the values of their codes, and |.| the Euclidean norm:

    q.x - q'.x' = (q - q').x + q'.(x - x'),   so   |q.x - q'.x'| <= |q - q'||x| + |q'||x - x'|

by Cauchy and Schwarz. A row keeps its residual |x - x'|, measured on the codes themselves, so the
bound holds however they were made. A component beyond the limit is clipped, which only enlarges
the residual.

A plane has the rows in half a byte a dimension, which tell by half the memory what their byte codes
can't reach. With x the byte codes of a row as signed integers, q those of a query and y the halves
of the row as integers of the same scale, let a be the angle between x and y, and L > 0 what q.x
must reach. Then

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
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import (
    BEYOND_ANY_SCORE,
    UNIT_TOLERANCE,
    Doubles,
    Flags,
    Floats,
    Ints,
    Octets,
    Vectors,
    overwrite_when_freed,
    rounding_bound,
)
from indexes.errors import VectorInvalid
from indexes.exact.intrinsics import BLOCK, ROWS_AT_ONCE, STEP, compiled
from indexes.exact.kernels import (
    LOWEST,
    STRETCH,
    Axes,
    Plane,
    Rows,
    Wanted,
    tail_norms,
    turn,
    turning_bound,
)
from schema import frozen

HALF_STEP, HALF_ZERO = 10, 75
"""A half h stands for HALF_STEP * h - HALF_ZERO: 0 to 15 are -75 to 75, 2.7 standard deviations."""
ZERO_CODE = 128
_WIPED = 0x88


def empty_plane(count: int, dim: int) -> Plane:
    """Room for the plane of so many rows: `fill_plane` part by part, then set `longest`."""
    halves = np.zeros((count, -(-dim // (2 * STEP)) * STEP), np.uint8)
    overwrite_when_freed(halves)
    groups = count // ROWS_AT_ONCE
    return Plane(halves, np.zeros(groups, np.float32), np.zeros(groups, np.float32), 0.0)


def fill_plane(plane: Plane, codes: Octets, dim: int, part: slice) -> float:
    """Writes these rows, whole groups of eight, of codes uint8[n padded, dim padded], of whose
    columns the first `dim` are used; returns the greatest length of their codes."""
    groups = slice(part.start // ROWS_AT_ONCE, part.stop // ROWS_AT_ONCE)
    return _fill(
        codes[part], dim, plane.halves[part], plane.lengths[groups], plane.distances[groups]
    )


def no_plane() -> Plane:
    """The plane of codes that are scanned by whole bytes alone: none."""
    nothing = np.empty(0, np.float32)
    return Plane(np.empty((0, STEP), np.uint8), nothing, nothing, 0.0)


def wipe_plane(plane: Plane, rows: Ints) -> None:
    """Overwrites what is there of these rows."""
    if len(plane.halves):
        plane.halves[rows] = _WIPED


@compiled
def _fill(codes: Octets, dim: int, halves: Octets, lengths: Floats, distances: Floats) -> float:
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
                value = np.int32(codes[row, i]) - np.int32(ZERO_CODE)
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


_HIGHEST_CODE = 127
_MOST_DIMENSIONS = 16_384  # int32 holds the sums of twice as many
# A component of a random unit vector has a standard deviation of 1 / sqrt(dim). 4.5 of them are
# 0.40 at 128 dimensions, where seven components in a million are beyond.
_DEVIATIONS = 4.5
_LEAST_LIMIT = 0.01
_ROWS_AT_ONCE = 8192
_BEYOND_ANY_TAIL = 2.0**20
# No accepted row is longer, rounded to float16 or not.
_LONGEST = (1 + UNIT_TOLERANCE) * (1 + 2.0**-10)
# Far more than float64 can lose in what is computed below.
_SLACK = 1 + 1e-9


Each = Callable[[Callable[[slice], Any], Iterable[slice]], Iterable[Any]]
"""Does some work for each part, in any order: `map`, or `Scanner.each` on all cores."""


def parts_of(count: int) -> list[slice]:
    """So many rows in parts that are coded at once."""
    starts = range(0, count, _ROWS_AT_ONCE)
    return [slice(start, min(start + _ROWS_AT_ONCE, count)) for start in starts]


def code_limit(dim: int) -> float:
    """The component that gets the highest code: 0.40 at 128 dimensions."""
    return min(1.0, _DEVIATIONS / math.sqrt(dim))


def encode(rows: Vectors, limit: float) -> tuple[Octets, Doubles, float]:
    """Codes of rows float32[n, dim] in their order: uint8[n, dim padded]; and their residuals,
    not rounded yet, and the length of the longest."""
    count, dim = rows.shape
    codes = np.full((count, -(-dim // STEP) * STEP), ZERO_CODE, np.uint8)
    overwrite_when_freed(codes)
    residuals = np.empty(count, np.float64)
    longest = _encode(rows, limit / _HIGHEST_CODE, codes, residuals)
    return codes, residuals, longest


def rounded_up(residuals: Doubles) -> Floats:
    """Residuals as they are kept: no less than they are."""
    rounded = (residuals * _SLACK).astype(np.float32)
    return np.nextafter(rounded, np.float32(np.inf))


class Codes:
    """Byte codes of rows, sorted by residual norm: `bytes` uint8[n padded, dim padded].

    A stretch of rows shares its greatest residual: the few that codes fit badly lie together at the
    end. `order` int64[n] is the position of each row in the vectors given, `residuals` float32[n]
    is rounded up. Rows and dimensions are padded with zeros, which 128 stands for, to whole blocks.
    """

    def __init__(self, vectors: Vectors, limit: float) -> None:
        count, dim = vectors.shape
        self._make_room(count, self._begin(dim, limit))
        codes = self.bytes
        residuals = np.empty(count, np.float64)
        self.longest = 0.0
        for part in parts_of(count):
            rows = overwrite_when_freed(np.ascontiguousarray(vectors[part], np.float32))
            longest = _encode(rows, self.step, codes[part], residuals[part])
            self.longest = max(self.longest, longest)
        self.order = np.argsort(residuals, kind="stable")
        codes[:count] = overwrite_when_freed(codes[self.order])
        self._reach(rounded_up(residuals[self.order]))

    @classmethod
    def restore(cls, codes: Octets, residuals: Floats, dim: int, limit: float) -> Codes:
        """Codes that were made before, uint8[n padded, dim padded], which it owns from then on, and
        their residuals; not verified, in the rows' own order."""
        restored = cls.__new__(cls)
        width = restored._begin(dim, limit)
        count = len(residuals)
        assert codes.shape == (-(-count // BLOCK) * BLOCK, width)
        restored.order = np.arange(count)
        restored.longest = _LONGEST
        restored.bytes = overwrite_when_freed(codes)
        restored._reach(residuals)
        return restored

    @classmethod
    def empty(cls, count: int, dim: int, limit: float) -> Codes:
        """Room for the codes of so many rows, all zero: write them to `bytes`, then call `fill`."""
        codes = cls.__new__(cls)
        codes._make_room(count, codes._begin(dim, limit))
        return codes

    def fill(self, residuals: Floats, longest: float) -> None:
        """Takes the residuals of the codes written, in ascending order, and the longest row."""
        self.order = np.empty(0, np.int64)
        self.longest = longest
        self._reach(residuals)

    @classmethod
    def in_axes(cls, vectors: Vectors, axes: Axes, each: Each = map) -> Codes:
        """Codes of the vectors' components along other axes, of which a prefix may be enough; by
        the norm of what it leaves out, which a stretch shares, then those that codes fit badly."""
        count, dim = vectors.shape
        codes = cls.empty(count, dim, axes.limit)
        unsorted = np.full((count, codes.bytes.shape[1]), ZERO_CODE, np.uint8)
        overwrite_when_freed(unsorted)
        residuals, tails = np.empty(count), np.empty(count)
        columns, off = axes.columns.astype(np.float32), turning_bound(dim)

        def encode(part: slice) -> float:
            turned = turn(vectors[part], columns)
            longest = _encode(turned, codes.step, unsorted[part], residuals[part])
            signed = overwrite_when_freed(unsorted[part] ^ ZERO_CODE)
            tails[part] = tail_norms(signed.view(np.int8), axes.prefix)
            return longest

        parts = parts_of(count)
        longest = max(each(encode, parts), default=0.0) + off
        fits_badly = residuals > 2 * np.median(residuals) if count else residuals > 0
        order = np.argsort(tails + fits_badly * _BEYOND_ANY_TAIL)
        room = codes.bytes

        def move(part: slice) -> None:
            # Checking would take a copy first, and the order is right.
            np.take(unsorted, order[part], axis=0, out=room[part], mode="clip")

        list(each(move, parts))
        codes.fill(rounded_up(residuals[order] + off), longest)
        codes.order, codes.prefix, codes.tails = order, axes.prefix, _greatest(tails[order])
        return codes

    def _begin(self, dim: int, limit: float) -> int:
        """Sets all that does not depend on rows; returns the padded dimension."""
        if dim > _MOST_DIMENSIONS:
            raise VectorInvalid(f"dim is {dim}; byte codes take at most {_MOST_DIMENSIONS}")
        if not _LEAST_LIMIT <= limit <= 1:
            raise VectorInvalid(f"the code limit is {limit}; give {_LEAST_LIMIT} to 1")
        self.limit = limit
        self.step = limit / _HIGHEST_CODE
        self.dim = dim
        self.plane = no_plane()
        # While the plane is made, the rows that were wiped since its last part.
        self._wiped: list[Ints] | None = None
        return -(-dim // STEP) * STEP

    def _make_room(self, count: int, width: int) -> None:
        # In pages of 2 MiB where the system has them, for which numpy asks before it is written: a
        # scan enters a new page of 4 KiB every 32 rows of 128 bytes, where the processor's own
        # prefetch stops, and is up to twice as fast in large ones.
        self.bytes = np.full((-(-count // BLOCK) * BLOCK, width), ZERO_CODE, np.uint8)
        overwrite_when_freed(self.bytes)

    def _reach(self, residuals: Floats) -> None:
        self.residuals = residuals
        self.reach = _greatest(residuals.astype(np.float64))
        self.prefix, self.tails = self.bytes.shape[1], np.zeros(len(self.reach))

    def rows(self, alive: Flags) -> Rows:
        """The input of a scan; `alive` bool[n padded]."""
        return Rows(self.bytes, alive, self.reach, self.plane, self.prefix, self.tails)

    def add_plane(self) -> None:
        """Makes the plane, by which few queries are compared faster, also while rows are wiped."""
        wiped: list[Ints] = []
        self._wiped = wiped
        self.plane = plane = empty_plane(len(self.bytes), self.dim)
        longest = 0.0
        for part in parts_of(len(self.bytes)):
            longest = max(longest, fill_plane(plane, self.bytes, self.dim, part))
            # They may have been read before they were wiped, and written after.
            while wiped:
                wipe_plane(plane, wiped.pop())
        self.plane, self._wiped = plane._replace(longest=longest), None

    def wipe(self, rows: Ints) -> None:
        """Overwrites these rows, in the plane too; beside `add_plane` also in the part that is
        being made, when that is done: nobody waits."""
        self.bytes[rows] = ZERO_CODE
        # In this order: a part that read them before is not done yet, and looks here at its end.
        wiped = self._wiped
        if wiped is not None:
            wiped.append(rows)
        wipe_plane(self.plane, rows)


# The order of the sums changes their last bits, which `_SLACK` allows for.
@partial(compiled, reordered=True)
def _encode(rows: Floats | Doubles, step: float, codes: Octets, residuals: Doubles) -> float:
    """Writes the codes and the residuals of rows float[n, dim]; returns the longest's length."""
    longest = 0.0
    for row in range(len(rows)):
        lost, own = 0.0, 0.0
        for i in range(rows.shape[1]):
            value = np.float64(rows[row, i])
            code = min(max(np.rint(value / step), -_HIGHEST_CODE), _HIGHEST_CODE)
            off = value - code * step
            lost += off * off
            own += value * value
            codes[row, i] = np.uint8(np.int32(code) + ZERO_CODE)
        residuals[row] = math.sqrt(lost)
        longest = max(longest, own)
    return math.sqrt(longest)


@partial(compiled, reordered=True)
def _encode_queries(rows: Vectors, codes: NDArray[np.int8], measures: Doubles) -> None:
    """Writes the codes, and of each its step, residual and length: float64[3, q]."""
    for row in range(len(rows)):
        step = np.abs(rows[row]).max() / np.float64(_HIGHEST_CODE)
        lost, own = 0.0, 0.0
        for i in range(rows.shape[1]):
            code = np.rint(rows[row, i] / step)
            codes[row, i] = code
            lost += (rows[row, i] - code * step) ** 2
            own += code * code
        measures[:, row] = step, math.sqrt(lost) * _SLACK, math.sqrt(own) * step * _SLACK


@frozen(eq=False)
class CodedQueries:
    """Queries as signed bytes: `codes` int8[q, dim padded], each with its own scale.

    `steps` is the value of 1, `residuals` |q - q'|, `lengths` |q'|: float64[q]. `zeros` int64[q] is
    what the 128 of the rows' codes adds to a sum. `tails` and `tail_zeros` are those of
    `kernels.Wanted`.
    """

    codes: NDArray[np.int8]
    steps: Doubles
    residuals: Doubles
    lengths: Doubles
    zeros: Ints
    tails: Doubles
    tail_zeros: Ints

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def of_vectors(cls, vectors: Vectors) -> CodedQueries:
        """Codes of float32[q, dim]; each scale fits the largest component: nothing is clipped."""
        count, dim = vectors.shape
        codes = np.zeros((count, -(-dim // STEP) * STEP), np.int8)
        measures, nothing = np.empty((3, count)), np.zeros(count)
        _encode_queries(vectors, codes, measures)
        steps, residuals, lengths = measures
        no_zeros = nothing.astype(np.int64)
        return cls(codes, steps, residuals, lengths, _zeros(codes), nothing, no_zeros)

    @classmethod
    def of_rows(cls, rows: Codes, part: slice) -> CodedQueries:
        """Rows of a segment as queries, by the codes that they have already."""
        signed = overwrite_when_freed(rows.bytes[part] ^ ZERO_CODE).view(np.int8)
        return cls(
            signed,
            np.full(len(signed), rows.step),
            rows.residuals[part].astype(np.float64),
            tail_norms(signed, 0) * rows.step * _SLACK,
            _zeros(signed),
            tail_norms(signed, rows.prefix),
            _zeros(signed[:, rows.prefix :]),
        )

    def bound(self, rows: Codes) -> tuple[Doubles, Doubles]:
        """Two float64[q]: |score - code score| <= the first + the second * the row's residual.

        It holds for the score of an answer, rounded to float32.
        """
        fixed = self.residuals * rows.longest * _SLACK + rounding_bound(rows.dim)
        return fixed, self.lengths

    def wanted(self, rows: Codes, threshold: float | Doubles | None, k: int = 0) -> Wanted:
        """The scan for rows at or above the threshold (float64[q] or one for all), or the k best;
        with both, for rows that may be among the k best with k others that reach the threshold."""
        units = self.steps * rows.step
        fixed, slope = self.bound(rows)
        padded = -(-len(self) // BLOCK) * BLOCK
        levels = np.full(padded, LOWEST, np.int32)
        if threshold is not None:
            floor = np.clip(threshold, -BEYOND_ANY_SCORE, BEYOND_ANY_SCORE)
            levels[: len(self)] = np.floor(floor / units) + self.zeros - 1
        return Wanted(
            codes=self.codes,
            base=fixed / units * _SLACK,
            slope=slope / units * _SLACK,
            levels=levels,
            heaps=np.repeat(levels[: len(self), None], k, axis=1),
            tails=self.tails,
            tail_zeros=self.tail_zeros,
        )


def _zeros(codes: NDArray[np.int8]) -> Ints:
    """The rows' codes' addition to each sum, being greater by 128 than their values: int64[q]."""
    sums: Ints = codes.sum(axis=1, dtype=np.int64)
    return ZERO_CODE * sums


def _greatest(values: Doubles) -> Doubles:
    """The greatest value of each stretch: float64[stretches]."""
    starts = np.arange(0, len(values), STRETCH)
    greatest: Doubles = np.maximum.reduceat(values, starts) if len(values) else values
    return greatest
