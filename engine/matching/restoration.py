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
from indexes.manifest import Header, Origin


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

    Damage, a snapshot of another model or key ring, or one of another history (the store was
    restored from a backup since) means a rebuild from the store: never a wrong answer.
    """
    fault = None
    try:
        gallery = snapshot.load(
            folder, origin_of(store), store.vault.sealer(), lambda header: _is_past(store, header)
        )
        loaded = len(gallery)
        return Restored(gallery, loaded, _replay(store, gallery))
    except SnapshotMissing:
        pass
    except IndexFault as error:
        fault = str(error)
    gallery = Gallery(FlatIndex(store.vault.dim))
    return Restored(gallery, 0, _replay(store, gallery), fault)


def save_snapshot(store: Store, gallery: Gallery, folder: Path) -> None:
    """Keeps the gallery for the next start; to be called by the writer."""
    snapshot.save(
        folder,
        gallery,
        origin_of(store),
        store.vault.sealer(),
        read_mark=lambda: _write_mark(*store.audit_head()),
    )


def _write_mark(number: int, digest: bytes) -> str:
    return f"{number}:{digest.hex()}"


def _is_past(store: Store, header: Header) -> bool:
    """True if the store's audit chain has passed through the place where the snapshot was made.

    Sequences alone cannot tell: a store that was restored from a backup overtakes them again,
    with other people under the same numbers.
    """
    number = int(header.mark.partition(":")[0] or -1)
    digest = store.audit_hash_at(number)
    return digest is not None and header.mark == _write_mark(number, digest)


def origin_of(store: Store) -> Origin:
    """What a snapshot must come from to be of any use to this store."""
    return Origin(
        index_kind=FlatIndex.kind,
        dim=store.vault.dim,
        model_digest=store.model_digest,
        key_id=store.vault.rotation_id,
        deployment_id=store.vault.deployment_id,
    )


def _replay(store: Store, gallery: Gallery) -> int:
    """Brings the gallery from its watermark to the store's; returns how many references changed."""
    start, sequence = gallery.sequence, store.sequence()
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
