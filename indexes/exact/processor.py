"""What this processor can do, and whether the system lets this process do it."""

from __future__ import annotations

import ctypes
import platform
import sys

import llvmlite.binding


def has_vnni() -> bool:
    """Whether this processor multiplies bytes in 512-bit registers."""
    return _has("avx512f", "avx512bw", "avx512vnni")


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bytes, and the kernel lets this process do so."""
    return has_vnni() and _has("amx-tile", "amx-int8") and _tiles_permitted()


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
