"""Exact scans by an accelerator, in whose memory the byte codes of segments stay.

It multiplies all codes by all queries, compares the sums with the floors, and returns those that
reach them: the same pairs as the kernels of this processor keep (`indexes.exact.scans`), since
sums of bytes are exact in int32 and floors are computed by the same code. What becomes of a pair,
its score above all, is decided where it always is. A prefix or a plane saves memory traffic that
an accelerator has: it uses neither.

Everything is written for an array module, CuPy on a GPU. With numpy the same code runs without
one, which is how it is tested.
"""

from __future__ import annotations

import importlib
import logging
import weakref
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexes.base import Flags, Ints, Octets
from indexes.errors import DeviceMissing, SearchInvalid
from indexes.exact.codes import Codes
from indexes.exact.intrinsics import compiled
from indexes.exact.kernels import STRETCH, Found, Rows, Sums, Wanted, keep, set_floors
from indexes.exact.scanner import Part, Scanner
from indexes.exact.scans import Scan

DEVICES = ("cpu", "cuda")
"""Where codes are compared; the default first."""

_log = logging.getLogger(__name__)
# Sums that are on the device at once: 64 megabytes, and as much again to find those that count.
_PAIRS_AT_ONCE = 1 << 24
# cuBLAS multiplies bytes where every leading dimension is a multiple of so many.
_QUERY_STEP = 4
# So much is sent at once, and held a second time by the host meanwhile.
_UPLOAD_BYTES = 1 << 26
_SIGN = np.uint8(128)
# From cublas_api.h and library_types.h.
_OP_N, _OP_T, _R_8I, _R_32I, _COMPUTE_32I, _GEMM_DEFAULT = 0, 1, 3, 10, 72, -1


def open_scanner(device: str, threads: int | None = None) -> Scanner:
    """The scanner of one of `DEVICES`; `DeviceMissing` where there is no GPU or no CuPy here."""
    if device not in DEVICES:
        raise SearchInvalid(f"no device {device} to search on; give one of {', '.join(DEVICES)}")
    return Scanner(threads=threads) if device == "cpu" else DeviceScanner(_load_cupy(), threads)


def _load_cupy() -> Any:
    try:
        cupy = importlib.import_module("cupy")
        # The library of products, and the compiler for the card, are found or missed here.
        _find_cublas()
        cupy.zeros(1, np.int32).fill(1)
    except ImportError as error:
        raise DeviceMissing(
            f"to search on a GPU install the extra gpu: {str(error).splitlines()[0]}"
        ) from error
    except RuntimeError as error:
        raise DeviceMissing(
            f"no GPU to search on, give another device than cuda: {str(error).splitlines()[0]}"
        ) from error
    return cupy


class _Query(NamedTuple):
    """Queries on the device, int8[q padded, dim], and what 128 in the rows adds: int64[q]."""

    codes: Any
    zeros: Ints


class DeviceScanner(Scanner):
    """A `Scanner` that compares on a device; `arrays` is CuPy, or numpy for none.

    Codes are sent when a segment is made, or first scanned, and overwritten there as on the host,
    or when the segment is gone. A segment for which the device has no room is scanned by this
    processor; after an error of the device all are: see `kernel` and `fault`.
    """

    def __init__(self, arrays: Any, threads: int | None = None) -> None:
        super().__init__(threads=threads)
        self._cpu = Scanner(self.kernel, threads)
        self.kernel = "numpy" if arrays is np else "cuda"
        self._arrays = arrays
        # By the codes themselves and not by the name of their segment: one of a name may be opened
        # twice, with other rows removed.
        self._residents: weakref.WeakKeyDictionary[Codes, Any] = weakref.WeakKeyDictionary()
        self._sending, self._changing = Lock(), Lock()
        # Those being sent, and the rows that were wiped meanwhile.
        self._wiped: tuple[Codes | None, list[Ints]] = (None, [])

    def close(self) -> None:
        super().close()
        self._cpu.close()

    @property
    def grid(self) -> None:
        """Whole rows are compared."""
        return None

    @property
    def reads_planes(self) -> bool:
        return False

    def prepare(self, codes: Codes) -> None:
        self._resident(codes)

    def wipe(self, codes: Codes, rows: Ints) -> None:
        with self._changing:
            if self._wiped[0] is codes:
                self._wiped[1].append(rows)
            if codes in self._residents:
                self._overwrite(self._residents[codes], rows)

    def device_bytes(self, codes: Codes) -> int:
        resident = self._residents.get(codes)
        return 0 if resident is None else int(resident.nbytes)

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
        gather = super().gather if self._resident(codes) is not None else self._cpu.gather
        return gather(codes, alive, wanted, finish, first, gives_way=gives_way)

    def gather_best(self, codes: Codes, alive: Flags, wanted: Wanted) -> Found:
        if self._resident(codes) is None:
            return self._cpu.gather_best(codes, alive, wanted)
        return super().gather_best(codes, alive, wanted)

    def _part_size(self, queries: int, stretches: int) -> int:  # noqa: ARG002
        """As long as memory allows: threads share what becomes of the pairs, not the product."""
        return _PAIRS_AT_ONCE // (_padded(queries) * STRETCH)

    def _scan_for(self, codes: Codes, rows: Rows, wanted: Wanted) -> Scan:
        by_cpu = self._cpu._scan_for(codes, rows, wanted)
        resident = self._resident(codes)
        if resident is None:
            return by_cpu
        return partial(self._scan, resident, by_cpu)

    def _scan(
        self,
        resident: Any,
        by_cpu: Scan,
        rows: Rows,
        wanted: Wanted,
        first: int,
        last: int,
        found: Found,
    ) -> int:
        """A `Scan`. Of a search for the k best it reads ever more at once, as the levels rise."""
        kept, step = 0, 1 if wanted.heaps.shape[1] else last - first
        try:
            codes = np.zeros((_padded(len(wanted.codes)), wanted.codes.shape[1]), np.int8)
            codes[: len(wanted.codes)] = wanted.codes
            zeros = int(_SIGN) * codes.sum(axis=1, dtype=np.int64)
            query = _Query(self._arrays.asarray(codes), zeros)
            while first < last:
                end = min(first + step, last)
                floors, margins = _floors(rows, wanted, first, end, len(query.codes))
                places, sums = self._reaching(resident, query, floors, first, end)
                kept = _keep_reaching(
                    rows, wanted, margins, query.zeros, first, places, sums, found, kept
                )
                first, step = end, 4 * step
        except (MemoryError, RuntimeError) as error:
            self._fail(error)
            kept += by_cpu(rows, wanted, first, last, found[kept:])
        return kept

    def _reaching(
        self, resident: Any, query: _Query, floors: Sums, first: int, last: int
    ) -> tuple[Ints, Sums]:
        """The places where sums of these stretches reach their floors, row by row, and the sums
        there."""
        arrays = self._arrays
        sums = self._multiply(resident[first * STRETCH : last * STRETCH], query.codes)
        # Codes are signed there: the sums lack what 128 in each component adds.
        signed = arrays.asarray((floors - query.zeros).astype(np.int32))
        reaching = sums.reshape(last - first, STRETCH, -1) >= signed[:, None, :]
        places = arrays.flatnonzero(reaching)
        return self._fetch(places), self._fetch(sums.reshape(-1)[places])

    def _multiply(self, rows: Any, queries: Any) -> Any:
        """Rows int8[n, dim] times queries int8[q, dim]: int32[n, q], exact."""
        if self._arrays is np:
            # Sums of so few bytes are exact in float64, whose product is the fast one.
            return (rows.astype(np.float64) @ queries.T.astype(np.float64)).astype(np.int32)
        # The product by cuBLAS, which sees row-major arrays as transposed ones of columns.
        cublas = _find_cublas()
        (count, dim), width = rows.shape, len(queries)
        sums = self._arrays.empty((count, width), np.int32)
        one, nothing = np.ones(1, np.int32), np.zeros(1, np.int32)
        cublas.gemmEx(
            self._arrays.cuda.device.get_cublas_handle(),
            _OP_T,
            _OP_N,
            width,
            count,
            dim,
            one.ctypes.data,
            queries.data.ptr,
            _R_8I,
            dim,
            rows.data.ptr,
            _R_8I,
            dim,
            nothing.ctypes.data,
            sums.data.ptr,
            _R_32I,
            width,
            _COMPUTE_32I,
            _GEMM_DEFAULT,
        )
        return sums

    def _fetch(self, array: Any) -> NDArray[Any]:
        fetched: NDArray[Any] = array if self._arrays is np else self._arrays.asnumpy(array)
        return fetched

    def _resident(self, codes: Codes) -> Any:
        """The codes on the device, int8[n rounded up to stretches, dim]; None where it has no
        room for them, or failed."""
        if self.fault is not None:
            return None
        resident = self._residents.get(codes)
        if resident is not None:
            return resident
        # Another search does not wait for it, nor a change.
        with self._sending:
            if codes in self._residents:
                return self._residents[codes]
            with self._changing:
                self._wiped = (codes, [])
            try:
                resident = self._send(codes.bytes)
            except (MemoryError, RuntimeError) as error:
                self._fail(error)
            with self._changing:
                (_, wiped), self._wiped = self._wiped, (None, [])
                if resident is None:
                    return None
                # What becomes of freed memory is the allocator's affair: it must hold no code.
                weakref.finalize(codes, _erase, resident).atexit = False
                for rows in wiped:
                    self._overwrite(resident, rows)
                self._residents[codes] = resident
                return resident

    def _overwrite(self, resident: Any, rows: Ints) -> None:
        try:
            try:
                resident[self._arrays.asarray(rows)] = 0
            except MemoryError:
                # One by one takes no memory.
                for row in rows.tolist():
                    resident[row].fill(0)
        except RuntimeError as error:
            # A device that cannot be written to must not go on with a row that is gone.
            self._fail(error)

    def _send(self, codes: Octets) -> Any:
        count, dim = codes.shape
        sent = self._arrays.zeros((-(-count // STRETCH) * STRETCH, dim), np.int8)
        at_once = max(1, _UPLOAD_BYTES // dim)
        for start in range(0, count, at_once):
            part = codes[start : start + at_once]
            sent[start : start + len(part)] = self._arrays.asarray((part ^ _SIGN).view(np.int8))
        return sent

    def _fail(self, error: Exception) -> None:
        """Notes an error of the device: want of memory is one of this scan, any other stays."""
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, MemoryError):
            _log.warning("no room on the device (%s): %s scans, exact too", told, self._cpu.kernel)
            return
        if self.fault is None:
            self.fault, self.kernel = f"the GPU searches no more: {told}", self._cpu.kernel
            _log.error(
                "the device failed (%s): searches stay exact, by %s, but are slower; start "
                "this process again once it is well",
                told,
                self.kernel,
            )


def _padded(queries: int) -> int:
    return -(-queries // _QUERY_STEP) * _QUERY_STEP


def _erase(resident: Any) -> None:
    try:
        resident.fill(0)
    except RuntimeError:
        # The device is lost, and its memory with it.
        _log.debug("codes on a lost device cannot be overwritten")


def _find_cublas() -> Any:
    """CuPy's binding, which loads cuBLAS when it is taken from its package."""
    return importlib.import_module("cupy_backends.cuda.libs").cublas


def _floors(rows: Rows, wanted: Wanted, first: int, last: int, width: int) -> tuple[Sums, Sums]:
    """Floors and margins of the queries in these stretches: int32[stretches, width] each."""
    floors = np.empty((last - first, len(wanted.levels)), np.int32)
    margins = np.empty_like(floors)
    _set_all(floors, margins, rows, wanted, first)
    return floors[:, :width], margins


@compiled
def _set_all(floors: Sums, margins: Sums, rows: Rows, wanted: Wanted, first: int) -> None:
    for i in range(len(floors)):
        set_floors(floors[i], margins[i], rows, wanted, first + i)


@compiled
def _keep_reaching(
    rows: Rows,
    wanted: Wanted,
    margins: Sums,
    zeros: Ints,
    first: int,
    places: Ints,
    sums: Sums,
    found: Found,
    kept: int,
) -> int:
    """Adds the pairs at these places of int32[rows, queries]; places beyond the rows are none."""
    width = len(zeros)
    alive, levels, heaps = rows.alive, wanted.levels, wanted.heaps
    # `keep` raises it; the level is what the next pair is compared with.
    floors = np.empty(len(levels), np.int32)
    for i in range(len(places)):
        row, query = first * STRETCH + places[i] // width, places[i] % width
        if row >= len(alive):
            break
        own = margins[row // STRETCH - first]
        total = np.int32(sums[i] + zeros[query])
        # An earlier row may have raised the level.
        if total >= levels[query] - own[query]:
            kept = keep(alive, levels, heaps, floors, own, row, query, total, found, kept)
    return kept
