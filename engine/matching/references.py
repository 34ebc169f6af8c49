"""The references of one document, read while others enroll and erase."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

import numpy as np
from numpy.typing import NDArray

from engine.errors import GalleryBehind
from engine.matching.comparison import score_best
from engine.registry.records import DocumentRecord
from indexes.errors import IdInvalid
from indexes.gallery import Gallery
from indexes.validation import check_vectors

# A change is in the store a moment before the gallery shows it.
_LAG_S = 2.0
_LOOK_EVERY_S = 0.005


def score_holder(
    find: Callable[[], DocumentRecord], gallery: Gallery, probe: NDArray[np.float32]
) -> tuple[DocumentRecord, float | None]:
    """A document and the best score of a probe, float32[d], among its references; `None` for none.

    `find` reads the document, again where its references changed meanwhile; what it raises is
    passed on.
    """
    row = check_vectors(probe[None], gallery.dim)[0]
    give_up_at = monotonic() + _LAG_S
    while True:
        record = find()
        try:
            references = gallery.vectors(np.array(record.reference_ids, dtype=np.int64))
        except IdInvalid:
            if monotonic() > give_up_at:
                raise GalleryBehind(
                    "the gallery lacks references of the store: restart to rebuild it"
                ) from None
            sleep(_LOOK_EVERY_S)
            continue
        return record, score_best(row, references)
