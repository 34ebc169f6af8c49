"""What the registry knows while a batch is judged: its rows, and the batch's own, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from engine.matching.prechecks import Attempt
from engine.registry.records import DocumentRecord
from engine.registry.store import Store
from indexes.gallery import Gallery


@dataclass(frozen=True, slots=True, eq=False)
class FreshReference:
    """A reference that an earlier attempt of the same batch brought in."""

    place: int
    reference_id: int
    document_id: str
    vector: NDArray[np.float32] = field(repr=False)


class Docket:
    """Registry rows for one batch, with what earlier attempts of the batch have changed."""

    def __init__(
        self, store: Store, gallery: Gallery, attempts: Sequence[Attempt], hit_ids: Sequence[int]
    ) -> None:
        lookups = [it.document_lookup for it in attempts if it.document_lookup is not None]
        self._gallery = gallery
        self._documents = store.documents(lookups)
        self._owners = store.documents_of(hit_ids)
        self._numbers = set(store.lines_in_use([attempt.msisdn_lookup for attempt in attempts]))
        known = [record.id for record in self._documents.values()]
        carriers = {attempt.outlet.carrier for attempt in attempts}
        self._open_lines = {
            (document_id, carrier): count
            for carrier in carriers
            for document_id, count in store.open_line_counts(known, carrier).items()
        }
        self.fresh: list[FreshReference] = []

    def document(self, lookup: bytes | None) -> DocumentRecord | None:
        """The document as it stands now, whether from the registry or from this batch."""
        return None if lookup is None else self._documents.get(lookup)

    def owner(self, reference_id: int) -> str | None:
        """The document that a reference belongs to; `None` once it is erased."""
        return self._owners.get(reference_id)

    def is_number_in_use(self, msisdn_lookup: bytes) -> bool:
        return msisdn_lookup in self._numbers

    def open_lines(self, document_id: str, carrier: str) -> int:
        return self._open_lines.get((document_id, carrier), 0)

    def references_of(self, document: DocumentRecord) -> NDArray[np.float32]:
        """The vectors of a document's references: float32[n, d]."""
        fresh = [item for item in self.fresh if item.document_id == document.id]
        fresh_ids = {item.reference_id for item in fresh}
        stored = [key for key in document.reference_ids if key not in fresh_ids]
        rows = self._gallery.vectors(np.asarray(stored, dtype=np.int64))
        return np.concatenate([rows, *(item.vector[None] for item in fresh)])

    def add_document(self, lookup: bytes, record: DocumentRecord) -> None:
        self._documents[lookup] = record

    def add_reference(self, lookup: bytes, reference: FreshReference) -> None:
        record = self._documents[lookup]
        ids = (*record.reference_ids, reference.reference_id)
        self._documents[lookup] = replace(record, reference_ids=ids)
        self.fresh.append(reference)

    def add_line(self, msisdn_lookup: bytes, document_id: str, carrier: str) -> None:
        self._numbers.add(msisdn_lookup)
        key = (document_id, carrier)
        self._open_lines[key] = self._open_lines.get(key, 0) + 1
