"""Memory of vectors and codes: in large pages, and overwritten before it is freed."""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array", bound=NDArray[Any])

GIVEN_BACK_FROM_BYTES = 32 << 20
"""glibc's malloc maps a block of so many bytes by itself, whatever was freed before
(DEFAULT_MMAP_THRESHOLD_MAX), and gives it back to the system when it is freed."""

_LARGE_BYTES = 1 << 21
# madvise(2): let the system use large pages here, now and later; and do so at once (Linux 6.1).
_HUGEPAGE, _COLLAPSE = 14, 25


def overwrite_when_freed(array: Array, owner: object | None = None) -> Array:
    """The same array, whose memory is overwritten when it is freed.

    malloc keeps what is freed, where little is needed for long: a face that is erased later would
    be read there. Memory that arrays share is freed with the last of them. `owner` frees it where
    that is no array. Larger blocks than malloc keeps go back to the system as they are, so the
    segments of millions cost nothing.
    """
    held: Any = array
    while isinstance(held.base, np.ndarray):
        held = held.base
    if (held.flags.owndata or owner is not None) and held.nbytes < GIVEN_BACK_FROM_BYTES:
        address, size = held.ctypes.data, held.nbytes
        weakref.finalize(owner or held, ctypes.memset, address, 0, size).atexit = False
    return array


def use_large_pages(memory: NDArray[Any]) -> None:
    """Asks Linux to back this memory with pages of 2 MiB; does nothing elsewhere.

    A scan that reads a segment once enters a new page of 4 KiB every 32 rows of 128 bytes: the
    processor's own prefetch stops at the end of a page, and the address of the next must be looked
    up. In large pages the same scan is up to twice as fast. numpy asks for its own arrays; FAISS
    does not.
    """
    if sys.platform != "linux":
        return
    start = -(-memory.ctypes.data // _LARGE_BYTES) * _LARGE_BYTES
    size_bytes = memory.ctypes.data + memory.nbytes - start
    if size_bytes < _LARGE_BYTES:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for advice in (_HUGEPAGE, _COLLAPSE):
        # Refused where the system has no such pages or none left, which changes nothing.
        madvise(start, size_bytes - size_bytes % _LARGE_BYTES, advice)
