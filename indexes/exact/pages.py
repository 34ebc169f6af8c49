"""Memory in large pages, where the system gives them."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from numpy.typing import NDArray

_LARGE_BYTES = 1 << 21
# madvise(2): let the system use large pages here, now and later; and do so at once (Linux 6.1).
_HUGEPAGE, _COLLAPSE = 14, 25


def use_large_pages(memory: NDArray[Any]) -> None:
    """Asks Linux to back this memory by pages of 2 MiB; without them it stays as it is.

    A scan that reads a segment once meets a new page of 4 KiB every 32 rows of 128 bytes: the
    processor's own prefetch stops at its end, and the address of the next must be looked up. In
    large pages the same scan is up to twice as fast. numpy asks for its own arrays; FAISS does
    not.
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
        # Refused where the system has no such pages or none left: then nothing has changed.
        madvise(start, size_bytes - size_bytes % _LARGE_BYTES, advice)
