"""Where consent is on file: kept with the document, sealed, and gone with it."""

from datetime import date
from typing import Any

import pytest
from sqlalchemy import select

from engine.errors import NotFound
from engine.matching.documents import check_documents
from engine.matching.holders import erase_holder, find_document
from engine.matching.requests import document_look_up
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.documents import DocumentRecord, Identity
from engine.registry.store import every_table
from schema.documents import Document, DocumentStatus
from tests.tables import tables

TODAY = date(2026, 11, 25)
CONSENT = "C-2020-17"


def document_of(row: dict[str, str]) -> Document:
    return Document(row["document_type"], row["document_number"], row["name"])


def consent_of(importer: Any, row: dict[str, str]) -> str | None:
    found = find_document(importer.store, document_of(row), TODAY)
    consent: str | None = importer.store.identity(found.id).consent_ref
    return consent


def stored(importer: Any) -> str:
    """All that lies in the database, in one text."""
    parts = every_table()
    return repr([importer.store.rows(select(table)) for table in parts])


def test_it_is_kept_with_the_document_and_lies_open_nowhere(importer: Any, base: Any) -> None:
    rows = [base.add(1, consent_ref=CONSENT), base.add(2, consent_ref="")]
    # Of a document that is there already only a line is new.
    base.add(1, consent_ref="C-2024-99", msisdn="+8613800000099")
    path = base.write()
    importer.run(path)
    assert [consent_of(importer, row) for row in rows] == [CONSENT, None]
    assert CONSENT not in stored(importer)
    assert CONSENT not in importer.report(path).read_text() + importer.journal(path).read_text()


def test_an_erasure_leaves_nothing_of_it(importer: Any, base: Any) -> None:
    row = base.add(1, consent_ref=CONSENT)
    importer.run(base.write())
    record = find_document(importer.store, document_of(row), TODAY)
    with importer.registrar() as registrar:
        erase_holder(registrar, importer.store, record.id, "test")
    with pytest.raises(NotFound):
        importer.store.identity(record.id)
    (left,) = importer.store.rows(
        select(tables.documents).where(tables.documents.c.id == record.id)
    )
    assert left.identity is None
    assert CONSENT not in stored(importer)


def test_it_is_kept_of_a_document_that_was_known_from_attempts(importer: Any, base: Any) -> None:
    row = base.add(1, consent_ref=CONSENT)
    (checked,) = check_documents([document_of(row)], TODAY)
    attempted = DocumentRecord(
        id=new_id(),
        kind=checked.type,
        lookup=document_look_up(importer.vault, checked),
        name_lookup=bytes(32),
        status=DocumentStatus.ATTEMPTED,
        identity=Identity(checked.number, "Another Name"),
    )
    with importer.store.writer() as writer:
        entry = AuditEntry("test", "test.done", "x")
        writer.commit([entry, attempted])
    importer.run(base.write())
    assert consent_of(importer, row) == CONSENT
    assert importer.store.identity(attempted.id).name == row["name"]
