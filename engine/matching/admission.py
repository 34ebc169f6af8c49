"""Bulk admission: references that come from elsewhere, without a decision on any of them.

`admit_planned` is for a register of subscribers, `admit_references` for synthetic people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import RequestError
from engine.matching.documents import (
    CheckedDocument,
    Document,
    FormAuthority,
    check_documents,
    require_checkable,
)
from engine.matching.intake import document_look_up, name_look_up
from engine.matching.publication import publish
from engine.matching.subscribers import AdmissionPlan
from engine.registry.records import AuditEntry, Changes, NewDocument, NewReference, new_id
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from indexes.gallery import Gallery
from indexes.validation import check_vectors

CHUNK_SIZE = 10_000
ADMITTED = "subscribers.admitted"
"""The action of the audit entry that each chunk of an import leaves."""


def admit_references(
    writer: Writer,
    gallery: Gallery,
    documents: Sequence[Document],
    vectors: NDArray[np.float32],
    *,
    actor: str,
    on: date,
    chunk_size: int = CHUNK_SIZE,
    report: Callable[[int, int], None] | None = None,
) -> int:
    """Enters each document with its reference, a rotated unit row of float32[n, d].

    Nobody is compared with anybody, no line is opened; every chunk is one durable transaction
    with an audit entry, visible to searches before the next. Returns how many were admitted;
    `report(done, total)` follows each chunk. Raises `RequestError` or `VectorInvalid` before the
    first chunk, and `StorageFailed`, with the chunks before it kept, where a document is known
    already. With a running registrar, pass it to `Registrar.run`.
    """
    assert len(documents) == len(vectors), "one reference for each document"
    rows = check_vectors(vectors, gallery.dim)
    checked = _check(documents, on)
    for start in range(0, len(documents), chunk_size):
        part = slice(start, start + chunk_size)
        _admit_chunk(writer, gallery, documents[part], checked[part], rows[part], actor)
        if report is not None:
            report(min(start + chunk_size, len(documents)), len(documents))
    return len(documents)


def admit_planned(
    writer: Writer,
    gallery: Gallery,
    plan: AdmissionPlan,
    *,
    actor: str,
    subject: str,
    detail: Mapping[str, Any],
) -> None:
    """Makes a plan durable and visible, in one transaction with its audit entry.

    To be called in the writer's turn in which it was made. Raises what `publish` does.
    """
    ids = [writer.next_reference_id() for _ in plan.referenced]
    sequence = writer.sequence + bool(ids)
    counts = {"references": len(ids), "lines": len(plan.lines), "gallery_sequence": sequence}
    # No consent reference: what the chain has once, no erasure takes out.
    audit = [AuditEntry(actor, ADMITTED, subject, {**detail, **counts})]
    references = [
        NewReference(
            id=key, document_id=document_id, enrollment_id=None, template=vector, sequence=sequence
        )
        for key, document_id, vector in zip(ids, plan.referenced, plan.vectors, strict=True)
    ]
    changes = Changes(
        sequence=sequence,
        audit=audit,
        documents=plan.documents,
        activated_documents=plan.activated,
        references=references,
        lines=plan.lines,
    )
    publish(writer, gallery, changes, plan.vectors)


def _check(documents: Sequence[Document], on: date) -> list[CheckedDocument]:
    """The documents in canonical form; an expired one may be held, a malformed one may not."""
    for document in documents:
        require_checkable(document)
    checked = check_documents(documents, FormAuthority(), on)
    malformed = [place for place, item in enumerate(checked) if not item.is_well_formed]
    if malformed:
        raise RequestError(
            f"{len(malformed)} document numbers are not well-formed, the first in row "
            f"{malformed[0]}: mend them, then admit again"
        )
    if len({(item.type, item.number) for item in checked}) != len(checked):
        raise RequestError("a document is given twice: one document holds one reference")
    return checked


def _admit_chunk(
    writer: Writer,
    gallery: Gallery,
    documents: Sequence[Document],
    checked: Sequence[CheckedDocument],
    vectors: NDArray[np.float32],
    actor: str,
) -> None:
    sequence = writer.sequence + 1
    rows = [
        _enter_document(writer.vault, given, item)
        for given, item in zip(documents, checked, strict=True)
    ]
    ids = [writer.next_reference_id() for _ in rows]
    references = [
        NewReference(
            id=key, document_id=row.id, enrollment_id=None, template=vector, sequence=sequence
        )
        for key, row, vector in zip(ids, rows, vectors, strict=True)
    ]
    detail = {"references": len(ids), "last": ids[-1], "gallery_sequence": sequence}
    entry = AuditEntry(actor, "references.admitted", str(ids[0]), detail)
    changes = Changes(sequence=sequence, audit=(entry,), documents=rows, references=references)
    publish(writer, gallery, changes, vectors)


def _enter_document(vault: Vault, given: Document, checked: CheckedDocument) -> NewDocument:
    lookup = document_look_up(vault, checked)
    return NewDocument(
        id=new_id(),
        kind=checked.type,
        lookup=lookup,
        name_lookup=name_look_up(vault, lookup, checked.name),
        number=checked.number,
        name=given.name,
        expires_on=checked.expires_on,
    )
