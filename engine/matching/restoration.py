"""Brings a gallery to the state of the store: from a snapshot and what came after, or whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.registry.store import Store
from indexes import snapshot
from indexes.errors import IndexFault, SnapshotMissing
from indexes.flat import FlatIndex
from indexes.gallery import Gallery
from indexes.manifest import Origin


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


def restore_gallery(store: Store, folder: Path) -> Restored:
    """Opens the snapshot in `folder` and replays the store above its watermark.

    Damage, or a snapshot of another model or key ring, means a rebuild from the store: never a
    wrong answer.
    """
    fault = None
    try:
        gallery = snapshot.load(folder, origin_of(store), store.vault.sealer())
    except SnapshotMissing:
        gallery = None
    except IndexFault as error:
        gallery, fault = None, str(error)
    sequence = store.sequence()
    if gallery is not None and gallery.sequence > sequence:
        gallery, fault = None, "the snapshot is ahead of the store: it was restored from a backup"
    if gallery is None:
        gallery = Gallery(FlatIndex(store.vault.dim))
    loaded = len(gallery)
    return Restored(gallery, loaded, _replay(store, gallery, sequence), fault)


def save_snapshot(store: Store, gallery: Gallery, folder: Path) -> None:
    """Keeps the gallery for the next start."""
    snapshot.save(folder, gallery, origin_of(store), store.vault.sealer())


def origin_of(store: Store) -> Origin:
    """What a snapshot must come from to be of any use to this store."""
    return Origin(
        index_kind=FlatIndex.kind,
        dim=store.vault.dim,
        model_digest=store.model_digest,
        key_id=store.vault.rotation_id,
        deployment_id=store.vault.deployment_id,
    )


def _replay(store: Store, gallery: Gallery, sequence: int) -> int:
    """Brings the gallery from its watermark to `sequence`; returns how many references changed."""
    start = gallery.sequence
    removed = [key for key in store.removals(start).tolist() if key in gallery]
    if removed:
        # A commit either adds references or removes some: where both are to be replayed, there
        # are two sequences at least, and the later one is left for what is added.
        gallery.remove(np.array(removed, dtype=np.int64), start + 1)
    chunks = list(store.references(start))
    if chunks:
        gallery.add(
            np.concatenate([chunk.ids for chunk in chunks]),
            np.concatenate([chunk.vectors for chunk in chunks]),
            max(sequence, int(chunks[-1].sequences[-1])),
        )
    elif gallery.sequence < sequence:
        empty = np.empty(0, dtype=np.int64)
        gallery.remove(empty, sequence)
    return len(removed) + sum(len(chunk.ids) for chunk in chunks)
