"""A sealed segment in a file of its own, written once: ids, residuals, codes, vectors.

Each array starts at a multiple of 64 bytes: `ids` int64[n], `residuals` float32[n], `codes`
uint8[n padded, dim padded], `vectors` float32 or float16[n, dim], all by row. Tombstones are not
in it, for they change.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from indexes.errors import SnapshotForeign
from indexes.exact.intrinsics import BLOCK, STEP
from indexes.exact.parts import SegmentParts
from indexes.exact.rowstore import MemoryRows, RowStore
from indexes.snapshots.manifest import SegmentEntry, segment_file, unseal_file
from indexes.snapshots.mapped import MappedRows
from indexes.snapshots.sealed_file import (
    SealedReader,
    SealedWriter,
    aligned_bytes,
    created,
    new_name,
    opened,
)
from indexes.snapshots.sealing import Sealer

_ROWS_AT_ONCE = 4096


def write_segment(folder: Path, parts: SegmentParts, sealer: Sealer) -> SegmentEntry:
    """Writes and flushes a new file under a new name."""
    name = new_name()
    with created(folder / segment_file(name)) as file:
        writer = SealedWriter(file, name, sealer)
        for array in (parts.ids, parts.residuals, parts.codes):
            writer.write(array)
            writer.align()
        for start in range(0, len(parts.rows), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(parts.rows)))
            # Exact: what is kept as float16 comes as float32 and goes back.
            writer.write(parts.rows.take(rows).astype(parts.rows.dtype, copy=False))
        writer.align()
    return SegmentEntry(
        segment=parts.name,
        rows=len(parts.ids),
        padded_rows=parts.codes.shape[0],
        width=parts.codes.shape[1],
        limit=float(parts.limit),
        dtype="float16" if parts.rows.dtype == np.float16 else "float32",
        file=writer.entry(),
    )


def read_segment(
    folder: Path, entry: SegmentEntry, dim: int, sealer: Sealer, *, mapped: bool
) -> SegmentParts:
    """The segment, every byte of its file verified; with `mapped`, its vectors stay there.

    `SnapshotDamaged`, or `SnapshotForeign` where this version lays out codes differently.
    """
    _require_layout(entry, dim)
    ids, residuals = np.empty(entry.rows, np.int64), np.empty(entry.rows, np.float32)
    codes = np.empty((entry.padded_rows, entry.width), np.uint8)
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
            vectors = np.empty((entry.rows, dim), entry.dtype)
            reader.fill(vectors)
            rows = MemoryRows(vectors)
        reader.verify()
    return SegmentParts(entry.segment, dim, entry.limit, ids, residuals, codes, rows)


def map_rows(folder: Path, entry: SegmentEntry, dim: int, sealer: Sealer) -> MappedRows:
    """The vectors of a segment whose file this process has just written itself."""
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


def _require_layout(entry: SegmentEntry, dim: int) -> None:
    shape = (-(-entry.rows // BLOCK) * BLOCK, -(-dim // STEP) * STEP)
    if (entry.padded_rows, entry.width) != shape:
        raise SnapshotForeign(
            "the snapshot's codes are laid out for another version; rebuild it from the store"
        )
