"""A gallery in a folder: sealed, verified before it is used, replaced in one step.

A folder holds `manifest`, the state's file and a file for each sealed segment (see `manifest`).
A segment's file is written once and named again by every later manifest, so a save costs what has
changed. `save` is four steps, each of which leaves the old snapshot or the new one whole, wherever
a crash falls: `write_data`, `write_manifest`, `publish` (the only step that a reader sees) and
`sweep`.

A whole older snapshot put back in place opens: compare its sequence with the store, and replay
what came after it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, VectorIndex, Vectors
from indexes.errors import (
    IdInvalid,
    SnapshotDamaged,
    SnapshotForeign,
    SnapshotMissing,
    VectorInvalid,
)
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.kinds import open_index
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots.files import (
    State,
    Tombstones,
    created,
    flush_names,
    map_rows,
    read_segment,
    read_state,
    write_segment,
    write_state,
)
from indexes.snapshots.manifest import (
    SIZE_LIMIT_BYTES,
    Header,
    Manifest,
    Origin,
    SegmentEntry,
    segment_file,
)
from indexes.snapshots.sealing import Sealer

# The folder of a snapshot: its lock, the manifest in force, what is ours in it.

MANIFEST = "manifest"
MANIFEST_BESIDE = "manifest.new"
# `data-` is of the format before this one.
_OURS = re.compile(r"(data|state|segment)-[0-9a-f]{32}")


def is_usable(folder: Path, entry: SegmentEntry, sealer: Sealer) -> bool:
    """Whether a segment's file is there, whole by its size, under the key of today."""
    try:
        size_bytes = (folder / segment_file(entry.file.name)).stat().st_size
    except FileNotFoundError:
        return False
    return (size_bytes, sealer.file_key) == (entry.file.size_bytes, entry.file.key)


def in_force(folder: Path, origin: Origin, sealer: Sealer) -> tuple[SegmentEntry, ...]:
    """The segments of the manifest in force; none where it is not verified to be ours."""
    try:
        return verified(folder, origin, sealer).segments
    except (SnapshotMissing, SnapshotDamaged, SnapshotForeign):
        return ()


def verified(folder: Path, origin: Origin, sealer: Sealer) -> Manifest:
    """The manifest in force, if it is ours; else an error that says what it is."""
    content = manifest_content(folder)
    manifest = Manifest.decode(content)
    manifest.verify(content, origin, sealer)
    return manifest


def manifest_content(folder: Path) -> bytes:
    """What the manifest in force holds, of any length that could be one."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return file.read(SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise SnapshotMissing("there is no snapshot; build the gallery from the store") from None


def remove_all_but(folder: Path, kept: Collection[str]) -> None:
    """Removes the files of snapshots but these, and lets what is not ours be."""
    (folder / MANIFEST_BESIDE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    flush_names(folder)


@contextmanager
def locked(folder: Path, mode: int) -> Iterator[None]:
    """Keeps a second save away from a save or load, in this process or another."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, mode)
        yield
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Opening:
    """How a gallery is opened: what its segments are like, and who scans them.

    With `mapped`, the vectors of sealed segments stay in their files; see `MappedRows`.
    """

    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    scanner: Scanner | None = None
    mapped: bool = False


def save(
    folder: Path,
    gallery: Gallery,
    origin: Origin,
    sealer: Sealer,
    *,
    read_mark: Callable[[], str] = str,
    trusted: Collection[SegmentEntry] = (),
    mapped: bool = False,
) -> Header:
    """Replaces the folder's snapshot by the gallery as it is now; files are readable to us only.

    Segments that the manifest in force names, if it is ours, or that are `trusted` (by `withdraw`)
    are not written again, unless under another key. With `mapped`, those that are written are
    served from their files from then on. `read_mark` is asked once the snapshot's moment is
    fixed: what it says is not before what the snapshot holds.

    Searches and changes go on meanwhile. An `OSError` (a full disk) leaves the old snapshot in
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
        if mapped:
            fresh = [entry for entry in manifest.segments if entry not in known]
            _serve_from_files(folder, gallery, fresh, sealer)
    return manifest.header


def load(
    folder: Path,
    origin: Origin,
    sealer: Sealer,
    accept: Callable[[Header], bool] | None = None,
    opening: Opening | None = None,
) -> Gallery:
    """The gallery that was saved; no byte of a file is used before all of it is verified.

    One whose verified header `accept` declines is foreign, like one of another origin.
    `SnapshotMissing`, `SnapshotDamaged` or `SnapshotForeign`: in each case rebuild from the
    store.
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
    folder: Path, origin: Origin, sealer: Sealer, keep: Collection[str]
) -> tuple[SegmentEntry, ...]:
    """Takes the snapshot out of force, and removes all files but those of the segments to keep.

    `keep` has names of segments. What is returned is trusted as the manifest was that named
    it, which was verified here: give it to the next `save`. If none comes, because of a crash, the
    files that stayed are swept later, and the gallery is rebuilt from the store.
    """
    if not folder.exists():
        return ()
    with locked(folder, fcntl.LOCK_EX):
        entries = in_force(folder, origin, sealer)
        kept = tuple(entry for entry in entries if entry.segment in keep)
        (folder / MANIFEST).unlink(missing_ok=True)
        # Gone for good before a file is: a manifest that outlived its files would be damage.
        flush_names(folder)
        remove_all_but(folder, {segment_file(entry.file.name) for entry in kept})
    return kept


def write_data(
    folder: Path,
    gallery: Gallery,
    origin: Origin,
    sealer: Sealer,
    read_mark: Callable[[], str] = str,
    known: Collection[SegmentEntry] = (),
) -> Manifest:
    """Writes and flushes the files that are new; nothing names them yet but what is returned."""
    written = {entry.segment: entry for entry in known if is_usable(folder, entry, sealer)}
    while True:
        frame = _Frame.of(gallery)
        fresh = [segment for segment in frame.segments if segment.name not in written]
        for segment in fresh:
            written[segment.name] = write_segment(folder, segment.parts(), sealer)
        # What was removed while its row was written may be in the file half wiped, and yet belongs
        # to the frame's moment. Then the next moment is taken, of which only what was sealed
        # since has to be written.
        if not fresh or frame.is_whole():
            break
    mark = read_mark()
    tombstones = frame.tombstones()
    state = write_state(folder, State(frame.ids, frame.vectors, tombstones), sealer)
    flush_names(folder)
    count = len(frame.ids) + sum(int(alive.sum()) for alive in frame.alive)
    header = Header(origin, count, frame.sequence, mark)
    segments = tuple(written[segment.name] for segment in frame.segments)
    return Manifest(header, len(frame.ids), state, segments)


def write_manifest(folder: Path, manifest: Manifest, sealer: Sealer) -> None:
    """Writes and flushes the manifest beside the one in force."""
    beside = folder / MANIFEST_BESIDE
    beside.unlink(missing_ok=True)
    with created(beside) as file:
        file.write(manifest.encode(sealer))


def publish(folder: Path) -> None:
    """Puts the manifest written last in force: before it the old snapshot, after it the new."""
    (folder / MANIFEST_BESIDE).replace(folder / MANIFEST)
    flush_names(folder)


def sweep(folder: Path) -> None:
    """Removes what no manifest in force names: the files replaced, the leavings of a crash."""
    try:
        kept = Manifest.decode(manifest_content(folder)).files
    except SnapshotMissing:
        kept = ()
    except (SnapshotDamaged, SnapshotForeign):
        # Without knowing what it names, nothing may go.
        return
    remove_all_but(folder, kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """A gallery at one moment: what lies in segments, and what lies in none."""

    segments: tuple[Exact8Segment, ...]
    alive: tuple[NDArray[np.bool_], ...]
    removed_since: dict[str, float]
    ids: Ids
    vectors: Vectors
    sequence: int

    @classmethod
    def of(cls, gallery: Gallery) -> _Frame:
        if gallery.kind != SegmentedIndex.kind:
            held = gallery.contents()
            return cls((), (), {}, held.ids, held.vectors, held.sequence)
        pinned = gallery.pin()
        sealed = len(pinned.segments) - pinned.head
        ids, vectors = [np.empty(0, np.int64)], [np.empty((0, gallery.dim), np.float32)]
        for head in pinned.segments[sealed:]:
            ids.append(head.row_ids)
            vectors.append(head.rows.take(np.arange(len(head.row_ids))))
        return cls(
            pinned.segments[:sealed],
            pinned.alive[:sealed],
            pinned.removed_since,
            np.concatenate(ids),
            np.concatenate(vectors),
            pinned.sequence,
        )

    def is_whole(self) -> bool:
        """True if no row has been removed since; a row's flag falls before it is wiped."""
        return all(
            np.array_equal(segment.alive_rows, alive)
            for segment, alive in zip(self.segments, self.alive, strict=True)
        )

    def tombstones(self) -> tuple[Tombstones, ...]:
        return tuple(
            Tombstones(alive, self.removed_since.get(segment.name, 0.0))
            for segment, alive in zip(self.segments, self.alive, strict=True)
        )


def _read_index(folder: Path, manifest: Manifest, sealer: Sealer, opening: Opening) -> VectorIndex:
    origin = manifest.header.origin
    state = read_state(folder, manifest, sealer)
    if origin.index_kind != SegmentedIndex.kind:
        index = open_index(origin.index_kind, origin.dim)
        index.add(state.ids, state.vectors)
        return index
    scanner = opening.scanner or Scanner()
    segments, removed_since = [], {}
    for entry, tombstones in zip(manifest.segments, state.tombstones, strict=True):
        parts = read_segment(folder, entry, origin.dim, sealer, mapped=opening.mapped)
        segment = Exact8Segment.restore(parts, scanner=scanner)
        dead = np.flatnonzero(~tombstones.alive)
        if len(dead):
            segment.bury(dead)
            removed_since[segment.name] = tombstones.removed_at
        segments.append(segment)
    return SegmentedIndex.restore(
        origin.dim,
        segments,
        (state.ids, state.vectors),
        opening.segments,
        removed_since=removed_since,
        scanner=scanner,
    )


def _serve_from_files(
    folder: Path, gallery: Gallery, entries: Collection[SegmentEntry], sealer: Sealer
) -> None:
    for entry in entries:
        # False where it was merged away meanwhile, which is as good.
        gallery.replace_rows(entry.segment, map_rows(folder, entry, gallery.dim, sealer))
