"""The machine and software that a figure belongs to."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
)
"""Instructions that change the speed of a matrix product."""
PACKAGES = (
    "sosie",
    "numpy",
    "onnxruntime",
    "onnxruntime-openvino",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "faiss-cpu",
    "numba",
    "usearch",
    "hnswlib",
    "pillow",
    "sqlalchemy",
    "cryptography",
)
STEERING_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS")
COPY_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Machine:
    """`load_at_start` is the mean number of running processes over the last minute.

    `copy_gb_per_s` counts what one thread reads and writes while it copies 256 MiB.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    copy_gb_per_s: float
    system: str
    python: str
    packages: dict[str, str]
    load_at_start: float
    warnings: tuple[str, ...]


def stamp() -> Machine:
    """Looks at the machine; takes about half a second."""
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    cpu, flags = _read_cpu()
    return Machine(
        cpu=cpu,
        flags=tuple(flag for flag in TELLING_FLAGS if flag in flags),
        cores=cores,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        copy_gb_per_s=_measure_copy(),
        system=platform.platform(terse=True),
        python=platform.python_version(),
        packages=dict(_read_versions(PACKAGES)),
        load_at_start=round(load, 2),
        warnings=_find_warnings(load, cores),
    )


def filesystem_of(path: Path) -> str:
    """The kind of file system that a path lies on, as `ext4`; `unknown` where there is no /proc."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    mounts = {Path(fields[1]): fields[2] for fields in map(str.split, lines)}
    resolved = path.resolve()
    return next(mounts[one] for one in (resolved, *resolved.parents) if one in mounts)


def _read_cpu() -> tuple[str, frozenset[str]]:
    """Model name and flags; the flags are unknown, thus none, where there is no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(fields.get("flags", "").split())


def _read_versions(names: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _measure_copy() -> float:
    source = np.zeros(COPY_BYTES, dtype=np.uint8)
    target = np.ones_like(source)
    best_s = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        np.copyto(target, source)
        best_s = min(best_s, time.perf_counter() - start)
    return round(2 * COPY_BYTES / best_s / 1e9, 1)


def _find_warnings(load: float, cores: int) -> tuple[str, ...]:
    found = [
        f"{name} is set: figures may not be this machine's own"
        for name in STEERING_VARIABLES
        if name in os.environ
    ]
    if load > cores / 2:
        found.append(f"load {load:.1f} on {cores} cores at the start: other work slows the figures")
    return tuple(found)
