"""What changes between two saves: references in no segment yet, and which rows were removed.

One small file a save: `ids` int64[h], `vectors` float32[h, dim], `removed_at` float64[s] (when
each segment lost the row that it misses longest; 0 where it misses none), and for each segment a
bit a row, 1 where the row is alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Vectors
from indexes.snapshots.manifest import FileEntry, Manifest, state_file, unseal_file
from indexes.snapshots.sealed_file import SealedReader, SealedWriter, created, new_name, opened
from indexes.snapshots.sealing import Sealer


@dataclass(frozen=True, slots=True, eq=False)
class Tombstones:
    """Which rows of a segment are alive, bool[n], and when the first of the others was removed.

    `removed_at` is in seconds since 1970, 0 where none was.
    """

    alive: NDArray[np.bool_]
    removed_at: float


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """References in no segment, int64[h] and float32[h, dim], and each segment's tombstones."""

    ids: Ids
    vectors: Vectors
    tombstones: tuple[Tombstones, ...]


def write_state(folder: Path, state: State, sealer: Sealer) -> FileEntry:
    """Writes and flushes a new file under a new name."""
    name = new_name()
    times = np.array([one.removed_at for one in state.tombstones], np.float64)
    bits = [np.packbits(one.alive) for one in state.tombstones]
    arrays: list[NDArray[Any]] = [state.ids, state.vectors, times, *bits]
    with created(folder / state_file(name)) as file:
        writer = SealedWriter(file, name, sealer)
        for array in arrays:
            writer.write(array)
            writer.align()
    return writer.entry()


def read_state(folder: Path, manifest: Manifest, sealer: Sealer) -> State:
    """The state, every byte of its file verified; `SnapshotDamaged`."""
    loose, dim = manifest.loose_rows, manifest.header.origin.dim
    ids, vectors = np.empty(loose, np.int64), np.empty((loose, dim), np.float32)
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
    return State(ids, vectors, tuple(tombstones))
