"""The few processor instructions that numba has no name for, as functions of addresses.

Each is written in LLVM's intermediate language and becomes part of the numba kernel that calls
it. They know 32 x 32 *blocks*: 32 rows of codes (uint8, as they lie in memory, `stride` bytes
apart) times 32 queries (int8, packed by `pack`), over `steps` stretches of 64 components. The
sums, int32, land in `sums` as four tiles of 16 x 16: rows 0-15 by queries 0-15, rows 0-15 by
queries 16-31, and the same for rows 16-31.

numba's cache looks at the file of a kernel alone: whoever changes this one touches kernels.py.

References: Intel Architecture Instruction Set Extensions Programming Reference, chapters on AMX
(TDPBUSD) and AVX-512 VNNI (VPDPBUSD). Both add products of unsigned and signed bytes without
saturating.
"""

from __future__ import annotations

import ctypes
import inspect
import platform
import sys
from collections.abc import Callable
from typing import Any, cast

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

STEP = 64
"""Components that one instruction takes at a time; rows of codes are a multiple of it."""
BLOCK = 32
"""Rows, and queries, of a block."""
_TILE = 16
_TILE_BYTES = _TILE * _TILE * 4

_BYTE, _INT, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = _BYTE.as_pointer()
_INTS = ir.VectorType(_INT, 16)


def has_vnni() -> bool:
    """Whether this processor multiplies bytes in 512-bit registers."""
    return _has("avx512f", "avx512bw", "avx512vnni")


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bytes, and the kernel lets this process do so."""
    return has_vnni() and _has("amx-tile", "amx-int8") and _tiles_permitted()


def pack(queries: NDArray[np.int8]) -> NDArray[np.int8]:
    """Queries `int8[q, dim]` as the blocks read them: `int8[ceil(q / 32), 32 * dim]`.

    In a block, for each 64 components, for each half of its queries: 16 lines of 64 bytes, a
    line holding 4 consecutive components of 16 queries. Queries that are not there are 0.
    """
    count, dim = queries.shape
    blocks = -(-count // BLOCK)
    packed = aligned((blocks, BLOCK * dim), np.int8)
    padded = np.zeros((blocks * BLOCK, dim), np.int8)
    padded[:count] = queries
    by_line = padded.reshape(blocks, 2, _TILE, dim // STEP, _TILE, 4)
    packed[:] = by_line.transpose(0, 3, 1, 4, 2, 5).reshape(packed.shape)
    return packed


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An empty array that begins on a cache line."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size_bytes + STEP, np.uint8)
    start = -room.ctypes.data % STEP
    array: NDArray[Any] = room[start : start + size_bytes].view(dtype).reshape(shape)
    return array


def tile_shapes() -> NDArray[np.uint8]:
    """What `begin_tiles` loads: all eight tiles are 16 lines of 64 bytes."""
    shapes = aligned((64,), np.uint8)
    shapes[:] = 0
    shapes[0] = 1
    shapes[16:32].view(np.uint16)[:] = 64
    shapes[48:56] = _TILE
    return shapes


def instruction(returns: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes of a function that writes LLVM code a function that numba kernels call.

    What is written gets LLVM's builder and then the arguments of the call, all int64.
    """

    def make(write: Callable[..., Any]) -> Callable[..., Any]:
        def typed(_typing: Any, *kinds: Any) -> Any:
            def generate(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
                written = write(builder, *args)
                return context.get_dummy_value() if returns is types.void else written

            return returns(*[types.int64] * len(kinds)), generate

        typed.__name__, typed.__doc__ = write.__name__, write.__doc__
        # numba asks for the names of the arguments, whose first is its own in either case.
        typed.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]
        return cast(Callable[..., Any], intrinsic(typed))

    return make


@instruction(types.void)
def begin_tiles(builder: Any, shapes: Any) -> None:
    """Readies the tile registers of this thread; until `end_tiles`, nobody else may use them."""
    _call(builder, "llvm.x86.ldtilecfg", _pointer(builder, shapes))


@instruction(types.void)
def end_tiles(builder: Any) -> None:
    """Gives the tile registers back."""
    _call(builder, "llvm.x86.tilerelease")


@instruction(types.void)
def multiply_amx(builder: Any, codes: Any, stride: Any, packed: Any, steps: Any, sums: Any) -> None:
    """One block by AMX: tiles 0-3 gather the sums, 4-5 hold codes, 6-7 queries."""

    def load(tile: int, address: Any, line_bytes: Any) -> None:
        at = _pointer(builder, address)
        _call(builder, "llvm.x86.tileloadd64", _BYTE(tile), at, line_bytes)

    def multiply(into: int, codes_tile: int, queries_tile: int) -> None:
        tiles = _BYTE(into), _BYTE(codes_tile), _BYTE(queries_tile)
        _call(builder, "llvm.x86.tdpbusd", *tiles)

    for tile in range(4):
        _call(builder, "llvm.x86.tilezero", _BYTE(tile))
    with cgutils.for_range(builder, steps) as loop:
        upper = _moved(builder, codes, loop.index, STEP)
        lower = builder.add(upper, builder.mul(stride, _LONG(_TILE)))
        left = _moved(builder, packed, loop.index, 2 * _TILE_BYTES)
        right = builder.add(left, _LONG(_TILE_BYTES))
        # Loads stand between the products, so that no product waits for more than one.
        load(4, upper, stride)
        load(6, left, _LONG(STEP))
        multiply(0, 4, 6)
        load(7, right, _LONG(STEP))
        multiply(1, 4, 7)
        load(5, lower, stride)
        multiply(2, 5, 6)
        multiply(3, 5, 7)
    for tile in range(4):
        at = _pointer(builder, builder.add(sums, _LONG(tile * _TILE_BYTES)))
        _call(builder, "llvm.x86.tilestored64", _BYTE(tile), at, _LONG(STEP))


@instruction(types.void)
def multiply_vnni(
    builder: Any, codes: Any, stride: Any, packed: Any, steps: Any, sums: Any
) -> None:
    """One block by AVX-512: 8 rows at a time, whose 16 sums stay in registers.

    A line of packed queries meets 4 components of a row, repeated 16 times.
    """
    rows_at_once = 8
    lines = builder.mul(steps, _LONG(_TILE))
    with cgutils.for_range(builder, _LONG(BLOCK // rows_at_once)) as group:
        first = builder.add(
            codes, builder.mul(stride, builder.mul(group.index, _LONG(rows_at_once)))
        )
        gathered = [_zeroed(builder) for _ in range(2 * rows_at_once)]
        with cgutils.for_range(builder, lines) as line:
            # 16 lines of the left queries, 16 of the right ones, for each step.
            step = builder.mul(builder.udiv(line.index, _LONG(_TILE)), _LONG(_TILE_BYTES))
            left = _moved(builder, builder.add(packed, step), line.index, STEP)
            halves = [
                _load(builder, left, _INTS),
                _load(builder, builder.add(left, _LONG(_TILE_BYTES)), _INTS),
            ]
            here = _moved(builder, first, line.index, 4)
            for row in range(rows_at_once):
                at = builder.add(here, builder.mul(stride, _LONG(row)))
                repeated = _repeated(builder, _load(builder, at, _INT))
                for half in range(2):
                    _gather(builder, gathered[2 * row + half], repeated, halves[half])
        start = _moved(builder, sums, group.index, rows_at_once * STEP)
        # Groups 2 and 3 are rows 16-31: past the right-hand tile of rows 0-15.
        skipped = builder.mul(builder.lshr(group.index, _LONG(1)), _LONG(_TILE_BYTES))
        start = builder.add(start, skipped)
        for row in range(rows_at_once):
            for half in range(2):
                offset = _LONG(row * STEP + half * _TILE_BYTES)
                at = _pointer(builder, builder.add(start, offset), _INTS)
                builder.store(builder.load(gathered[2 * row + half]), at, align=4)


@instruction(types.void)
def multiply_rows_vnni(builder: Any, codes: Any, query: Any, dim: Any, sums: Any) -> None:
    """Eight rows of codes, one after another, times one query (int8[dim]): int32[8].

    The rows to come are asked for ahead: the scan is as fast as memory then, not as its latency.
    """
    rows_at_once, ahead_bytes = 8, 8192
    gathered = [_zeroed(builder) for _ in range(rows_at_once)]
    with cgutils.for_range(builder, builder.udiv(dim, _LONG(STEP))) as step:
        here = _moved(builder, codes, step.index, STEP)
        factor = _load(builder, _moved(builder, query, step.index, STEP), _INTS)
        for row in range(rows_at_once):
            at = builder.add(here, builder.mul(dim, _LONG(row)))
            _prefetch(builder, builder.add(at, _LONG(ahead_bytes)))
            _gather(builder, gathered[row], _load(builder, at, _INTS), factor)
    for row in range(rows_at_once):
        name = "llvm.vector.reduce.add.v16i32"
        total = _call(builder, name, builder.load(gathered[row]), returns=_INT)
        builder.store(total, _pointer(builder, builder.add(sums, _LONG(4 * row)), _INT))


@instruction(types.void)
def ask_for(builder: Any, codes: Any, size_bytes: Any) -> None:
    """Has these bytes brought from memory meanwhile; it may reach past the end of what is there."""
    with cgutils.for_range(builder, builder.udiv(size_bytes, _LONG(STEP))) as line:
        _prefetch(builder, _moved(builder, codes, line.index, STEP))


@instruction(types.boolean)
def any_reaches(builder: Any, tile: Any, floors: Any) -> Any:
    """Whether any of 16 x 16 sums is at or above the floor (int32[16]) of its column."""
    lines = [_load(builder, builder.add(tile, _LONG(line * STEP)), _INTS) for line in range(_TILE)]
    while len(lines) > 1:
        pairs = zip(lines[::2], lines[1::2], strict=True)
        lines = [_call(builder, "llvm.smax.v16i32", *pair, returns=_INTS) for pair in pairs]
    reached = builder.icmp_signed(">=", lines[0], _load(builder, floors, _INTS))
    mask = ir.IntType(_TILE)
    return builder.icmp_unsigned("!=", builder.bitcast(reached, mask), mask(0))


@instruction(types.int64)
def which_reach(builder: Any, line: Any, floors: Any) -> Any:
    """Which of 16 sums are at or above the floors (int32[16]): a bit each, int64."""
    sums, least = _load(builder, line, _INTS), _load(builder, floors, _INTS)
    reached = builder.icmp_signed(">=", sums, least)
    return builder.zext(builder.bitcast(reached, ir.IntType(_TILE)), _LONG)


@instruction(types.int64)
def lowest_bit(builder: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set: int64; there must be one."""
    return builder.cttz(bits, ir.IntType(1)(1))


def _has(*features: str) -> bool:
    if platform.machine() != "x86_64":
        return False
    present = llvmlite.binding.get_host_cpu_features()
    return all(present.get(feature, False) for feature in features)


def _tiles_permitted() -> bool:
    """Asks Linux for the tile registers, which each process must (arch_prctl(2))."""
    if sys.platform != "linux":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(arch_prctl, request_permission, tile_data) == 0)


def _call(builder: Any, name: str, *args: Any, returns: Any = None) -> Any:
    signature = ir.FunctionType(returns or ir.VoidType(), [arg.type for arg in args])
    function: Any = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, signature, name
    )
    return builder.call(function, args)


def _prefetch(builder: Any, address: Any) -> None:
    to_read, of_lasting_use, data = _INT(0), _INT(3), _INT(1)
    at = _pointer(builder, address)
    _call(builder, "llvm.prefetch.p0", at, to_read, of_lasting_use, data)


def _pointer(builder: Any, address: Any, to: Any = _BYTE) -> Any:
    return builder.inttoptr(address, to.as_pointer())


def _moved(builder: Any, address: Any, index: Any, by_bytes: int) -> Any:
    return builder.add(address, builder.mul(index, _LONG(by_bytes)))


def _load(builder: Any, address: Any, what: Any) -> Any:
    return builder.load(_pointer(builder, address, what), align=1)


def _zeroed(builder: Any) -> Any:
    """A vector variable, set to 0 here; LLVM keeps it in a register."""
    variable = cgutils.alloca_once(builder, _INTS)  # type: ignore[no-untyped-call]
    builder.store(ir.Constant(_INTS, [0] * 16), variable)
    return variable


def _gather(builder: Any, variable: Any, codes: Any, queries: Any) -> None:
    """Adds to each of 16 sums the products of 4 unsigned and 4 signed bytes."""
    name = "llvm.x86.avx512.vpdpbusd.512"
    total = _call(builder, name, builder.load(variable), codes, queries, returns=_INTS)
    builder.store(total, variable)


def _repeated(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_INTS, ir.Undefined)
    single = builder.insert_element(undefined, value, _INT(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(_INTS, [0] * 16))
