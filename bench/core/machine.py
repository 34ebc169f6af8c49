"""The machine and software that a figure belongs to, and repeats of several actions, interleaved
so that a slow moment of the machine meets them all."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from engine.errors import RequestError
from indexes.exact.scanner import open_graph
from indexes.runtime import import_runtime
from schema import frozen
from serving.measure import read_cpu, stamp_machine
from serving.settings.settings import STEERING

TELLING_FLAGS = ("fma", "avx2", "avx512", "avx_vnni", "amx")
"""How the instructions begin that change the speed of a matrix product."""
PACKAGES = (
    "sosie",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "faiss-cpu",
    "numba",
    "usearch",
    "psycopg",
    "pillow",
    "sqlalchemy",
    "cryptography",
    "ray",
)
STEERING_VARIABLES = (*STEERING, "OMP_NUM_THREADS")
READ_BYTES = 256 * 2**20

_READINGS = 5
_PRODUCT_DIM, _PRODUCT_S = 128, 0.15
_PYTHON_STEPS = 500_000


@frozen(kw_only=True)
class Machine:
    """`load_at_start` is the mean number of running processes over the last minute.

    What all cores do together is None where it was not measured: `read_gb_per_s`, the best reading
    of 256 MiB; `int8_gops` and `float_gflops`, the best of some tilings of ONNX Runtime's bare
    product of bytes and of float32. So is `python_mops`, steps of a loop of Python's on one core.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    load_at_start: float
    warnings: tuple[str, ...]
    read_gb_per_s: float | None = None
    int8_gops: float | None = None
    float_gflops: float | None = None
    python_mops: float | None = None


def look() -> Machine:
    """Looks at the machine."""
    load, seen = os.getloadavg()[0], stamp_machine()
    flags = read_cpu()[1]
    installed = {one.name.lower() for one in distributions()}
    return Machine(
        cpu=seen.cpu,
        flags=tuple(flag for flag in sorted(flags) if flag.startswith(TELLING_FLAGS)),
        cores=seen.cores,
        memory_bytes=seen.memory_bytes,
        system=platform.platform(terse=True),
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES if name in installed},
        load_at_start=round(load, 2),
        warnings=_find_warnings(load, seen.cores),
    )


def stamp() -> Machine:
    """Looks, and measures what all cores can read and multiply; takes some four seconds."""
    seen = look()
    reader = MemoryReader(np.ones(READ_BYTES, np.uint8))
    fastest = min(reader.read() for _ in range(_READINGS))
    reader.close()
    return replace(
        seen,
        read_gb_per_s=round(READ_BYTES / fastest / 1e9, 1),
        int8_gops=_measure_operations(np.uint8),
        float_gflops=_measure_operations(np.float32),
        python_mops=_measure_python(),
    )


def stamp_again(before: Machine) -> Machine:
    """The same, with the better of both measurements: other work slows one of them at times."""
    after = stamp()
    names = ("read_gb_per_s", "int8_gops", "float_gflops", "python_mops")
    better: dict[str, Any] = {
        name: max(getattr(one, name) or 0 for one in (before, after)) for name in names
    }
    return replace(before, **better)


DISK = Path("/var/tmp")  # noqa: S108 - /tmp may be memory, where nothing is durable
MEMORY = ("tmpfs", "ramfs")
"""File systems on which nothing is durable."""


@contextmanager
def open_folder(disk: Path) -> Iterator[Path]:
    """A new folder on `disk`, removed at the end; `RequestError` where nothing can be written."""
    if not disk.is_dir() or not os.access(disk, os.W_OK):
        raise RequestError(f"no folder to write to at {disk}: give one on a disk as --folder")
    with TemporaryDirectory(prefix="sosie-bench-", dir=disk) as folder:
        yield Path(folder)


def filesystem_of(path: Path) -> str:
    """The kind of file system that a path lies on, as `ext4`; `unknown` where there is no /proc."""
    file, resolved = Path("/proc/mounts"), path.resolve()
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else ["- / unknown"]
    mounts = {Path(columns[1]): columns[2] for columns in map(str.split, lines)}
    return next(mounts[one] for one in (resolved, *resolved.parents) if one in mounts)


def read_peak_bytes(process: int | str = "self") -> int:
    """The most memory that a process has had at once."""
    # What the system's own accounting says (ru_maxrss) a child has from its parent.
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _measure_operations(kind: Kind) -> float:
    """Products and sums of a second, in thousands of millions."""
    rates = [
        measure_product(_PRODUCT_DIM, tile, _PRODUCT_S, kind) for tile in (TILES[0], TILES[-1])
    ]
    return round(max(rates) * 2 * _PRODUCT_DIM / 1e9, 1)


def _measure_python() -> float:
    def count() -> int:
        total = 0
        for number in range(_PYTHON_STEPS):
            total += number & 7
        return total

    best_s = min(clock(count)[1] for _ in range(_READINGS))
    return round(_PYTHON_STEPS / best_s / 1e6, 1)


def _find_warnings(load: float, cores: int) -> tuple[str, ...]:
    found = [
        f"{name} is set: figures may not be this machine's own"
        for name in STEERING_VARIABLES
        if name in os.environ
    ]
    if load > cores / 2:
        found.append(f"load {load:.1f} on {cores} cores at the start: other work slows the figures")
    return tuple(found)


@frozen
class Tile:
    """Sizes of one bare product, its queries a constant that ONNX Runtime packs once: no other form
    of that of bytes was faster."""

    rows: int
    queries: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.queries}, packed queries"


TILES = (Tile(1024, 512), Tile(2048, 512), Tile(1024, 1024), Tile(2048, 1024), Tile(4096, 256))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@numba.njit(nogil=True)
def sum_words(words: NDArray[np.uint64]) -> np.uint64:
    total = np.uint64(0)
    for word in words:
        total += word
    return total


class MemoryReader:
    """Reads all of an array with all cores, each its share, and adds it up: the least that any scan
    of it must do."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        words = data.reshape(-1)[: data.size // 8 * 8].view(np.uint64)
        self.size_bytes = words.nbytes
        self._shares = np.array_split(words, cores())
        self._pool = ThreadPoolExecutor(cores())
        self.read()

    def read(self) -> float:
        """Reads it once; its seconds."""
        return clock(lambda: list(self._pool.map(sum_words, self._shares)))[1]

    def close(self) -> None:
        self._pool.shutdown()


Kind = type[np.uint8] | type[np.float32]
"""What a product multiplies: bytes, which come to int32, or float32."""


def measure_product(dim: int, tile: Tile, seconds: float, kind: Kind = np.uint8) -> float:
    """Comparisons a second, each of them `dim` products and sums, by all cores, each with a session
    of one thread: ONNX Runtime's own pool is slower."""
    runs = [bind_product(dim, tile, seed, kind) for seed in range(cores())]
    for run in runs:
        run()
    start = time.perf_counter()

    def work(run: Callable[[], None]) -> int:
        done = 0
        while time.perf_counter() < start + seconds:
            run()
            done += 1
        return done

    with ThreadPoolExecutor(len(runs)) as pool:
        products = sum(pool.map(work, runs))
    return products * tile.rows * tile.queries / (time.perf_counter() - start)


def bind_product(dim: int, tile: Tile, seed: int, kind: Kind = np.uint8) -> Callable[[], None]:
    """One product of random codes, its inputs and output bound to memory that is there already."""
    rng = np.random.default_rng(seed)
    codes: NDArray[Any] = rng.integers(0, 256, (tile.rows, dim), np.uint8)
    queries: NDArray[Any] = rng.integers(-127, 128, (dim, tile.queries), np.int8)
    sums: NDArray[Any] = np.empty((tile.rows, tile.queries), np.int32)
    if kind is np.float32:
        codes, queries, sums = (part.astype(np.float32) for part in (codes, queries, sums))
    session = open_graph(_graph(codes, queries, sums))
    binding = session.io_binding()
    ortvalue = import_runtime().OrtValue.ortvalue_from_numpy
    binding.bind_ortvalue_input("codes", ortvalue(codes))
    binding.bind_ortvalue_output("sums", ortvalue(sums))
    return lambda: cast(None, session.run_with_iobinding(binding))


def _graph(codes: NDArray[Any], queries: NDArray[Any], sums: NDArray[Any]) -> Any:
    from onnx import helper, numpy_helper

    kind = "MatMul" if codes.dtype == np.float32 else "MatMulInteger"
    given, made = map(helper.np_dtype_to_tensor_dtype, (codes.dtype, sums.dtype))
    return helper.make_graph(
        [helper.make_node(kind, ["codes", "queries"], ["sums"])],
        "ceiling",
        [helper.make_tensor_value_info("codes", given, codes.shape)],
        [helper.make_tensor_value_info("sums", made, sums.shape)],
        [numpy_helper.from_array(queries, "queries")],
    )


PAUSE_S = 0.03
"""For so long, at most, the threads of OpenMP spin after a call and keep cores from others."""

Result = TypeVar("Result")
Timed = Callable[[], float]
"""Performs the work once; returns its seconds."""
Seconds = NDArray[np.float64]


def clock(action: Callable[[], Result]) -> tuple[Result, float]:
    """What the action returns, and its seconds."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def timed(action: Callable[[], object]) -> Timed:
    """The action, with a clock around it."""

    return lambda: clock(action)[1]


def rested(action: Callable[[], object]) -> Timed:
    """The action, with a clock around it, after a pause that lets other threads end."""

    def perform() -> float:
        time.sleep(PAUSE_S)
        return clock(action)[1]

    return perform


def interleave(actions: Mapping[str, Timed], rounds: int) -> dict[str, Seconds]:
    """float64[rounds] of each action, after one round that warms up and is not counted.

    Every other round runs backwards, so that none of them always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    names = list(actions)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(actions[name]())
    return {name: np.array(values) for name, values in seconds.items()}


def speedup(slow: Seconds, fast: Seconds) -> float:
    """How many times as fast: the median over rounds, each measured against its own neighbour."""
    return float(np.median(slow / fast))
