"""Who holds what, as far as rows of an existing base ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.matching.comparison import score_best
from engine.registry.reader import Reader
from engine.registry.records import DocumentRecord, DocumentStatus
from indexes.gallery import Gallery


@dataclass(slots=True, eq=False)
class Holder:
    """A document on record, or one that a row has brought; `vectors` float32[n, d]."""

    document_id: str
    status: DocumentStatus
    name_lookup: bytes | None
    vectors: NDArray[np.float32] = field(repr=False)

    @property
    def is_bound(self) -> bool:
        """False for a document that is known from attempts alone, none of them approved."""
        return self.status is not DocumentStatus.ATTEMPTED

    def score(self, vector: NDArray[np.float32]) -> float | None:
        """How like its holder a face float32[d] is; None where it has no reference."""
        return score_best(vector, self.vectors)


class Roll:
    """Documents and numbers by their keyed look-ups: those on record, and what rows add to them.

    What was learnt is not read again, so a roll is of one writer's turn; or it `is_rehearsed`,
    beside a writer, and takes a document as free whose reference is newer than the gallery.
    """

    def __init__(self, *, is_rehearsed: bool = False) -> None:
        self._is_rehearsed = is_rehearsed
        self._holders: dict[bytes, Holder | None] = {}
        self._numbers: dict[bytes, str | None] = {}

    def learn(
        self,
        registry: Reader,
        gallery: Gallery,
        documents: Sequence[bytes],
        numbers: Sequence[bytes],
    ) -> None:
        """Reads what is on record under these look-ups."""
        unknown = [key for key in documents if key not in self._holders]
        records = registry.documents(unknown)
        if self._is_rehearsed:
            records = {key: one for key, one in records.items() if _is_shown(one, gallery)}
        held = _read_vectors(gallery, list(records.values()))
        for key in unknown:
            record = records.get(key)
            self._holders[key] = None if record is None else _hold(record, held[record.id])
        unseen = [key for key in numbers if key not in self._numbers]
        lines = registry.lines_in_use(unseen)
        for key in unseen:
            self._numbers[key] = lines[key].document_id if key in lines else None

    def holder(self, lookup: bytes) -> Holder | None:
        return self._holders[lookup]

    def user(self, msisdn_lookup: bytes) -> str | None:
        """The document that a number is in use under; None where it is free."""
        return self._numbers[msisdn_lookup]

    def enter(self, lookup: bytes, holder: Holder) -> None:
        self._holders[lookup] = holder

    def take_number(self, msisdn_lookup: bytes, document_id: str) -> None:
        self._numbers[msisdn_lookup] = document_id


def _is_shown(record: DocumentRecord, gallery: Gallery) -> bool:
    return all(key in gallery for key in record.reference_ids)


def _hold(record: DocumentRecord, vectors: NDArray[np.float32]) -> Holder:
    return Holder(record.id, record.status, record.name_lookup, vectors)


def _read_vectors(
    gallery: Gallery, records: Sequence[DocumentRecord]
) -> dict[str, NDArray[np.float32]]:
    """The references of each document: float32[n, d]."""
    ids = [key for record in records for key in record.reference_ids]
    rows = gallery.vectors(np.array(ids, dtype=np.int64))
    counts = np.cumsum([len(record.reference_ids) for record in records])[:-1]
    parts = np.split(rows, counts) if records else []
    return {record.id: part for record, part in zip(records, parts, strict=True)}
