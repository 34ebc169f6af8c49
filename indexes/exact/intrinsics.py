"""Processor instructions that numba lacks, as functions of addresses.

Each is written in LLVM's intermediate language and becomes part of the numba kernel that calls
it. They know *blocks* of queries (int8, packed by `scans.pack`) and rows of codes (uint8, as they
lie in memory, `stride` bytes apart), over `steps` stretches of 64 components. AMX takes 32 rows at
once, AVX-512 takes 8. Sums are int32.

References: Intel Architecture Instruction Set Extensions Programming Reference, chapters on AMX
(TDPBUSD) and AVX-512 VNNI (VPDPBUSD). Both add products of unsigned and signed bytes without
saturating.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BYTE, INT, LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
INTS = ir.VectorType(INT, 16)
_NOTHING = ir.Constant(INTS, [0] * 16)


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


def call(builder: Any, name: str, *args: Any, returns: Any = None) -> Any:
    """Calls one of LLVM's own functions, declared at its first use."""
    signature = ir.FunctionType(returns or ir.VoidType(), [arg.type for arg in args])
    function: Any = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, signature, name
    )
    return builder.call(function, args)


def prefetch(builder: Any, address: Any, level: int = 1) -> None:
    """Prefetches a line into the cache of this level."""
    to_read, nearness, data = INT(0), INT(4 - level), INT(1)
    call(builder, "llvm.prefetch.p0", point(builder, address), to_read, nearness, data)


def point(builder: Any, address: Any, to: Any = BYTE) -> Any:
    """An address as a pointer."""
    return builder.inttoptr(address, to.as_pointer())


def move(builder: Any, address: Any, index: Any, by_bytes: int) -> Any:
    """The address of an item."""
    return builder.add(address, builder.mul(index, LONG(by_bytes)))


def load(builder: Any, address: Any, what: Any = INTS) -> Any:
    """Loads from an address, aligned or not."""
    return builder.load(point(builder, address, what), align=1)


def hold(builder: Any, value: Any) -> Any:
    """A vector variable, set here; LLVM keeps it in a register."""
    variable = cgutils.alloca_once(builder, INTS)  # type: ignore[no-untyped-call]
    builder.store(value, variable)
    return variable


def gather(builder: Any, variable: Any, codes: Any, queries: Any) -> None:
    """Adds to each of 16 sums the products of 4 unsigned and 4 signed bytes."""
    name = "llvm.x86.avx512.vpdpbusd.512"
    total = call(builder, name, builder.load(variable), codes, queries, returns=INTS)
    builder.store(total, variable)


def add_pairs(builder: Any, left: Any, right: Any) -> Any:
    """The sums of neighbours: 8 of the left vector, then 8 of the right one."""
    even, odd = (
        builder.shuffle_vector(left, right, _places(range(first, 32, 2))) for first in range(2)
    )
    return builder.add(even, odd)


def _add_neighbours(builder: Any, vectors: list[Any]) -> list[Any]:
    """`add_pairs` of two vectors each."""
    return [add_pairs(builder, *pair) for pair in zip(vectors[::2], vectors[1::2], strict=True)]


def bits_of(builder: Any, values: Any, floors: Any) -> Any:
    """Which values are at or above their floors, as an integer of a bit each."""
    reached = builder.icmp_signed(">=", values, floors)
    return builder.bitcast(reached, ir.IntType(values.type.count))


def any_of(builder: Any, values: Any, floors: Any) -> Any:
    """A bit: 1 where any is set."""
    bits = bits_of(builder, values, floors)
    return builder.icmp_unsigned("!=", bits, bits.type(0))


def _places(places: Iterable[int]) -> Any:
    chosen = list(places)
    return ir.Constant(ir.VectorType(INT, len(chosen)), chosen)


STEP = 64
"""Components that one instruction takes at a time; rows of codes are a multiple of it."""
BLOCK = 32
"""Rows, and queries, of a block."""
ROWS_AT_ONCE = 8
"""Rows whose sums AVX-512 keeps in registers, beside up to 32 queries."""
TILE = 16
"""Sums of a vector, and of a line of an AMX tile, which has as many lines."""


@instruction(types.void)
def begin_tiles(builder: Any, shapes: Any) -> None:
    """Configures the tile registers of this thread, which are in use until `end_tiles`."""
    call(builder, "llvm.x86.ldtilecfg", point(builder, shapes))


@instruction(types.void)
def end_tiles(builder: Any) -> None:
    """Releases the tile registers."""
    call(builder, "llvm.x86.tilerelease")


@instruction(types.void)
def multiply_amx(builder: Any, codes: Any, stride: Any, packed: Any, steps: Any, sums: Any) -> None:
    """32 rows x 32 queries by AMX: tiles 0-3 gather the sums, 4-5 hold codes, 6-7 queries.

    The sums land in `sums` as four tiles of 16 x 16: rows 0-15 by queries 0-15, rows 0-15 by
    queries 16-31, and the same for rows 16-31.
    """

    def load_tile(tile: int, address: Any, line_bytes: Any) -> None:
        at = point(builder, address)
        call(builder, "llvm.x86.tileloadd64", BYTE(tile), at, line_bytes)

    def multiply(into: int, codes_tile: int, queries_tile: int) -> None:
        tiles = BYTE(into), BYTE(codes_tile), BYTE(queries_tile)
        call(builder, "llvm.x86.tdpbusd", *tiles)

    for tile in range(4):
        call(builder, "llvm.x86.tilezero", BYTE(tile))
    with cgutils.for_range(builder, steps) as loop:
        upper = move(builder, codes, loop.index, STEP)
        lower = builder.add(upper, builder.mul(stride, LONG(TILE)))
        left = move(builder, packed, loop.index, TILE * STEP)
        right = builder.add(left, builder.mul(stride, LONG(TILE)))
        # Loads stand between the products, so that no product waits for more than one.
        load_tile(4, upper, stride)
        load_tile(6, left, LONG(STEP))
        multiply(0, 4, 6)
        load_tile(7, right, LONG(STEP))
        multiply(1, 4, 7)
        load_tile(5, lower, stride)
        multiply(2, 5, 6)
        multiply(3, 5, 7)
    for tile in range(4):
        at = point(builder, builder.add(sums, LONG(tile * TILE * STEP)))
        call(builder, "llvm.x86.tilestored64", BYTE(tile), at, LONG(STEP))


def _reach_block(width: int) -> Any:
    """The instruction that compares 8 rows with a block of so many queries, by AVX-512."""

    def reach(
        builder: Any,
        codes: Any,
        stride: Any,
        packed: Any,
        prefix: Any,
        prefix_floors: Any,
        floors: Any,
        ahead: Any,
        sums: Any,
    ) -> Any:
        """True where any of the rows and queries is at or above the floor of its query.

        The sums start below zero by the floors and stay in registers: one that reaches is one whose
        sign is gone, and a single instruction looks at three of them. The components after the
        first `prefix` are added only where a sum of these reaches its own floor. Only where one of
        all reaches are they written to `sums`, int32[8, width]. Meanwhile memory from `ahead` on is
        prefetched.
        """
        least, first = (_spread(builder, at, width) for at in (floors, prefix_floors))
        gathered = [
            hold(builder, builder.sub(_NOTHING, one)) for _ in range(ROWS_AT_ONCE) for one in first
        ]
        addresses, at_once = (codes, stride, packed, ahead), LONG(4 * _lanes(width))
        lines, before = builder.udiv(stride, at_once), builder.udiv(prefix, at_once)
        reached, _ = _add_lines(builder, width, gathered, addresses, LONG(0), before)
        bit = ir.IntType(1)(0)
        result = cgutils.alloca_once_value(builder, bit)  # type: ignore[no-untyped-call]
        with builder.if_then(reached, likely=False):
            for place, variable in enumerate(gathered):
                lower = builder.sub(first[place % len(first)], least[place % len(least)])
                builder.store(builder.add(builder.load(variable), lower), variable)
            reached, below = _add_lines(builder, width, gathered, addresses, before, lines)
            builder.store(reached, result)
            with builder.if_then(reached, likely=False):
                added = _sum_lanes(builder, least * 2, width)
                for place, lacking in enumerate(below):
                    at = point(builder, builder.add(sums, LONG(place * STEP)), INTS)
                    total = builder.add(lacking, added[place % len(added)])
                    builder.store(total, at, align=4)
        return builder.load(result)

    return instruction(types.boolean)(reach)


def _lanes(width: int) -> int:
    """The groups of 4 components that a vector gathers of each query."""
    return TILE // min(width, TILE)


def _spread(builder: Any, floors: Any, width: int) -> list[Any]:
    """The floors of a block, as the vectors of a row have its queries.

    A vector gathers the sums of a row and 16 queries; or of 8, each twice: over the even ones of
    the groups of 4 components, and over the odd ones. The floor is in the first.
    """
    if width >= TILE:
        return [load(builder, builder.add(floors, LONG(4 * at))) for at in range(0, width, TILE)]
    some = load(builder, floors, ir.VectorType(INT, width))
    places = _places(place for query in range(width) for place in (query, width))
    return [builder.shuffle_vector(some, ir.Constant(some.type, [0] * width), places)]


def _sum_lanes(builder: Any, vectors: list[Any], width: int) -> list[Any]:
    """Vectors of one sum for each row and query, row by row."""
    if width >= TILE:
        return vectors
    return _add_neighbours(builder, vectors)


def _add_lines(
    builder: Any, width: int, gathered: list[Any], addresses: tuple[Any, ...], start: Any, end: Any
) -> tuple[Any, list[Any]]:
    """Adds these lines of packed queries times 8 rows; whether any sum is no longer below 0."""
    codes, stride, packed, ahead = addresses
    lanes = _lanes(width)
    with cgutils.for_range(builder, builder.sub(end, start)) as loop:
        line = builder.add(loop.index, start)
        # A few at a time: a burst of them stops the loads of what is just being read.
        prefetch(builder, move(builder, ahead, line, 4 * lanes * ROWS_AT_ONCE))
        left, here = move(builder, packed, line, STEP), move(builder, codes, line, 4 * lanes)
        factors = [
            load(builder, builder.add(left, builder.mul(stride, LONG(half))))
            for half in range(0, width, TILE)
        ]
        for row in range(ROWS_AT_ONCE):
            # A line meets 4 components of a row, or 8, repeated as often as it has queries.
            at = builder.add(here, builder.mul(stride, LONG(row)))
            some = load(builder, at, ir.VectorType(INT, lanes))
            repeated = builder.shuffle_vector(some, some, _places([*range(lanes)] * (16 // lanes)))
            for half, factor in enumerate(factors):
                gather(builder, gathered[len(factors) * row + half], repeated, factor)
    below = _sum_lanes(builder, [builder.load(variable) for variable in gathered], width)
    return any_of(builder, functools.reduce(builder.and_, below), _NOTHING), below


reach_8, reach_16, reach_32 = map(_reach_block, (8, 16, 32))


@instruction(types.int64)
def reach_one_vnni(builder: Any, codes: Any, dim: Any, query: Any, floor: Any, sums: Any) -> Any:
    """Which of 8 rows, one after another, are at or above the floor of one query: a bit each.

    `query` is int8[dim], `floor` a number; the sums are written to `sums`, int32[8]. The rows to
    come are asked for ahead, into the second-level cache: asked for into the first, they push out
    what is just being read there, and the scan took half as long again on Zen 4.
    """
    ahead_bytes = builder.mul(dim, LONG(2 * ROWS_AT_ONCE))
    gathered = [hold(builder, _NOTHING) for _ in range(ROWS_AT_ONCE)]
    with cgutils.for_range(builder, builder.udiv(dim, LONG(STEP))) as step:
        here = move(builder, codes, step.index, STEP)
        factor = load(builder, move(builder, query, step.index, STEP))
        for row in range(ROWS_AT_ONCE):
            at = builder.add(here, builder.mul(dim, LONG(row)))
            prefetch(builder, builder.add(at, ahead_bytes), level=2)
            gather(builder, gathered[row], load(builder, at), factor)
    return _reaching_rows(builder, gathered, floor, sums)


@instruction(types.int64)
def sum_one_vnni(builder: Any, codes: Any, dim: Any, query: Any) -> Any:
    """The sum of one row and one query, int8[dim]."""
    gathered = hold(builder, _NOTHING)
    with cgutils.for_range(builder, builder.udiv(dim, LONG(STEP))) as step:
        factor = load(builder, move(builder, query, step.index, STEP))
        gather(builder, gathered, load(builder, move(builder, codes, step.index, STEP)), factor)
    name = "llvm.vector.reduce.add.v16i32"
    return builder.sext(call(builder, name, builder.load(gathered), returns=INT), LONG)


@instruction(types.int64)
def reach_one_halves(
    builder: Any, halves: Any, width: Any, query: Any, floor: Any, sums: Any
) -> Any:
    """`reach_one_vnni` for rows of half bytes, `width` bytes each and a multiple of 64.

    64 bytes hold 128 components: the lower halves are the first 64, the upper ones the others.
    """
    ahead_bytes = builder.mul(width, LONG(16 * ROWS_AT_ONCE))
    lower_bits, shift = ir.Constant(INTS, [0x0F0F0F0F] * 16), ir.Constant(INTS, [4] * 16)
    gathered = [hold(builder, _NOTHING) for _ in range(ROWS_AT_ONCE)]
    with cgutils.for_range(builder, builder.udiv(width, LONG(STEP))) as step:
        here = move(builder, halves, step.index, STEP)
        factors = move(builder, query, step.index, 2 * STEP)
        lower, upper = load(builder, factors), load(builder, builder.add(factors, LONG(STEP)))
        for row in range(ROWS_AT_ONCE):
            at = builder.add(here, builder.mul(width, LONG(row)))
            prefetch(builder, builder.add(at, ahead_bytes), level=2)
            both = load(builder, at)
            gather(builder, gathered[row], builder.and_(both, lower_bits), lower)
            above = builder.and_(builder.lshr(both, shift), lower_bits)
            gather(builder, gathered[row], above, upper)
    return _reaching_rows(builder, gathered, floor, sums)


@instruction(types.int64)
def which_of_eight(builder: Any, sums: Any, floor: Any) -> Any:
    """Which of 8 sums are at or above the floor, a number: a bit each."""
    totals = load(builder, sums, ir.VectorType(INT, ROWS_AT_ONCE))
    return _which(builder, totals, floor)


@instruction(types.void)
def prefetch_bytes(builder: Any, codes: Any, size_bytes: Any) -> None:
    """Prefetches these bytes from memory; they may extend past the end of the array."""
    with cgutils.for_range(builder, builder.udiv(size_bytes, LONG(STEP))) as line:
        prefetch(builder, move(builder, codes, line.index, STEP))


@instruction(types.boolean)
def any_reaches(builder: Any, tile: Any, floors: Any) -> Any:
    """True where any of 16 x 16 sums is at or above the floor (int32[16]) of its column."""
    lines = [load(builder, builder.add(tile, LONG(line * STEP))) for line in range(TILE)]
    while len(lines) > 1:
        pairs = zip(lines[::2], lines[1::2], strict=True)
        lines = [call(builder, "llvm.smax.v16i32", *pair, returns=INTS) for pair in pairs]
    return any_of(builder, lines[0], load(builder, floors))


@instruction(types.int64)
def which_reach(builder: Any, line: Any, floors: Any) -> Any:
    """Which of 16 sums are at or above the floors (int32[16]): a bit each, int64."""
    return builder.zext(bits_of(builder, load(builder, line), load(builder, floors)), LONG)


@instruction(types.int64)
def lowest_bit(builder: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set: int64; there must be one."""
    return builder.cttz(bits, ir.IntType(1)(1))


def _reaching_rows(builder: Any, gathered: list[Any], floor: Any, sums: Any) -> Any:
    """Writes the sum of each of 8 vectors; which are at or above the floor: a bit each."""
    vectors = [builder.load(variable) for variable in gathered]
    while len(vectors) > 1:
        vectors = _add_neighbours(builder, vectors)
    twice = add_pairs(builder, *vectors, *vectors)
    totals = builder.shuffle_vector(twice, twice, _places(range(ROWS_AT_ONCE)))
    builder.store(totals, point(builder, sums, totals.type), align=4)
    return _which(builder, totals, floor)


def _which(builder: Any, totals: Any, floor: Any) -> Any:
    single = builder.insert_element(totals, builder.trunc(floor, INT), INT(0))
    floors = builder.shuffle_vector(single, single, _places([0] * ROWS_AT_ONCE))
    return builder.zext(bits_of(builder, totals, floors), LONG)


Function = TypeVar("Function", bound=Callable[..., Any])

_FOLDER = Path(__file__).parent
_BESIDE_SOURCES = _FOLDER / "__pycache__"
_settings: Any = numba.config


def compiled(function: Function, *, reordered: bool = False) -> Function:
    """The function as machine code, made at its first call and kept on disk where that is allowed.

    `reordered` lets LLVM add floats in any order, as vector instructions do. Where nothing can be
    written, or others may write, each process makes its own code, which takes some seconds.
    """
    fastmath = {"reassoc", "contract"} if reordered else False
    try:
        with _cache_of_these_sources() as is_kept:
            made: object = numba.njit(nogil=True, cache=is_kept, fastmath=fastmath)(function)
    except RuntimeError:
        made = numba.njit(nogil=True, fastmath=fastmath)(function)
    return cast(Function, made)


def _digest_sources() -> str:
    digest = hashlib.sha256()
    for source in sorted(_FOLDER.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


_DIGEST = _digest_sources()


def machine_code_folder() -> Path:
    """The folder where numba keeps the code of these sources, under a digest of all that it is made
    of.

    By itself numba looks at the file of the function alone: after an update of another one that it
    calls, the old machine code would run.
    """
    given: str = _settings.CACHE_DIR
    folder = Path(given).absolute() if given else _BESIDE_SOURCES
    return folder / f"machine-code-{_DIGEST}"


def is_private(folder: Path) -> bool:
    """True where nobody but this user and root can put machine code there: numba runs what it
    finds.

    Beside the sources the folder itself is looked at, since whoever may replace it may replace
    them; elsewhere every folder above it too.
    """
    places = [folder] if folder.parent.parent == _FOLDER else [folder, *folder.parents]
    try:
        found = [place.lstat() for place in places]
    except OSError:
        return False
    return all(
        one.st_uid in (0, os.getuid())
        # In a folder like /tmp nobody can replace what is another's.
        and (not one.st_mode & _OTHERS_WRITE or (place != folder and one.st_mode & stat.S_ISVTX))
        for place, one in zip(places, found, strict=True)
    )


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _take_over(made: Path, folder: Path) -> None:
    """Copies the code that came with the installation, as in an image, to where more may be added;
    an image runs on other processors, too."""
    if made == folder or not made.exists() or not is_private(made):
        return
    # Whole or not at all: other processes start at the same moment.
    whole = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        shutil.copytree(made, whole)
        whole.chmod(0o700)
        whole.rename(folder)
    except OSError:
        shutil.rmtree(whole, ignore_errors=True)


@contextmanager
def _cache_of_these_sources() -> Iterator[bool]:
    """Has numba use the folder; whether it may."""
    given: str = _settings.CACHE_DIR
    folder = machine_code_folder()
    with suppress(OSError):
        if not folder.exists():
            _take_over(_BESIDE_SOURCES / folder.name, folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _settings.CACHE_DIR = str(folder)
    try:
        yield is_private(folder)
    finally:
        _settings.CACHE_DIR = given
