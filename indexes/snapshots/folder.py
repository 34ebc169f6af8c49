"""The folder of a snapshot: its lock, the manifest in force, what is ours in it."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from indexes.errors import SnapshotDamaged, SnapshotForeign, SnapshotMissing
from indexes.snapshots.manifest import (
    SIZE_LIMIT_BYTES,
    Manifest,
    Origin,
    SegmentEntry,
    segment_file,
)
from indexes.snapshots.sealed_file import flush_names
from indexes.snapshots.sealing import Sealer

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
