"""Commits changes, then shows them to the gallery: in this order, or not at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import GalleryBehind, SosieError
from engine.registry.records import AuditRecord, Changes
from engine.registry.writer import Writer
from indexes.gallery import Gallery


def require_in_step(writer: Writer, gallery: Gallery) -> None:
    """Refuses to go on with a gallery that is not the image of the store."""
    if gallery.sequence != writer.sequence:
        raise GalleryBehind("the gallery has lost step with the store: restart to rebuild it")


def publish(
    writer: Writer,
    gallery: Gallery,
    changes: Changes,
    vectors: NDArray[np.float32] | None = None,
) -> AuditRecord:
    """Commits the changes and applies what they do to references; their last audit entry.

    `vectors` float32[n, d] are those of `changes.references`, where the caller has them stacked.
    Storage errors leave both sides as they were. `GalleryBehind`: the changes are (or may be)
    durable but not visible, so the caller must stop.
    """
    assert not (changes.references and changes.removed_references), "one kind for each sequence"
    try:
        kept = writer.commit(changes)
    except SosieError:
        raise
    except Exception as error:
        raise GalleryBehind("a commit ended in an unknown state: restart to rebuild") from error
    try:
        if changes.references:
            ids = np.array([reference.id for reference in changes.references], dtype=np.int64)
            if vectors is None:
                vectors = np.stack([reference.template for reference in changes.references])
            gallery.add(ids, vectors, changes.sequence)
        elif changes.removed_references:
            removed = np.array([key for key, _ in changes.removed_references], dtype=np.int64)
            gallery.remove(removed, changes.sequence)
    except Exception as error:
        raise GalleryBehind("a change is durable but not visible: restart to rebuild") from error
    return kept
