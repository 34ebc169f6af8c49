"""Runs a scan on all cores, with the fastest kernel that this processor supports."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from threading import Condition
from typing import Any, TypeVar

import llvmlite.binding
import numpy as np
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from indexes.base import Flags, Ints, Octets
from indexes.errors import SearchInvalid
from indexes.exact.codes import Codes
from indexes.exact.intrinsics import BLOCK, ROWS_AT_ONCE, compiled
from indexes.exact.kernels import STRETCH, Found, Grid, Plane, Rows, Sums, Wanted, keep, set_floors
from indexes.exact.scans import Scan, pack, scan_amx, scan_few_vnni, scan_plain, scan_vnni
from indexes.runtime import import_runtime

_SIGNED_ZERO = 128


def has_product() -> bool:
    """True where ONNX Runtime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


class ProductScan:
    """`MatMulInteger` stretch by stretch, then a numba filter over its int32 result.

    Unsigned codes times signed queries is the fast product, but on a processor with AVX2 and
    without VNNI, ONNX Runtime adds pairs of products in 16 bits, which saturates, and no
    certificate would hold. So it is tried once with the largest values; where that fails, queries
    are passed unsigned, which is exact everywhere. Each thread has its own session with one thread:
    ONNX Runtime's own pool would compete with the scans for the cores.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._signed: bool | None = None

    def __call__(self, rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
        """Has the signature of `indexes.exact.scans`."""
        kept = 0
        for stretch in range(first, last):
            codes = rows.codes[stretch * STRETCH : (stretch + 1) * STRETCH]
            sums = self.multiply(codes, wanted.codes)
            kept = _filter_sums(rows, wanted, stretch, sums, found, kept)
        return kept

    def multiply(self, codes: Octets, queries: NDArray[np.int8]) -> Sums:
        """Sums of codes times queries: int32[n, q]."""
        factors = queries.T if self._is_signed() else queries.T.view(np.uint8) ^ _SIGNED_ZERO
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = _session(signed=self._is_signed())
        return _product(self._of_thread.session, codes, factors)

    def _is_signed(self) -> bool:
        with self._lock:
            if self._signed is None:
                codes, queries = np.full((64, 256), 255, np.uint8), np.full((256, 32), 127, np.int8)
                sums = _product(_session(signed=True), codes, queries)
                self._signed = bool((sums == 256 * 255 * 127).all())
            return self._signed


@compiled
def _filter_sums(
    rows: Rows, wanted: Wanted, stretch: int, products: Sums, found: Found, kept: int
) -> int:
    """Adds the pairs of one stretch that reach their floors; `products` int32[rows, q]."""
    floors = np.empty(len(wanted.codes), np.int32)
    margins = np.empty(len(wanted.codes), np.int32)
    alive, levels, heaps = rows.alive, wanted.levels, wanted.heaps
    set_floors(floors, margins, rows, wanted, stretch)
    for i in range(len(products)):
        for query in range(len(floors)):
            # The plain comparison is what LLVM vectorises.
            if products[i, query] >= floors[query]:
                kept = keep(
                    alive,
                    levels,
                    heaps,
                    floors,
                    margins,
                    stretch * STRETCH + i,
                    query,
                    products[i, query],
                    found,
                    kept,
                )
    return kept


def _product(session: Any, codes: Octets, factors: NDArray[Any]) -> Sums:
    inputs = {"codes": codes, "queries": np.ascontiguousarray(factors)}
    sums: Sums = session.run(None, inputs)[0]
    return sums


def _session(*, signed: bool) -> Any:
    return open_graph(_graph(signed=signed))


def open_graph(graph: Any) -> Any:
    """A session that computes this graph of ONNX in the thread that calls it."""
    from onnx import helper  # noqa: PLC0415 - heavy

    onnxruntime = import_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@functools.cache
def _graph(*, signed: bool) -> Any:
    """One MatMulInteger: uint8[m, d], whose zero is 0, times int8[d, q], or uint8 around 128."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - heavy

    kind, middle = (TensorProto.INT8, 0) if signed else (TensorProto.UINT8, _SIGNED_ZERO)
    node = helper.make_node("MatMulInteger", ["codes", "queries", "zero", "middle"], ["sums"])
    return helper.make_graph(
        [node],
        "product",
        [
            helper.make_tensor_value_info("codes", TensorProto.UINT8, ["m", "d"]),
            helper.make_tensor_value_info("queries", kind, ["d", "q"]),
        ],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, ["m", "q"])],
        [
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
            helper.make_tensor("middle", kind, [], [middle]),
        ],
    )


def has_vnni() -> bool:
    """True where processor and compiler multiply bytes in 512-bit registers."""
    return _has("avx512f", "avx512bw", "avx512vnni")


def has_amx() -> bool:
    """True where processor and compiler multiply tiles of bytes, and the system permits it."""
    return has_vnni() and _has("amx-tile", "amx-int8") and _tiles_permitted()


def _has(*features: str) -> bool:
    if platform.machine() != "x86_64":
        return False
    present = llvmlite.binding.get_host_cpu_features()
    # What numba compiles for may be less than this processor (NUMBA_CPU_NAME, NUMBA_CPU_FEATURES,
    # NUMBA_ENABLE_AVX), and LLVM ends the process at an instruction that its target lacks.
    target = _cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return all(present.get(name, False) and f"+{name}" in target for name in features)


def _tiles_permitted() -> bool:
    """Asks Linux for the tile registers, as each process must (arch_prctl(2))."""
    if sys.platform != "linux":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(arch_prctl, request_permission, tile_data) == 0)


KERNELS = ("amx", "vnni", "onnxruntime", "numba")
"""Fastest first. All give the same answers."""

FEW_QUERIES = 64
"""The most in a batch of decisions, which goes before searches of more."""

_cpu_target: Any = cpu_target
_log = logging.getLogger(__name__)
_PRODUCT_FROM = 16
# With more queries the batch kernel is faster, which reads the codes once for all (600,000 x 128).
_PLANE_UP_TO = {"amx": 2, "vnni": 4}
# Blocks of fewer queries, of which a scan is bound by the speed of memory sooner.
_WIDTHS = (8, 16)
# AMX multiplies 64 components at once, or none: of 128 a prefix of 64 saved less than making the
# codes anew.
_GRIDS = {"vnni": Grid(ROWS_AT_ONCE, BLOCK, 4)}
# A thread's unit of work: some milliseconds, and at worst some megabytes of pairs.
_PAIRS_AT_ONCE = 1 << 23
_ROWS_AT_ONCE = 1 << 18
# With fewer pairs, waking a thread costs more than it gains.
_PAIRS_FOR_THREADS = 1 << 17
# So long at most others wait for a batch of decisions between two slices: they go on, slowly,
# beside decisions without end.
_GIVE_WAY_S = 0.02

Part = TypeVar("Part")
Item = TypeVar("Item")


class Precedence:
    """Lets scans of few queries go before all others of this process; thread-safe."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._few = 0

    @contextmanager
    def first(self) -> Iterator[None]:
        """A scan that goes first."""
        with self._changed:
            self._few += 1
        try:
            yield
        finally:
            with self._changed:
                self._few -= 1
                self._changed.notify_all()

    def give_way(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The same parts; before each one waits while a scan that goes first runs."""
        for part in parts:
            if self._few:
                with self._changed:
                    self._changed.wait_for(lambda: not self._few, _GIVE_WAY_S)
            yield part


PRECEDENCE = Precedence()


class Scanner:
    """The threads and the kernel that segments share; thread-safe.

    Scans of few queries have threads of their own; those of many, by any scanner, pause meanwhile.
    `kernel` is one of `KERNELS`, by default the first that runs on this machine; `SearchInvalid`
    for one that does not. Where the default is not a vector kernel, a log line says so.
    """

    fault: str | None = None
    """Why not what was chosen scans, but something slower."""

    def __init__(self, kernel: str | None = None, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise SearchInvalid(f"threads is {threads}; give at least 1")
        self.threads = threads or len(os.sched_getaffinity(0))
        self.kernel = _chosen(kernel)
        self._few = ThreadPoolExecutor(max(1, self.threads - 1), "scan-few")
        self._many = ThreadPoolExecutor(max(1, self.threads - 1), "scan")
        self._product = ProductScan()

    def close(self) -> None:
        """Ends the threads."""
        self._few.shutdown()
        self._many.shutdown()

    @property
    def grid(self) -> Grid | None:
        """The grid of a batch where a prefix of the components may be enough; else None."""
        return _GRIDS.get(self.kernel)

    @property
    def reads_planes(self) -> bool:
        """True where a plane makes searches of few queries faster: it is read by vector kernels."""
        return self.kernel in _PLANE_UP_TO

    def uses_plane(self, plane: Plane, queries: int) -> bool:
        """True where so many queries are compared with the plane first."""
        return len(plane.halves) > 0 and queries <= _PLANE_UP_TO.get(self.kernel, 0)

    def prepare(self, codes: Codes) -> None:
        """Makes what scans of these codes read beside them, before the first one."""
        if self.reads_planes:
            codes.add_plane()

    def wipe(self, codes: Codes, rows: Ints) -> None:
        """Overwrites these rows wherever this scanner keeps them, after those of the codes."""

    def device_bytes(self, codes: Codes) -> int:  # noqa: ARG002
        """Bytes of these codes in the memory of a device."""
        return 0

    def gather(
        self,
        codes: Codes,
        alive: Flags,
        wanted: Wanted,
        finish: Callable[[Found], Part],
        first: int = 0,
        *,
        gives_way: bool = False,
    ) -> list[Part]:
        """`finish` of what each part of the codes holds at or above the levels, in their order.

        `alive` bool[n padded] are the rows that count, `first` the stretch to begin at. `finish`
        runs in the scanning threads. A scan that `gives_way` goes before no other.
        """
        rows = codes.rows(alive)
        scan = self._scan_for(codes, rows, wanted)
        parts = self._parts(rows, wanted, first)

        def work(mine: Iterator[tuple[int, tuple[int, int]]]) -> list[tuple[int, Part]]:
            room = _room(parts, wanted)
            return [(i, finish(_found(scan, rows, wanted, part, room))) for i, part in mine]

        done = self._share(rows, wanted, work, parts, gives_way=gives_way)
        return [part for _, part in sorted(done, key=lambda numbered: numbered[0])]

    def gather_best(self, codes: Codes, alive: Flags, wanted: Wanted) -> Found:
        """Gathers candidates for the k best, k as in `wanted.heaps`."""
        rows = codes.rows(alive)
        scan = self._scan_for(codes, rows, wanted)
        parts = self._parts(rows, wanted, 0)
        k = wanted.heaps.shape[1]

        def work(mine: Iterator[tuple[int, tuple[int, int]]]) -> list[tuple[Found, Wanted]]:
            own = wanted._replace(heaps=wanted.heaps.copy())
            room = _room(parts, wanted)
            found = [_reaching(_found(scan, rows, own, part, room), own.levels) for _, part in mine]
            return [(np.concatenate(found), own)] if found else []

        done = self._share(rows, wanted, work, parts)
        if not done:
            return np.empty((0, 3), np.int32)
        found = np.concatenate([part for part, _ in done])
        # A row is in one thread's heap only, so together they are a heap of all rows.
        best = np.concatenate([own.heaps for _, own in done], axis=1)
        levels = np.partition(best, -k, axis=1)[:, -k]
        return _reaching(found, levels)

    def each(self, work: Callable[[Item], Part], items: Iterable[Item]) -> list[Part]:
        """`work` of each, in any order, on all cores; scans of few queries go first."""
        waiting = list(items)
        queue = iter(waiting)
        helpers = min(self.threads, len(waiting)) - 1
        return self._divide(
            self._many, helpers, lambda: [work(item) for item in PRECEDENCE.give_way(queue)]
        )

    def _share(
        self,
        rows: Rows,
        wanted: Wanted,
        work: Callable[[Iterator[tuple[int, tuple[int, int]]]], list[Part]],
        parts: list[tuple[int, int]],
        *,
        gives_way: bool = False,
    ) -> list[Part]:
        # Each thread takes the next part when ready: next() of a list iterator is atomic.
        queue = iter(list(enumerate(parts)))
        pairs = len(rows.codes) * len(wanted.codes)
        helpers = min(self.threads, len(parts)) - 1 if pairs >= _PAIRS_FOR_THREADS else 0
        if len(wanted.codes) <= FEW_QUERIES and not gives_way:
            with PRECEDENCE.first():
                return self._divide(self._few, helpers, lambda: work(queue))
        return self._divide(self._many, helpers, lambda: work(PRECEDENCE.give_way(queue)))

    def _divide(
        self, pool: ThreadPoolExecutor, helpers: int, work: Callable[[], list[Part]]
    ) -> list[Part]:
        others = [pool.submit(work) for _ in range(helpers)]
        try:
            done = work()
        finally:
            # A task that has not begun would find the queue empty: there is no need to wait for
            # those before it in the pool. One that has begun reads the caller's memory.
            begun = [other for other in others if not other.cancel()]
            wait(begun)
        for other in begun:
            done += other.result()
        return done

    def _parts(self, rows: Rows, wanted: Wanted, first: int) -> list[tuple[int, int]]:
        stretches = len(rows.reach)
        size = max(1, self._part_size(len(wanted.codes), stretches - first))
        return [(start, min(start + size, stretches)) for start in range(first, stretches, size)]

    def _part_size(self, queries: int, stretches: int) -> int:
        """Stretches of a part: few enough to bound memory and to give every thread its share."""
        at_most = min(_ROWS_AT_ONCE, _PAIRS_AT_ONCE // max(1, queries)) // STRETCH
        return min(at_most, -(-stretches // self.threads))

    def _scan_for(self, codes: Codes, rows: Rows, wanted: Wanted) -> Scan:
        queries = len(wanted.codes)
        if self.reads_planes:
            if queries == 1 or self.uses_plane(rows.plane, queries):
                return scan_few_vnni
            if self.kernel == "amx":
                return partial(scan_amx, pack(wanted.codes, BLOCK))
            # A prefix ends between two groups of 4 components, not always of 8.
            widths = _WIDTHS if rows.prefix == codes.bytes.shape[1] else ()
            width = next((width for width in widths if queries <= width), BLOCK)
            return partial(scan_vnni, pack(wanted.codes, width))
        if self.kernel == "onnxruntime" and queries >= _PRODUCT_FROM:
            return self._product
        return scan_plain


def available_kernels() -> tuple[str, ...]:
    """The members of `KERNELS` that run on this machine, fastest first."""
    runs = {"amx": has_amx(), "vnni": has_vnni(), "onnxruntime": has_product(), "numba": True}
    return tuple(kernel for kernel in KERNELS if runs[kernel])


def _chosen(kernel: str | None) -> str:
    available = available_kernels()
    if kernel is None:
        if available[0] not in {"amx", "vnni"}:
            _log.warning(
                "no AVX-512 VNNI on this processor, or numba was told to use none: searches stay "
                "exact, by %s, but are slower",
                available[0],
            )
        return available[0]
    if kernel not in available:
        raise SearchInvalid(f"no kernel {kernel} here; give one of {', '.join(available)}")
    return kernel


def _room(parts: list[tuple[int, int]], wanted: Wanted) -> Found:
    """Space for every pair of any part, for all parts of a thread: the system provides only what is
    written, and clears the first page of a new array, a large one."""
    most = max((last - first for first, last in parts), default=0)
    return np.empty((most * STRETCH * len(wanted.codes), 3), np.int32)


def _found(scan: Scan, rows: Rows, wanted: Wanted, part: tuple[int, int], room: Found) -> Found:
    return room[: scan(rows, wanted, *part, room)].copy()


def _reaching(found: Found, levels: Sums) -> Found:
    return found[found[:, 2] >= levels[found[:, 1]]]
