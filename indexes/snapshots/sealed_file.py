"""Arrays in one file, hidden and authenticated as they pass; read back in the same order.

Every array starts at a multiple of 64 bytes, so that a mapped one is aligned for any type. The
file holds nothing else: what it is made of stands in the manifest, which is verified first.
"""

from __future__ import annotations

import hmac
import os
import secrets
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from indexes.errors import SnapshotDamaged
from indexes.snapshots.manifest import FileEntry
from indexes.snapshots.sealing import FileSeal, Sealer

ALIGNMENT_BYTES = 64
# A multiple of the blocks of a cipher; what the digest and the cipher pass on stays in the cache.
CHUNK_BYTES = 1 << 20

assert sys.byteorder == "little", "arrays lie in the file as they lie in memory"


class SealedWriter:
    """Appends arrays to a new file under a new random name: nothing is ever hidden twice alike."""

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
        """Ends an array; the zeros up to the next one are in the clear, and authenticated."""
        rest = aligned_bytes(self._offset) - self._offset
        self._file.write(bytes(rest))
        self._digest.update(bytes(rest))
        self._offset += rest

    def entry(self) -> FileEntry:
        """What the manifest says of the file as it is now."""
        digest = self._digest.digest().hex()
        return FileEntry(self._name, self._offset, digest, self._key)


class SealedReader:
    """Reads what `SealedWriter` wrote, every byte of it once.

    What `fill` gave may be used only after `verify`. While one chunk is revealed here, a thread
    computes the digest of it. `SnapshotDamaged` where the file is not as its entry says.
    """

    def __init__(self, file: BinaryIO, seal: FileSeal, entry: FileEntry, what: str) -> None:
        self._file, self._seal, self._entry, self._what = file, seal, entry, what
        self._digest = seal.digest()
        self._offset = 0
        self._digests = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        if os.fstat(file.fileno()).st_size != entry.size_bytes:
            raise self._damaged("has the wrong size")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._digests.shutdown()

    def fill(self, array: NDArray[Any]) -> None:
        """Reads the next array into this one, which is contiguous."""
        octets = array.reshape(-1).view(np.uint8)
        for start in range(0, len(octets), CHUNK_BYTES):
            part = octets[start : start + CHUNK_BYTES]
            offset = self._offset
            hidden = self._next(len(part))
            part[:] = np.frombuffer(self._seal.reveal(hidden, offset), np.uint8)
        self._pass_over(aligned_bytes(self._offset) - self._offset)

    def skip(self, size_bytes: int) -> None:
        """Passes over an array that is used where it lies; the digest covers it too."""
        self._pass_over(size_bytes)
        self._pass_over(aligned_bytes(self._offset) - self._offset)

    def verify(self) -> None:
        """To be called at the end, where nothing may be left."""
        if self._offset != self._entry.size_bytes:
            raise self._damaged("has the wrong size")
        if self._pending is not None:
            self._pending.result()
        if not hmac.compare_digest(self._digest.digest(), bytes.fromhex(self._entry.digest)):
            raise self._damaged("does not have the digest that was sealed")

    def _pass_over(self, size_bytes: int) -> None:
        for start in range(0, size_bytes, CHUNK_BYTES):
            self._next(min(CHUNK_BYTES, size_bytes - start))

    def _next(self, size_bytes: int) -> bytes:
        hidden = self._file.read(size_bytes)
        if len(hidden) != size_bytes:
            raise self._damaged("has the wrong size")
        self._offset += size_bytes
        # One chunk ahead of the digest and no more, for the chunks wait in memory.
        if self._pending is not None:
            self._pending.result()
        self._pending = self._digests.submit(self._digest.update, hidden)
        return hidden

    def _damaged(self, fault: str) -> SnapshotDamaged:
        return SnapshotDamaged(f"the snapshot's {self._what} {fault}; rebuild it from the store")


def aligned_bytes(size_bytes: int) -> int:
    """What an array of this size takes in a file."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def new_name() -> str:
    """128 random bits in hex: the name of one file, once."""
    return secrets.token_hex(16)


@contextmanager
def opened(path: Path, what: str) -> Iterator[BinaryIO]:
    """A file that the manifest names; `SnapshotDamaged` where it is missing."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise SnapshotDamaged(
            f"the snapshot's {what} is missing; rebuild it from the store"
        ) from None
    with file:
        yield file


@contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A new file, mode 0600, that has reached the disk when the block ends."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def flush_names(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
