"""What a sweep asks of many references at once: whose they are, and what stands under those."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, func, select, tuple_

from engine.cases.case import CaseKind
from engine.registry import tables
from engine.registry.database import KEYS, Source
from engine.registry.records import ALIVE
from engine.registry.tables import case_documents, cases
from engine.sweeps.sweep_model import Identity, LineFact

OWNERS_PER_PAGE = 50_000
_ID_BYTES = 36

_references, _lines = tables.references, tables.lines
_IS_LIVE = _references.c.removed_sequence.is_(None)
_DOCUMENTS_OF = select(_references.c.id, _references.c.document_id).where(
    _references.c.id.in_(KEYS), _IS_LIVE
)
_LINES_OF = (
    select(
        _lines.c.document_id,
        _lines.c.id,
        _lines.c.carrier,
        _lines.c.outlet,
        _lines.c.opened_at,
        _lines.c.status,
    )
    .where(_lines.c.document_id.in_(KEYS))
    .order_by(_lines.c.opened_at, _lines.c.id)
)
_IS_OPEN_DISPUTE = (
    select(cases.c.kind == CaseKind.DISPUTE.value)
    .where(
        cases.c.id == case_documents.c.case_id,
        cases.c.state.in_(sorted(state.value for state in ALIVE)),
    )
    .scalar_subquery()
)
# A subquery and no join: SQLite would go through every open case first.
_DISPUTES_OF = (
    select(case_documents.c.document_id, func.count().label("disputes"))
    .where(case_documents.c.document_id.in_(KEYS), _IS_OPEN_DISPUTE)
    .group_by(case_documents.c.document_id)
)
# In the order of an index that has both columns: the rows themselves, which are ten times as
# long for their templates, are not read.
_OWNERS = (
    select(_references.c.document_id, _references.c.id)
    .where(
        tuple_(_references.c.document_id, _references.c.id)
        > tuple_(bindparam("document"), bindparam("id"))
    )
    .order_by(_references.c.document_id, _references.c.id)
    .limit(bindparam("page"))
)
_REMOVED = select(_references.c.id).where(_references.c.removed_sequence.is_not(None))


class FactReader(Source):
    """Facts about references, for ranking and grouping."""

    def identities_of(self, reference_ids: Sequence[int]) -> list[Identity]:
        """The documents of these references, each once, in the order of their first reference.

        A reference that is gone has none. Each brings the references that were asked for, every
        line, closed ones too, and the number of its open disputes.
        """
        references: dict[str, list[int]] = defaultdict(list)
        for row in self._rows_of(_DOCUMENTS_OF, sorted({int(key) for key in reference_ids})):
            references[row.document_id].append(row.id)
        ordered = {key: sorted(ids) for key, ids in references.items()}
        documents = sorted(ordered, key=lambda key: ordered[key][0])
        lines: dict[str, list[LineFact]] = defaultdict(list)
        for row in self._rows_of(_LINES_OF, documents):
            lines[row.document_id].append(
                LineFact(row.id, row.carrier, row.outlet, row.opened_at, row.status)
            )
        disputes = {row.document_id: row.disputes for row in self._rows_of(_DISPUTES_OF, documents)}
        return [
            Identity(key, tuple(ordered[key]), tuple(lines[key]), disputes.get(key, 0))
            for key in documents
        ]

    def document_owner_array(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of every live reference: ids int64[n], ascending, and a number of its document int64[n].

        The numbers say no more than which references are of one document. Read in pages, each a
        short transaction: what is added or removed meanwhile may be in it or not.
        """
        pages = list(self._owner_pages())
        removed = np.array([row.id for row in self.rows(_REMOVED)], np.int64)
        if not pages:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ids = np.concatenate([ids for ids, _ in pages])
        # Every page begins with a number of its own, unless it goes on with a document.
        numbers = np.cumsum(np.concatenate([is_other for _, is_other in pages]), dtype=np.int64)
        order = np.argsort(ids)
        order = order[~np.isin(ids[order], removed)]
        return ids[order], numbers[order]

    def _owner_pages(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """References by document, and whether each is of another document than the one before."""
        asked = {"document": "", "id": -1, "page": OWNERS_PER_PAGE}
        while True:
            rows = self.rows(_OWNERS, **asked)
            if not rows:
                return
            documents, ids = zip(*rows, strict=True)
            names = np.array((asked["document"], *documents), f"S{_ID_BYTES}")
            yield np.array(ids, np.int64), names[1:] != names[:-1]
            asked |= {"document": documents[-1], "id": ids[-1]}
