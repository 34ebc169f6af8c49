"""A gallery in a folder: sealed, verified before it is used, replaced in one step.

A folder holds `manifest` and the one data file that it names. `save` is four steps, each of
which leaves the old snapshot or the new one whole, wherever a crash falls: `write_data`,
`write_manifest`, `publish` (the only step that a reader sees) and `sweep`.

A whole older snapshot put back in place opens: compare its sequence with the store, and replay
what came after it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from indexes.base import Ids, VectorIndex, Vectors
from indexes.errors import (
    IdInvalid,
    SnapshotDamaged,
    SnapshotForeign,
    SnapshotMissing,
    VectorInvalid,
)
from indexes.flat import FlatIndex
from indexes.gallery import Contents, Gallery
from indexes.manifest import (
    SIZE_LIMIT_BYTES,
    Chunk,
    Header,
    Manifest,
    Origin,
    chunk_context,
    unseal,
)
from indexes.sealing import Sealer

CHUNK_BYTES = 64 << 20

_MANIFEST = "manifest"
_MANIFEST_BESIDE = "manifest.new"


def save(
    folder: Path,
    gallery: Gallery,
    origin: Origin,
    sealer: Sealer,
    *,
    read_mark: Callable[[], str] = str,
    chunk_bytes: int = CHUNK_BYTES,
) -> Header:
    """Replaces the folder's snapshot by the gallery as it is now; files are readable to us only.

    `read_mark` is asked once the rows are copied: what it says is not before what they hold.

    Searches go on meanwhile; changes wait only while the rows are copied. An `OSError` (a full
    disk) leaves the old snapshot in place.
    """
    if (gallery.kind, gallery.dim) != (origin.index_kind, origin.dim):
        raise SnapshotForeign(
            f"the gallery is {gallery.kind} of dim {gallery.dim}, the origin says "
            f"{origin.index_kind} of dim {origin.dim}; give the gallery's own"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder, fcntl.LOCK_EX):
        try:
            contents = gallery.contents()
            manifest = write_data(folder, contents, origin, sealer, chunk_bytes, mark=read_mark())
            write_manifest(folder, manifest, sealer)
            publish(folder)
        finally:
            sweep(folder)
    return manifest.header


def load(
    folder: Path,
    origin: Origin,
    sealer: Sealer,
    accept: Callable[[Header], bool] | None = None,
) -> Gallery:
    """The gallery that was saved, after everything in the folder has been verified.

    One whose verified header `accept` declines is foreign, like one of another origin.
    `SnapshotMissing`, `SnapshotDamaged` or `SnapshotForeign`: in each case rebuild from the
    store.
    """
    if not folder.is_dir():
        raise SnapshotMissing("there is no snapshot; build the gallery from the store")
    with _locked(folder, fcntl.LOCK_SH):
        content = _manifest_content(folder)
        manifest = Manifest.decode(content)
        manifest.verify(content, origin, sealer)
        if accept is not None and not accept(manifest.header):
            raise SnapshotForeign(
                "the snapshot is of another history of the store; rebuild it from the store"
            )
        ids, vectors = _read_data(folder, manifest, sealer)
    index = _index(origin)
    try:
        index.add(ids, vectors)
    except (IdInvalid, VectorInvalid) as fault:
        raise SnapshotDamaged(
            "the snapshot holds what no index takes; rebuild it from the store"
        ) from fault
    return Gallery(index, manifest.header.sequence)


def write_data(
    folder: Path,
    contents: Contents,
    origin: Origin,
    sealer: Sealer,
    chunk_bytes: int = CHUNK_BYTES,
    mark: str = "",
) -> Manifest:
    """Writes and flushes a new data file; nothing names it yet but the manifest returned."""
    name = secrets.token_hex(16)
    header = Header(origin, len(contents.ids), contents.sequence, name, mark)
    rows = max(1, chunk_bytes // _row_bytes(origin.dim))
    starts = range(0, header.count, rows)
    context = chunk_context(header, len(starts))
    sizes = []
    unfinished = Manifest(header, chunks=())
    with _created(folder / unfinished.data_file) as file:
        for number, start in enumerate(starts):
            ids = contents.ids[start : start + rows].astype("<i8")
            vectors = contents.vectors[start : start + rows].astype("<f4")
            sealed = sealer.seal(ids.tobytes() + vectors.tobytes(), context(number))
            file.write(sealed)
            sizes.append(Chunk(rows=len(ids), size_bytes=len(sealed)))
    _flush(folder)
    return Manifest(header, tuple(sizes))


def write_manifest(folder: Path, manifest: Manifest, sealer: Sealer) -> None:
    """Writes and flushes the manifest beside the one in force."""
    beside = folder / _MANIFEST_BESIDE
    beside.unlink(missing_ok=True)
    with _created(beside) as file:
        file.write(manifest.encode(sealer))


def publish(folder: Path) -> None:
    """Puts the manifest written last in force: before it the old snapshot, after it the new."""
    (folder / _MANIFEST_BESIDE).replace(folder / _MANIFEST)
    _flush(folder)


def sweep(folder: Path) -> None:
    """Removes what no manifest in force names: the data replaced, the leavings of a crash."""
    try:
        kept = Manifest.decode(_manifest_content(folder)).data_file
    except SnapshotMissing:
        kept = None
    except (SnapshotDamaged, SnapshotForeign):
        # Without knowing what it names, nothing may go.
        return
    (folder / _MANIFEST_BESIDE).unlink(missing_ok=True)
    for data in folder.glob("data-*"):
        if data.name != kept:
            data.unlink()
    _flush(folder)


def _read_data(folder: Path, manifest: Manifest, sealer: Sealer) -> tuple[Ids, Vectors]:
    header = manifest.header
    ids = np.empty(header.count, np.int64)
    vectors = np.empty((header.count, header.origin.dim), np.float32)
    context = chunk_context(header, len(manifest.chunks))
    start = 0
    with _opened(folder / manifest.data_file, manifest) as file:
        for number, chunk in enumerate(manifest.chunks):
            sealed = file.read(chunk.size_bytes)
            plain = unseal(sealer, sealed, context(number), f"chunk {number}")
            if len(plain) != chunk.rows * _row_bytes(header.origin.dim):
                raise SnapshotDamaged(
                    f"the snapshot's chunk {number} has the wrong size; rebuild it from the store"
                )
            end = start + chunk.rows
            ids[start:end] = np.frombuffer(plain, "<i8", chunk.rows)
            rows = np.frombuffer(plain, "<f4", offset=8 * chunk.rows)
            vectors[start:end] = rows.reshape(chunk.rows, header.origin.dim)
            start = end
    return ids, vectors


@contextmanager
def _opened(path: Path, manifest: Manifest) -> Iterator[BinaryIO]:
    """The data file, if it has exactly the size that the manifest gives it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise SnapshotDamaged(
            "the snapshot's data file is missing; rebuild the snapshot from the store"
        ) from None
    with file:
        size_bytes = sum(chunk.size_bytes for chunk in manifest.chunks)
        if os.fstat(file.fileno()).st_size != size_bytes:
            raise SnapshotDamaged(
                "the snapshot's data file has the wrong size; rebuild it from the store"
            )
        yield file


def _manifest_content(folder: Path) -> bytes:
    try:
        with (folder / _MANIFEST).open("rb") as file:
            return file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise SnapshotMissing("there is no snapshot; build the gallery from the store") from None


def _index(origin: Origin) -> VectorIndex:
    if origin.index_kind == FlatIndex.kind:
        return FlatIndex(origin.dim)
    raise SnapshotForeign(f"no index is of kind {origin.index_kind}; rebuild with one that is")


def _row_bytes(dim: int) -> int:
    return 8 + 4 * dim


@contextmanager
def _locked(folder: Path, mode: int) -> Iterator[None]:
    """Keeps a second save away from a save or load, in this process or another."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, mode)
        yield
    finally:
        os.close(handle)


@contextmanager
def _created(path: Path) -> Iterator[BinaryIO]:
    """A new file, mode 0600, that has reached the disk when the block ends."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
