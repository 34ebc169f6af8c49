"""LLVM's words for what `indexes.exact.intrinsics` says: vectors of 16 int32, addresses, calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BYTE, INT, LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
INTS = ir.VectorType(INT, 16)


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
    """Has a line brought to the cache of this level."""
    to_read, nearness, data = INT(0), INT(4 - level), INT(1)
    call(builder, "llvm.prefetch.p0", point(builder, address), to_read, nearness, data)


def point(builder: Any, address: Any, to: Any = BYTE) -> Any:
    """An address as a pointer."""
    return builder.inttoptr(address, to.as_pointer())


def move(builder: Any, address: Any, index: Any, by_bytes: int) -> Any:
    """The address of an item."""
    return builder.add(address, builder.mul(index, LONG(by_bytes)))


def load(builder: Any, address: Any, what: Any = INTS) -> Any:
    """What is at an address, aligned or not."""
    return builder.load(point(builder, address, what), align=1)


def hold(builder: Any, value: Any) -> Any:
    """A vector variable, set here; LLVM keeps it in a register."""
    variable = cgutils.alloca_once(builder, INTS)  # type: ignore[no-untyped-call]
    builder.store(value, variable)
    return variable


def hold_zeros(builder: Any) -> Any:
    """The same, set to 0."""
    return hold(builder, ir.Constant(INTS, [0] * 16))


def gather(builder: Any, variable: Any, codes: Any, queries: Any) -> None:
    """Adds to each of 16 sums the products of 4 unsigned and 4 signed bytes."""
    name = "llvm.x86.avx512.vpdpbusd.512"
    total = call(builder, name, builder.load(variable), codes, queries, returns=INTS)
    builder.store(total, variable)


def repeat(builder: Any, value: Any, times: int = 16) -> Any:
    """A vector of one value."""
    undefined = ir.Constant(ir.VectorType(INT, times), ir.Undefined)
    single = builder.insert_element(undefined, value, INT(0))
    return builder.shuffle_vector(single, undefined, _places([0] * times))


def add_pairs(builder: Any, left: Any, right: Any) -> Any:
    """The sums of neighbours: 8 of the left vector, then 8 of the right one."""
    even, odd = (
        builder.shuffle_vector(left, right, _places(range(first, 32, 2))) for first in range(2)
    )
    return builder.add(even, odd)


def first_of(builder: Any, vector: Any, count: int) -> Any:
    """The first items of a vector."""
    return builder.shuffle_vector(vector, vector, _places(range(count)))


def bits_of(builder: Any, values: Any, floors: Any) -> Any:
    """Which values are at or above their floors, as an integer of a bit each."""
    reached = builder.icmp_signed(">=", values, floors)
    return builder.bitcast(reached, ir.IntType(values.type.count))


def any_of(builder: Any, values: Any, floors: Any) -> Any:
    """Whether one is: a bit."""
    bits = bits_of(builder, values, floors)
    return builder.icmp_unsigned("!=", bits, bits.type(0))


def _places(places: Iterable[int]) -> Any:
    chosen = list(places)
    return ir.Constant(ir.VectorType(INT, len(chosen)), chosen)
