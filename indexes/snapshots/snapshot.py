"""Snapshot of a gallery in a folder: encrypted, verified before use, replaced atomically.

A folder holds `manifest`, the state's file and a file for each sealed segment (see `manifest`).
A segment's file is written once and named again by every later manifest, so a save writes only what
has changed. `save` has four steps, and a crash in any of them leaves the old snapshot or the new
one whole: `write_data`, `write_manifest`, `publish` (the only step that a reader sees) and `sweep`.

An older snapshot that is put back opens: compare its sequence with the store, and replay the
changes since.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path

import numpy as np

from indexes.atomic_files import created, flush
from indexes.base import Flags, Ids, Vectors, overwrite_when_freed
from indexes.errors import (
    IdInvalid,
    SnapshotDamaged,
    SnapshotForeign,
    SnapshotMissing,
    VectorInvalid,
)
from indexes.exact.device import open_scanner
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots.files import (
    LooseState,
    Tombstones,
    map_rows,
    read_segment,
    read_state,
    write_segment,
    write_state,
)
from indexes.snapshots.manifest import (
    SIZE_LIMIT_BYTES,
    Header,
    Origin,
    Sealer,
    SegmentEntry,
    SnapshotManifest,
    segment_file,
)
from schema import frozen

MANIFEST = "manifest"
MANIFEST_BESIDE = "manifest.new"
# `data-` is from the format before this one.
_OURS = re.compile(r"(data|state|segment)-[0-9a-f]{32}")


def is_usable(folder: Path, entry: SegmentEntry, sealer: Sealer) -> bool:
    """True where a segment's file is there, of the right size and under the current key."""
    try:
        size_bytes = (folder / segment_file(entry.file.name)).stat().st_size
    except FileNotFoundError:
        return False
    return (size_bytes, sealer.file_key) == (entry.file.size_bytes, entry.file.key)


def in_force(folder: Path, origin: Origin, sealer: Sealer) -> tuple[SegmentEntry, ...]:
    """The segments of the manifest in force; none where it is not verified as ours."""
    try:
        return verified(folder, origin, sealer).segments
    except (SnapshotMissing, SnapshotDamaged, SnapshotForeign):
        return ()


def verified(folder: Path, origin: Origin, sealer: Sealer) -> SnapshotManifest:
    """The manifest in force; `SnapshotMissing`, `SnapshotDamaged` or `SnapshotForeign`."""
    content = manifest_content(folder)
    manifest = SnapshotManifest.decode(content)
    manifest.verify(content, origin, sealer)
    return manifest


def manifest_content(folder: Path) -> bytes:
    """The content of the manifest in force, up to just above the size limit."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise SnapshotMissing("there is no snapshot; build the gallery from the store") from None


def remove_all_but(folder: Path, kept: Collection[str]) -> None:
    """Removes all snapshot files but these; other files stay."""
    (folder / MANIFEST_BESIDE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    flush(folder)


@contextmanager
def locked(folder: Path, mode: int) -> Iterator[None]:
    """Locks the folder against other saves and loads, in this process or another."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, mode)
        yield
    finally:
        os.close(handle)


def _no_mark(_sequence: int) -> str:
    return ""


@frozen
class Opening:
    """Options for opening a gallery; `mapped`: segments' vectors stay in files (`MappedRows`)."""

    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    scanner: Scanner | None = None
    mapped: bool = False


def save(
    folder: Path,
    gallery: Gallery,
    origin: Origin,
    sealer: Sealer,
    *,
    read_mark: Callable[[int], str] = _no_mark,
    trusted: Collection[SegmentEntry] = (),
    mapped: bool = False,
) -> Header:
    """Replaces the folder's snapshot by the current gallery; files are readable by the owner only.

    Segments named by the manifest in force, if it is ours, or `trusted` (see `withdraw`) are not
    written again, unless under another key. With `mapped`, new segments are read from their files
    from then on. `read_mark` is called with the snapshot's sequence after its moment is fixed, so
    its value is not older than the content.

    Searches and changes continue meanwhile. An `OSError` (a full disk) leaves the old snapshot in
    place.
    """
    if (gallery.kind, gallery.dim) != (origin.index_kind, origin.dim):
        raise SnapshotForeign(
            f"the gallery is {gallery.kind} of dim {gallery.dim}, the origin says "
            f"{origin.index_kind} of dim {origin.dim}; give the gallery's own"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder, fcntl.LOCK_EX):
        known = (*trusted, *in_force(folder, origin, sealer))
        try:
            manifest = write_data(folder, gallery, origin, sealer, read_mark, known)
            write_manifest(folder, manifest, sealer)
            publish(folder)
        finally:
            sweep(folder)
        for entry in manifest.segments if mapped else ():
            if entry not in known:
                # False if it was merged away meanwhile, which is fine.
                gallery.replace_rows(entry.segment, map_rows(folder, entry, gallery.dim, sealer))
    return manifest.header


def load(
    folder: Path,
    origin: Origin,
    sealer: Sealer,
    accept: Callable[[Header], bool] | None = None,
    opening: Opening | None = None,
) -> Gallery:
    """The saved gallery; no byte of a file is used before all of it is verified.

    `SnapshotMissing`, `SnapshotDamaged` or `SnapshotForeign` (another origin, or `accept` declines
    the verified header): in each case rebuild from the store.
    """
    if not folder.is_dir():
        raise SnapshotMissing("there is no snapshot; build the gallery from the store")
    with locked(folder, fcntl.LOCK_SH):
        manifest = verified(folder, origin, sealer)
        if accept is not None and not accept(manifest.header):
            raise SnapshotForeign(
                "the snapshot is of another history of the store; rebuild it from the store"
            )
        try:
            index = _read_index(folder, manifest, sealer, opening or Opening())
        except (IdInvalid, VectorInvalid) as fault:
            raise SnapshotDamaged(
                "the snapshot holds what no index takes; rebuild it from the store"
            ) from fault
    if len(index) != manifest.header.count:
        raise SnapshotDamaged("the snapshot's references do not add up; rebuild it from the store")
    return Gallery(index, manifest.header.sequence)


def withdraw(
    folder: Path,
    origin: Origin,
    sealer: Sealer,
    keep: Collection[str],
    trusted: Collection[SegmentEntry] = (),
) -> tuple[SegmentEntry, ...]:
    """Withdraws the snapshot, and removes all files but those of the segments to keep.

    `keep` has names of segments, `trusted` what an earlier withdrawal left. The result comes from a
    verified manifest: pass it to the next `save`, or withdrawal, as `trusted`. If a crash prevents
    that, the remaining files are swept later, and the gallery is rebuilt from the store.
    """
    if not folder.exists():
        return ()
    with locked(folder, fcntl.LOCK_EX):
        entries = (*trusted, *in_force(folder, origin, sealer))
        kept = tuple(entry for entry in entries if entry.segment in keep)
        (folder / MANIFEST).unlink(missing_ok=True)
        # Durable before any file is removed: a manifest without its files would be damage.
        flush(folder)
        remove_all_but(folder, {segment_file(entry.file.name) for entry in kept})
    return kept


def write_data(
    folder: Path,
    gallery: Gallery,
    origin: Origin,
    sealer: Sealer,
    read_mark: Callable[[int], str] = _no_mark,
    known: Collection[SegmentEntry] = (),
) -> SnapshotManifest:
    """Writes and flushes the new files; only the manifest returned names them yet."""
    written = {entry.segment: entry for entry in known if is_usable(folder, entry, sealer)}
    while True:
        frame = _Frame.of(gallery)
        fresh = [segment for segment in frame.segments if segment.name not in written]
        for segment in fresh:
            written[segment.name] = write_segment(folder, segment, sealer)
        # A row that was removed while it was written may be half wiped in the file, and yet belong
        # to the frame. Then a new frame is taken, of which only segments sealed since have to be
        # written.
        if not fresh or frame.is_whole():
            break
    mark = read_mark(frame.sequence)
    tombstones = frame.tombstones()
    state = write_state(folder, LooseState(frame.ids, frame.vectors, tombstones), sealer)
    flush(folder)
    count = len(frame.ids) + sum(int(alive.sum()) for alive in frame.alive)
    header = Header(origin, count, frame.sequence, mark)
    segments = tuple(written[segment.name] for segment in frame.segments)
    return SnapshotManifest(header, len(frame.ids), state, segments)


def write_manifest(folder: Path, manifest: SnapshotManifest, sealer: Sealer) -> None:
    """Writes and flushes the new manifest, under a name that is not in force."""
    beside = folder / MANIFEST_BESIDE
    beside.unlink(missing_ok=True)
    with created(beside) as file:
        file.write(manifest.encode(sealer))


def publish(folder: Path) -> None:
    """Puts the new manifest in force, atomically."""
    (folder / MANIFEST_BESIDE).replace(folder / MANIFEST)
    flush(folder)


def sweep(folder: Path) -> None:
    """Removes files that the manifest in force does not name: replaced ones, or left by a crash."""
    try:
        kept = SnapshotManifest.decode(manifest_content(folder)).files
    except SnapshotMissing:
        kept = ()
    except (SnapshotDamaged, SnapshotForeign):
        # Its files are unknown, so nothing may be removed.
        return
    remove_all_but(folder, kept)


@frozen(eq=False)
class _Frame:
    """A gallery at one moment: its segments, and the references in no segment."""

    segments: tuple[Exact8Segment, ...]
    alive: tuple[Flags, ...]
    removed_since: dict[str, float]
    ids: Ids
    vectors: Vectors
    sequence: int

    @classmethod
    def of(cls, gallery: Gallery) -> _Frame:
        while True:
            pinned = gallery.pin()
            sealed = len(pinned.segments) - pinned.head
            ids, vectors = [np.empty(0, np.int64)], [np.empty((0, gallery.dim), np.float32)]
            for head in pinned.segments[sealed:]:
                ids.append(head.row_ids)
                vectors.append(head.rows.take(np.arange(len(head.row_ids))))
            # One that was removed since may have been copied half wiped.
            if all(head.alive_rows.all() for head in pinned.segments[sealed:]):
                return cls(
                    pinned.segments[:sealed],
                    pinned.alive[:sealed],
                    pinned.removed_since,
                    np.concatenate(ids),
                    overwrite_when_freed(np.concatenate(vectors)),
                    pinned.sequence,
                )

    def is_whole(self) -> bool:
        """True if no row has been removed since; a row's flag is cleared before it is wiped."""
        return all(
            np.array_equal(segment.alive_rows, alive)
            for segment, alive in zip(self.segments, self.alive, strict=True)
        )

    def tombstones(self) -> tuple[Tombstones, ...]:
        return tuple(
            Tombstones(alive, self.removed_since.get(segment.name, 0.0))
            for segment, alive in zip(self.segments, self.alive, strict=True)
        )


def _read_index(
    folder: Path, manifest: SnapshotManifest, sealer: Sealer, opening: Opening
) -> SegmentedIndex:
    origin = manifest.header.origin
    state = read_state(folder, manifest, sealer)
    scanner = opening.scanner or open_scanner(opening.segments.device)

    def read(entry: SegmentEntry, tombstones: Tombstones) -> Exact8Segment:
        where = (folder, entry, origin.dim, sealer)
        segment = read_segment(*where, scanner=scanner, mapped=opening.mapped)
        dead = np.flatnonzero(~tombstones.alive)
        if len(dead):
            segment.remove_rows(dead)
        return segment

    # Ciphers, digests and planes leave the interpreter to other threads.
    with ThreadPoolExecutor(scanner.threads) as pool:
        pairs = zip(manifest.segments, state.tombstones, strict=True)
        segments = list(pool.map(lambda pair: read(*pair), pairs))
    removed_since = {
        segment.name: tombstones.removed_at
        for segment, tombstones in zip(segments, state.tombstones, strict=True)
        if segment.removed
    }
    return SegmentedIndex.restore(
        origin.dim,
        segments,
        (state.ids, state.vectors),
        opening.segments,
        removed_since=removed_since,
        scanner=scanner,
    )
