"""Brings a gallery to the state of the store: from a snapshot and what came after, or whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.registry.reader import ReferenceChunk
from engine.registry.store import Store
from indexes.base import VectorIndex
from indexes.errors import IndexFault, SnapshotMissing
from indexes.gallery import Gallery
from indexes.kinds import open_index
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import Header, Origin, SegmentEntry
from indexes.snapshots.snapshot import Opening

_log = logging.getLogger(__name__)
# So much is read from the store before it is added, so that a rebuild makes large segments.
BULK_BYTES = 1 << 29
_LOG_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class GalleryConfig:
    """The kind of index behind the gallery.

    `segments` and `mapped` are for `exact8`, see `Opening`.
    """

    kind: str = SegmentedIndex.kind
    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    mapped: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A gallery that equals the store.

    `loaded` references came from the snapshot, `replayed` changes from the store; `fault` says
    why a snapshot that was there could not be used.
    """

    gallery: Gallery
    loaded: int
    replayed: int
    fault: str | None = None


def restore_gallery(store: Store, folder: Path, config: GalleryConfig | None = None) -> Restored:
    """Opens the snapshot in `folder` and replays the store above its watermark.

    Damage, a snapshot of another model, key ring or kind, or one of another history (the store
    was restored from a backup since) means a rebuild from the store and a line in the log: never
    a wrong answer.
    """
    config = config or GalleryConfig()
    fault = None
    try:
        gallery = snapshot.load(
            folder,
            origin_of(store, config),
            store.vault.sealer(),
            lambda header: _is_past(store, header),
            Opening(config.segments, mapped=config.mapped),
        )
        loaded = len(gallery)
        return Restored(gallery, loaded, _replay(store, gallery))
    except SnapshotMissing:
        pass
    except (IndexFault, OSError) as error:
        fault = str(error)
        if isinstance(error, OSError):
            # Its text has the path.
            fault = f"the snapshot cannot be read ({error.strerror or type(error).__name__})"
        _log.warning("the gallery is rebuilt from the store: %s", fault)
    gallery = Gallery(open_index(config.kind, store.vault.dim, config.segments))
    return Restored(gallery, 0, _replay(store, gallery), fault)


def rebuild_gallery(store: Store, index: VectorIndex) -> Restored:
    """Fills an empty index with all references of the store."""
    gallery = Gallery(index)
    return Restored(gallery, 0, _replay(store, gallery))


def save_snapshot(
    store: Store,
    gallery: Gallery,
    folder: Path,
    config: GalleryConfig | None = None,
    trusted: Collection[SegmentEntry] = (),
) -> None:
    """Saves the gallery for the next start; to be called by the writer.

    `config` is what the gallery was restored with, `trusted` what `withdraw_snapshot` returned.
    """
    config = config or GalleryConfig()
    snapshot.save(
        folder,
        gallery,
        origin_of(store, config),
        store.vault.sealer(),
        read_mark=lambda: _write_mark(*store.audit_head()),
        trusted=trusted,
        mapped=config.mapped,
    )


def withdraw_snapshot(
    store: Store,
    gallery: Gallery,
    folder: Path,
    ids: Collection[int],
    config: GalleryConfig | None = None,
    trusted: Collection[SegmentEntry] = (),
) -> tuple[SegmentEntry, ...]:
    """Takes the snapshot out of force and removes every file that may hold one of the references.

    The files that stay are those of segments that the gallery still has and that have lost no
    reference yet; what is returned lets the next save name them again. `trusted` is what an
    earlier call returned, where nothing was saved since.
    """
    wanted = np.array(sorted(ids), np.int64)
    clean = [
        segment.name
        for segment in gallery.segments
        if not segment.removed and not segment.find(wanted)[1].any()
    ]
    origin = origin_of(store, config)
    return snapshot.withdraw(folder, origin, store.vault.sealer(), clean, trusted)


def origin_of(store: Store, config: GalleryConfig | None = None) -> Origin:
    """The origin that a snapshot must have for this store."""
    config = config or GalleryConfig()
    return Origin(
        index_kind=config.kind,
        dim=store.vault.dim,
        model_digest=store.model_digest,
        key_id=store.vault.rotation_id,
        deployment_id=store.vault.deployment_id,
        precision=config.segments.rows,
    )


def _write_mark(number: int, digest: bytes) -> str:
    return f"{number}:{digest.hex()}"


def _is_past(store: Store, header: Header) -> bool:
    """True if the store's audit chain contains the entry at which the snapshot was made.

    Sequences alone cannot tell: a store restored from a backup reaches them again, with other
    people under the same numbers.
    """
    number = int(header.mark.partition(":")[0] or -1)
    digest = store.audit_hash_at(number)
    return digest is not None and header.mark == _write_mark(number, digest)


def _replay(store: Store, gallery: Gallery) -> int:
    """Brings the gallery from its watermark to the store's; returns how many references changed."""
    start, sequence = gallery.sequence, store.sequence()
    # An empty gallery need not be asked, once for each of many.
    gone = store.removals(start).tolist() if len(gallery) else []
    removed = [key for key in gone if key in gallery]
    if removed:
        # A commit either adds references or removes some: where both are to be replayed, there
        # are two sequences at least, and the later one is left for what is added.
        gallery.remove(np.array(removed, dtype=np.int64), start + 1)
    added = 0
    for batch in _gather(_log_progress(store.references(start)), above=gallery.sequence):
        # Above that of the removals, which may have been the later ones.
        gallery.add(batch.ids, batch.vectors, max(int(batch.sequences[-1]), gallery.sequence + 1))
        added += len(batch.ids)
    if gallery.sequence < sequence:
        gallery.remove(np.empty(0, dtype=np.int64), sequence)
    return len(removed) + added


def _log_progress(chunks: Iterable[ReferenceChunk]) -> Iterator[ReferenceChunk]:
    """The same chunks; logs the progress every few seconds."""
    read, logged_at = 0, time.monotonic()
    for chunk in chunks:
        read += len(chunk.ids)
        if time.monotonic() - logged_at >= _LOG_EVERY_S:
            logged_at = time.monotonic()
            _log.info("the gallery is built from the store: %d references read", read)
        yield chunk


def _gather(chunks: Iterable[ReferenceChunk], above: int) -> Iterator[ReferenceChunk]:
    """The same references in large pieces; each ends where a sequence does, and above this one."""
    held: list[ReferenceChunk] = []
    size_bytes, wanted_bytes = 0, BULK_BYTES
    for chunk in chunks:
        held.append(chunk)
        size_bytes += chunk.vectors.nbytes
        if size_bytes < wanted_bytes:
            continue
        whole = _join(held)
        # The last sequence may go on in the next chunk.
        end = int(np.searchsorted(whole.sequences, whole.sequences[-1]))
        if end and whole.sequences[end - 1] > above:
            yield _cut(whole, slice(0, end))
            whole = _cut(whole, slice(end, None))
        held, size_bytes = [whole], whole.vectors.nbytes
        # Where hardly anything could be given, joining again at once would bring no more.
        wanted_bytes = max(BULK_BYTES, 2 * size_bytes)
    if held:
        yield _join(held)


def _join(chunks: Sequence[ReferenceChunk]) -> ReferenceChunk:
    if len(chunks) == 1:
        return chunks[0]
    return ReferenceChunk(
        np.concatenate([chunk.ids for chunk in chunks]),
        np.concatenate([chunk.vectors for chunk in chunks]),
        np.concatenate([chunk.sequences for chunk in chunks]),
    )


def _cut(chunk: ReferenceChunk, rows: slice) -> ReferenceChunk:
    return ReferenceChunk(chunk.ids[rows], chunk.vectors[rows].copy(), chunk.sequences[rows])
