"""Memory of vectors and codes, overwritten before it is freed."""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array", bound=NDArray[Any])

GIVEN_BACK_FROM_BYTES = 32 << 20
"""Of so many bytes or more, pages are given back to the system, which costs less than writing
zeros. malloc keeps such blocks, too, where others were freed beside them."""

# madvise(2): give these pages back, which are zeros from then on.
_DONTNEED = 4
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def overwrite_when_freed(array: Array, owner: object | None = None) -> Array:
    """The same array, whose memory is overwritten when it is freed.

    malloc keeps what is freed, where little is needed for long: a face that is erased later would
    be read there. Memory that arrays share is freed with the last of them. It is numpy's own or
    numba's, or `owner` frees it. Other memory, as of a mapped file or Ray's store, stays as it is:
    who has it overwrites it.
    """
    held: Any = array
    while isinstance(held.base, np.ndarray):
        held = held.base
    if owner is None:
        is_numbas = type(held.base).__module__ == "_nrt_python" and held.flags.forc
        if not (held.flags.owndata or is_numbas):
            return array
        owner = held
    if held.nbytes and not _is_overwritten(owner):
        weakref.finalize(owner, _overwrite, held.ctypes.data, held.nbytes).atexit = False
    return array


def _is_overwritten(owner: object) -> bool:
    """Whether it was asked for before."""
    calls = (getattr(known, "__callback__", None) for known in weakref.getweakrefs(owner))
    found = [call.peek() for call in calls if isinstance(call, weakref.finalize)]
    return any(each is not None and each[1] is _overwrite for each in found)


def overwrite(array: NDArray[Any]) -> None:
    """Overwrites memory of our own at once, which somebody may hold for longer."""
    assert array.flags.c_contiguous
    _overwrite(array.ctypes.data, array.nbytes)


def _overwrite(address: int, size: int) -> None:
    first, end = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, address + size
    last = end - end % mmap.PAGESIZE
    if size < GIVEN_BACK_FROM_BYTES or not _give_back(first, last - first):
        first = last = end
    ctypes.memset(address, 0, first - address)
    ctypes.memset(last, 0, end - last)


def _give_back(start: int, size_bytes: int) -> bool:
    """Whether the system takes these pages; to others than Linux the call means something else."""
    return sys.platform == "linux" and bool(_madvise(start, size_bytes, _DONTNEED) == 0)
