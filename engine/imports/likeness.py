"""Faces that are known already: under another document, or on the watch-list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.registry.reader import Reader
from indexes.gallery import Gallery


def find_look_alikes(
    registry: Reader,
    gallery: Gallery,
    vectors: NDArray[np.float32],
    document_ids: Sequence[str],
    threshold: float,
) -> NDArray[np.bool_]:
    """bool[n]: whose face float32[n, d] is like that of another document, at or above a score.

    Looked for in the gallery, and among those before it in the batch.
    """
    if not len(vectors):
        return np.zeros(0, np.bool_)
    hits = gallery.range_search(vectors, threshold).hits
    owners = registry.documents_of(np.unique(hits.ids).tolist())
    known = np.array(
        [
            any(owners.get(int(key), own) != own for key in hits.of(place)[0])
            for place, own in enumerate(document_ids)
        ]
    )
    _, codes = np.unique(np.array(document_ids), return_inverse=True)
    # A batch's own product is rounded otherwise than a score; a count can bear that.
    is_alike = np.tril(vectors @ vectors.T >= threshold, -1)
    found: NDArray[np.bool_] = known | (is_alike & (codes[:, None] != codes)).any(axis=1)
    return found
