"""A registry and its gallery, filled with synthetic people and documents."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.documents import DocumentRecord
from engine.registry.lines import LineRecord
from engine.registry.references import NewReference, RemovedReference
from engine.registry.store import Store
from engine.registry.writer import Writer, publish
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from schema.cases import CaseKind, CaseOrigin, CaseState, Outcome
from tests.engine.records import make_case, make_document, make_line, make_pair

Rows = NDArray[np.float32]
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
OUTLETS = (("red", "r1"), ("red", "r2"), ("blue", "b1"))
THRESHOLD = 0.8


def faces(people: int, dim: int, seed: int = 0) -> Rows:
    """Unit vectors of strangers: in 32 dimensions two of hundreds rarely score 0.8."""
    rows = np.random.default_rng(seed).standard_normal((people, dim))
    return unit(rows)


def other_photographs(rows: Rows, seed: int, noise: float = 0.25) -> Rows:
    """Another photograph of each, which scores about 0.94 with the first at a noise of 0.25."""
    blur = np.random.default_rng(seed).standard_normal(rows.shape)
    return unit(rows + noise * unit(blur))


def unit(rows: NDArray[np.floating]) -> Rows:
    units: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return units


@dataclass
class SyntheticRegistry:
    """`documents` by reference id; each has a line, opened an hour after the one before."""

    store: Store
    writer: Writer
    gallery: Gallery
    documents: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, writer: Writer) -> Self:
        config = SegmentsConfig(head_rows=64, fan=3)
        return cls(store, writer, Gallery(SegmentedIndex(store.vault.dim, config)))

    def enroll(self, rows: Rows) -> list[str]:
        """Enrolls each face under a new document; returns the documents."""
        new = [self._document() for _ in rows]
        moments = [NOW + timedelta(hours=len(self.documents) + i) for i in range(len(new))]
        lines = [
            self._line(one.id, at, i) for i, (one, at) in enumerate(zip(new, moments, strict=True))
        ]
        self._add(rows, [one.id for one in new], new, lines)
        return [one.id for one in new]

    def add_references(self, documents: Sequence[str], rows: Rows) -> None:
        """Adds another reference to each document."""
        self._add(rows, documents, [], [])

    def erase(self, reference_ids: Sequence[int]) -> None:
        sequence = self.writer.sequence + 1
        changes = [
            AuditEntry("test", "references.removed", "test"),
            *(RemovedReference(key, sequence) for key in reference_ids),
        ]
        publish(self.writer, self.gallery, changes)

    def judge(self, left: str, right: str, outcome: Outcome) -> None:
        case = make_case(
            kind=CaseKind.ONE_FACE,
            origin=CaseOrigin.SWEEP,
            state=CaseState.CLOSED,
            document_ids=(left, right),
            outcome=outcome,
        )
        pair = make_pair(left, right, outcome=outcome, case_id=case.id)
        entry = AuditEntry("test", "pair.judged", left)
        self.writer.commit([entry, case, pair])

    def reference_of(self, document_id: str) -> int:
        return next(key for key, owner in self.documents.items() if owner == document_id)

    def _add(
        self,
        rows: Rows,
        owners: Sequence[str],
        documents: Sequence[DocumentRecord],
        lines: Sequence[LineRecord],
    ) -> None:
        sequence = self.writer.sequence + 1
        templates = self.writer.vault.rotate(rows)
        ids = [self.writer.next_reference_id() for _ in rows]
        references = [
            NewReference(
                id=key, document_id=owner, enrollment_id=None, template=template, sequence=sequence
            )
            for key, owner, template in zip(ids, owners, templates, strict=True)
        ]
        changes = [
            AuditEntry("test", "references.admitted", "test"),
            *documents,
            *references,
            *lines,
        ]
        publish(self.writer, self.gallery, changes)
        self.documents.update(zip(ids, owners, strict=True))

    def _document(self) -> DocumentRecord:
        key = new_id()
        return make_document(self.writer.vault, key, id=key)

    def _line(self, document_id: str, at: datetime, place: int) -> LineRecord:
        carrier, outlet = OUTLETS[place % len(OUTLETS)]
        at_outlet = {"carrier": carrier, "outlet": outlet, "opened_at": at}
        return make_line(self.writer.vault, new_id(), document_id, **at_outlet)
