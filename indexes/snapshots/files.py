"""Encrypted files of a snapshot: one for each sealed segment, and one for its state.

A segment's file is written once: `ids` int64[n], `residuals` float32[n], `codes` uint8[n padded,
dim padded], `vectors` float32 or float16[n, dim], all by row, and these by ascending residual; what
is removed is in it too, wiped where it was in memory. The state is what changes between two
saves, one small file a save: `ids` int64[h] and `vectors` float32[h, dim] of references in no
segment, `removed_at` float64[s] (the time of the oldest tombstone of each segment, 0 without one),
and for each segment a bit a row, 1 where the row is alive.

Every array starts at a multiple of 64 bytes, so that a mapped one is aligned for any type. A file
holds nothing else: its layout is in the manifest, which is verified first.
"""

import hmac
import mmap
import os
import secrets
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from itertools import cycle
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.atomic_files import created
from indexes.base import Closing, Flags, Ids, Octets, Positions, Vectors, overwrite_when_freed
from indexes.errors import SnapshotDamaged, SnapshotForeign
from indexes.exact.codes import Codes
from indexes.exact.exact8 import Exact8Segment, MemoryRows, RowStore
from indexes.exact.intrinsics import BLOCK, STEP
from indexes.exact.scanner import Scanner
from indexes.snapshots.manifest import (
    FileEntry,
    FileSeal,
    Sealer,
    SegmentEntry,
    SnapshotManifest,
    segment_file,
    state_file,
    unseal_file,
)
from schema import frozen

ALIGNMENT_BYTES = 64
# A multiple of the cipher's blocks; small enough to stay in the cache between cipher and digest.
CHUNK_BYTES = 1 << 20

assert sys.byteorder == "little", "files hold arrays as they are in memory"


class SealedWriter:
    """Encrypts and authenticates arrays into a new file with a new random name."""

    def __init__(self, file: BinaryIO, name: str, sealer: Sealer) -> None:
        self._file = file
        self._name, self._key = name, sealer.file_key
        self._seal = sealer.file(name, self._key)
        self._digest = self._seal.digest()
        self._offset = 0

    def write(self, array: NDArray[Any]) -> None:
        """Appends an array, or a piece of one whose size is a multiple of 16 bytes."""
        octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(octets), CHUNK_BYTES):
            hidden = self._seal.hide(octets[start : start + CHUNK_BYTES].data, self._offset)
            self._digest.update(hidden)
            self._file.write(hidden)
            self._offset += len(hidden)

    def align(self) -> None:
        """Ends an array; the zeros up to the next one are not encrypted, but authenticated."""
        rest = aligned_bytes(self._offset) - self._offset
        self._file.write(bytes(rest))
        self._digest.update(bytes(rest))
        self._offset += rest

    def entry(self) -> FileEntry:
        """The manifest's entry for the file so far."""
        digest = self._digest.digest().hex()
        return FileEntry(self._name, self._offset, digest, self._key)


class SealedReader(Closing):
    """Reads every byte of a file of `SealedWriter` once, in the same order.

    Use the arrays only after `verify`. A thread computes the digest of a chunk while it is
    decrypted here. `SnapshotDamaged` where the file does not match its entry.
    """

    def __init__(self, file: BufferedReader, seal: FileSeal, entry: FileEntry, what: str) -> None:
        self._file, self._seal, self._entry, self._what = file, seal, entry, what
        self._digest = seal.digest()
        self._offset = 0
        self._digests = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._chunks = cycle([memoryview(bytearray(CHUNK_BYTES)) for _ in range(2)])
        if os.fstat(file.fileno()).st_size != entry.size_bytes:
            raise self._damaged("has the wrong size")

    def close(self) -> None:
        self._digests.shutdown()

    def fill(self, array: NDArray[Any]) -> None:
        """Reads the next array into this contiguous one."""
        octets = array.reshape(-1).view(np.uint8)
        for start in range(0, len(octets), CHUNK_BYTES):
            part = octets[start : start + CHUNK_BYTES]
            offset = self._offset
            self._seal.reveal(self._next(len(part)), offset, part)
        self._pass_over(aligned_bytes(self._offset) - self._offset)

    def skip(self, size_bytes: int) -> None:
        """Skips an array that is used in place; the digest covers it too."""
        self._pass_over(size_bytes)
        self._pass_over(aligned_bytes(self._offset) - self._offset)

    def verify(self) -> None:
        """Compares size and digest; call it after the last array."""
        if self._offset != self._entry.size_bytes:
            raise self._damaged("has the wrong size")
        if self._pending is not None:
            self._pending.result()
        if not hmac.compare_digest(self._digest.digest(), bytes.fromhex(self._entry.digest)):
            raise self._damaged("does not have the digest that was sealed")

    def _pass_over(self, size_bytes: int) -> None:
        for start in range(0, size_bytes, CHUNK_BYTES):
            self._next(min(CHUNK_BYTES, size_bytes - start))

    def _next(self, size_bytes: int) -> memoryview:
        """The next bytes of the file, which stay as they are until the call after the next."""
        hidden = next(self._chunks)[:size_bytes]
        if self._file.readinto(hidden) != size_bytes:
            raise self._damaged("has the wrong size")
        self._offset += size_bytes
        # At most one chunk ahead of the digest: the one before is where the next is read to.
        if self._pending is not None:
            self._pending.result()
        self._pending = self._digests.submit(self._digest.update, hidden)
        return hidden

    def _damaged(self, fault: str) -> SnapshotDamaged:
        return SnapshotDamaged(f"the snapshot's {self._what} {fault}; rebuild it from the store")


def aligned_bytes(size_bytes: int) -> int:
    """The size of such an array in a file."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@contextmanager
def opened(path: Path, what: str) -> Iterator[BufferedReader]:
    """Opens a file that the manifest names; `SnapshotDamaged` where it is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise SnapshotDamaged(
            f"the snapshot's {what} is missing; rebuild it from the store"
        ) from None
    with file:
        yield file


_MAPPED_ROWS_AT_ONCE = 1 << 14


class MappedRows:
    """A `RowStore` over a verified file; only the pages read are in memory, decrypted row by row.

    Who can write into the folder can alter the file after it was verified. It must never be
    truncated while it is mapped, which would end the process; its name may be removed. A wiped row
    is read as zeros; in the file, encrypted, it stays until nobody has the segment any more.
    """

    def __init__(
        self,
        file: BinaryIO,
        seal: FileSeal,
        *,
        offset: int,
        rows: int,
        dim: int,
        dtype: Literal["float32", "float16"],
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.dim = dim
        self.memory_bytes = 0
        self._seal = seal
        self._offset, self._rows = offset, rows
        self._row_bytes = dim * self.dtype.itemsize
        # The system provides the pages of it that are written to.
        self._wiped = np.zeros(rows, np.bool_)
        # The mapping stays when the file is closed.
        self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # Access is random: reading ahead would fill the memory that mapping saves.
        self._memory.madvise(mmap.MADV_RANDOM)

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: Positions) -> Vectors:
        """These rows in their order: float32[m, dim]; a copy."""
        taken = overwrite_when_freed(np.empty((len(rows), self.dim), np.float32))
        for start in range(0, len(rows), _MAPPED_ROWS_AT_ONCE):
            part = rows[start : start + _MAPPED_ROWS_AT_ONCE]
            plain = self._run(part) if _is_run(part) else self._reveal(part)
            taken[start : start + len(part)] = overwrite_when_freed(plain).view(self.dtype)
        # Last, for a row may be wiped meanwhile.
        taken[self._wiped[rows]] = 0
        return taken

    def select(self, rows: Positions) -> tuple[Vectors, Positions]:
        """A matrix with each distinct row, and the position of each row in it."""
        distinct, places = np.unique(rows, return_inverse=True)
        return self.take(distinct), places

    def wipe(self, rows: Positions) -> None:
        """Has these rows read as zeros: the file is immutable."""
        self._wiped[rows] = True

    def _reveal(self, rows: Positions) -> Octets:
        # A view of the encrypted rows in the file: uint8[n, bytes of a row].
        size = self._rows * self._row_bytes
        octets = np.frombuffer(self._memory, np.uint8, size, self._offset)
        return self._seal.reveal_rows(
            octets.reshape(self._rows, self._row_bytes)[rows], self._offset + rows * self._row_bytes
        )

    def _run(self, rows: Positions) -> Octets:
        """Consecutive rows, decrypted at once."""
        first, count = int(rows[0]), len(rows)
        start = self._offset + first * self._row_bytes
        end = start + count * self._row_bytes
        # The seal's runs start at a multiple of 16 bytes.
        aligned = start - start % 16
        page = aligned - aligned % mmap.PAGESIZE
        self._memory.madvise(mmap.MADV_WILLNEED, page, end - page)
        with memoryview(self._memory) as memory:
            plain = np.empty(end - aligned, np.uint8)
            self._seal.reveal(memory[aligned:end], aligned, plain)
        return plain[start - aligned :].reshape(count, self._row_bytes)


def _is_run(rows: Positions) -> bool:
    return len(rows) > 1 and bool((np.diff(rows) == 1).all())


_ROWS_AT_ONCE = 4096


def write_segment(folder: Path, segment: Exact8Segment, sealer: Sealer) -> SegmentEntry:
    """Writes and flushes a new file under a new name."""
    ids, codes, stored = segment.row_ids, segment.codes, segment.rows
    name = secrets.token_hex(16)
    with created(folder / segment_file(name)) as file:
        writer = SealedWriter(file, name, sealer)
        for array in (ids, codes.residuals, codes.bytes):
            writer.write(array)
            writer.align()
        for start in range(0, len(stored), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(stored)))
            # Exact: float16 rows are taken as float32 and converted back.
            taken = stored.take(rows).astype(stored.dtype, copy=False)
            writer.write(overwrite_when_freed(taken))
        writer.align()
    return SegmentEntry(
        segment=segment.name,
        rows=len(ids),
        padded_rows=codes.bytes.shape[0],
        width=codes.bytes.shape[1],
        limit=float(codes.limit),
        dtype="float16" if stored.dtype == np.float16 else "float32",
        file=writer.entry(),
    )


def read_segment(
    folder: Path, entry: SegmentEntry, dim: int, sealer: Sealer, *, scanner: Scanner, mapped: bool
) -> Exact8Segment:
    """Reads a segment and verifies every byte of its file; if `mapped`, its vectors stay there.

    `SnapshotDamaged`, or `SnapshotForeign` where this version lays out codes differently.
    """
    shape = (-(-entry.rows // BLOCK) * BLOCK, -(-dim // STEP) * STEP)
    if (entry.padded_rows, entry.width) != shape:
        raise SnapshotForeign(
            "the snapshot's codes are laid out for another version; rebuild it from the store"
        )
    ids, residuals = np.empty(entry.rows, np.int64), np.empty(entry.rows, np.float32)
    codes = overwrite_when_freed(np.empty((entry.padded_rows, entry.width), np.uint8))
    rows: RowStore
    seal = unseal_file(sealer, entry.file)
    with (
        opened(folder / segment_file(entry.file.name), "segment") as file,
        SealedReader(file, seal, entry.file, "segment") as reader,
    ):
        for array in (ids, residuals, codes):
            reader.fill(array)
        if mapped:
            rows = _map(file, entry, dim, sealer)
            reader.skip(entry.rows * dim * rows.dtype.itemsize)
        else:
            vectors = overwrite_when_freed(np.empty((entry.rows, dim), entry.dtype))
            reader.fill(vectors)
            rows = MemoryRows(vectors)
        reader.verify()
    coded = Codes.restore(codes, residuals, dim, entry.limit)
    return Exact8Segment.of_codes(ids, coded, rows, scanner=scanner, name=entry.segment)


def map_rows(folder: Path, entry: SegmentEntry, dim: int, sealer: Sealer) -> MappedRows:
    """The vectors of a segment whose file this process has just written."""
    with opened(folder / segment_file(entry.file.name), "segment") as file:
        return _map(file, entry, dim, sealer)


def _map(file: BinaryIO, entry: SegmentEntry, dim: int, sealer: Sealer) -> MappedRows:
    sizes = (8 * entry.rows, 4 * entry.rows, entry.padded_rows * entry.width)
    return MappedRows(
        file,
        unseal_file(sealer, entry.file),
        offset=sum(aligned_bytes(size) for size in sizes),
        rows=entry.rows,
        dim=dim,
        dtype=entry.dtype,
    )


@frozen(eq=False)
class Tombstones:
    """Which rows of a segment are alive, bool[n], and when the first of the others was removed, in
    seconds since 1970, 0 if none was."""

    alive: Flags
    removed_at: float


@frozen(eq=False)
class LooseState:
    """References in no segment, int64[h] and float32[h, dim], and each segment's tombstones."""

    ids: Ids
    vectors: Vectors
    tombstones: tuple[Tombstones, ...]


def write_state(folder: Path, state: LooseState, sealer: Sealer) -> FileEntry:
    """Writes and flushes a new file under a new name."""
    name = secrets.token_hex(16)
    times = np.array([one.removed_at for one in state.tombstones], np.float64)
    bits = [np.packbits(one.alive) for one in state.tombstones]
    arrays: list[NDArray[Any]] = [state.ids, state.vectors, times, *bits]
    with created(folder / state_file(name)) as file:
        writer = SealedWriter(file, name, sealer)
        for array in arrays:
            writer.write(array)
            writer.align()
    return writer.entry()


def read_state(folder: Path, manifest: SnapshotManifest, sealer: Sealer) -> LooseState:
    """Reads the state and verifies every byte of its file; `SnapshotDamaged`."""
    loose, dim = manifest.loose_rows, manifest.header.origin.dim
    ids = np.empty(loose, np.int64)
    vectors = overwrite_when_freed(np.empty((loose, dim), np.float32))
    times = np.empty(len(manifest.segments), np.float64)
    bits = [np.empty(-(-entry.rows // 8), np.uint8) for entry in manifest.segments]
    arrays: list[NDArray[Any]] = [ids, vectors, times, *bits]
    seal = unseal_file(sealer, manifest.state)
    with (
        opened(folder / state_file(manifest.state.name), "state") as file,
        SealedReader(file, seal, manifest.state, "state") as reader,
    ):
        for array in arrays:
            reader.fill(array)
        reader.verify()
    tombstones = [
        Tombstones(np.unpackbits(packed, count=entry.rows).astype(np.bool_), float(time))
        for packed, entry, time in zip(bits, manifest.segments, times, strict=True)
    ]
    return LooseState(ids, vectors, tuple(tombstones))
