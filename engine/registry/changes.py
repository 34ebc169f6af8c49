"""Writes one `Changes` inside the caller's transaction, in bulk and in the order of its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import (
    Connection,
    Executable,
    Table,
    bindparam,
    case,
    func,
    insert,
    select,
    text,
    update,
)

from engine.errors import StorageFailed
from engine.registry import tables
from engine.registry.records import (
    CaseRecord,
    Changes,
    DocumentStatus,
    EnrollmentRecord,
    LineStatus,
    NewDocument,
    NewLine,
    NewReference,
    StoredAnswer,
    WatchEntry,
)
from engine.registry.vault import WATCHED_TEMPLATE, Vault

BULK_ROWS = 5_000
"""From so many documents on, a commit counts as a bulk load."""

_Row = Mapping[str, Any]

_ANALYZE = text('ANALYZE documents, enrollments, "references", lines')
_INSERTS = {table: insert(table) for table in tables.metadata.tables.values()}

_REMOVE_REFERENCE = (
    update(tables.references)
    .where(tables.references.c.id == bindparam("key"))
    .where(tables.references.c.removed_sequence.is_(None))
    .values(template=None, removed_sequence=bindparam("sequence"))
)
_CLOSE_LINE = (
    update(tables.lines)
    .where(tables.lines.c.id == bindparam("key"))
    .where(tables.lines.c.status != LineStatus.CLOSED.value)
    .values(status=LineStatus.CLOSED.value, closed_at=bindparam("at"))
)
_BLOCK_DOCUMENT = (
    update(tables.documents)
    .where(tables.documents.c.id == bindparam("key"))
    .where(tables.documents.c.lookup.is_not(None))
    .values(
        blocked_at=func.coalesce(
            tables.documents.c.blocked_at, bindparam("at", type_=tables.Moment)
        )
    )
)
_UNBLOCK_DOCUMENT = (
    update(tables.documents)
    .where(tables.documents.c.id == bindparam("key"))
    .where(tables.documents.c.blocked_at.is_not(None))
    .values(
        blocked_at=None,
        # The block was all that an erased document's look-up was kept for.
        lookup=case(
            (tables.documents.c.status == DocumentStatus.ERASED.value, None),
            else_=tables.documents.c.lookup,
        ),
    )
)
_ACTIVATE_DOCUMENT = (
    update(tables.documents)
    .where(tables.documents.c.id == bindparam("key"))
    .where(tables.documents.c.status == DocumentStatus.ATTEMPTED.value)
    .where(tables.documents.c.blocked_at.is_(None))
    .values(
        status=DocumentStatus.ACTIVE.value,
        name_lookup=bindparam("name"),
        identity=bindparam("sealed"),
        expires_on=bindparam("expiry"),
    )
)
_ERASE_DOCUMENT = (
    update(tables.documents)
    .where(tables.documents.c.id == bindparam("key"))
    .where(tables.documents.c.status != DocumentStatus.ERASED.value)
    .values(
        status=DocumentStatus.ERASED.value,
        # Or erasure would lift a block: the same document could be enrolled anew.
        lookup=case(
            (tables.documents.c.blocked_at.is_not(None), tables.documents.c.lookup), else_=None
        ),
        name_lookup=None,
        identity=None,
        expires_on=None,
        erased_at=bindparam("at"),
    )
)
_ERASE_LINES = (
    update(tables.lines)
    .where(tables.lines.c.document_id == bindparam("key"))
    .values(
        status=LineStatus.CLOSED.value,
        msisdn=None,
        msisdn_lookup=None,
        closed_at=func.coalesce(tables.lines.c.closed_at, bindparam("at", type_=tables.Moment)),
    )
)
_LIVE_REFERENCES_OF = (
    select(func.count())
    .select_from(tables.references)
    .where(tables.references.c.document_id == bindparam("key"))
    .where(tables.references.c.removed_sequence.is_(None))
)
_UNWATCH = (
    update(tables.watchlist)
    .where(tables.watchlist.c.id == bindparam("key"))
    .where(tables.watchlist.c.removed_at.is_(None))
    .values(template=None, document_lookup=None, removed_at=bindparam("at"))
)


def apply(
    connection: Connection, vault: Vault, model_digest: str, changes: Changes, at: datetime
) -> None:
    """Inserts, then removes; a change of a row that is not there undoes the transaction."""
    for table, rows in (
        (tables.documents, _documents(vault, changes.documents, at)),
        (tables.enrollments, [_enrollment(record) for record in changes.enrollments]),
        (tables.references, _references(vault, model_digest, changes.references)),
        (tables.lines, [_line(vault, line) for line in changes.lines]),
        (tables.cases, [_case(record) for record in changes.cases]),
        (tables.watchlist, [_watched(vault, entry) for entry in changes.watched]),
        (tables.idempotency, [_answer(answer) for answer in changes.answers]),
    ):
        _insert(connection, table, rows)
    for document in changes.activated_documents:
        _change_one(connection, _ACTIVATE_DOCUMENT, _activation(vault, document))
    for key, sequence in changes.removed_references:
        _change_one(connection, _REMOVE_REFERENCE, {"key": int(key), "sequence": sequence})
    for line_id in changes.closed_lines:
        _change_one(connection, _CLOSE_LINE, {"key": line_id, "at": at})
    for document_id in changes.blocked_documents:
        _change_one(connection, _BLOCK_DOCUMENT, {"key": document_id, "at": at})
    for document_id in changes.unblocked_documents:
        _change_one(connection, _UNBLOCK_DOCUMENT, {"key": document_id})
    for document_id in changes.erased_documents:
        _erase(connection, document_id, at)
    for key in changes.unwatched:
        _change_one(connection, _UNWATCH, {"key": int(key), "at": at})
    if connection.dialect.name == "postgresql" and len(changes.documents) >= BULK_ROWS:
        # Until its own statistics follow, PostgreSQL would scan a table that was just filled.
        connection.execute(_ANALYZE)


def _insert(connection: Connection, table: Table, rows: Sequence[_Row]) -> None:
    if rows:
        connection.execute(_INSERTS[table], rows)


def _change_one(connection: Connection, statement: Executable, values: _Row) -> None:
    if connection.execute(statement, values).rowcount != 1:
        raise StorageFailed(
            "a row to be changed is not there or was changed before; nothing was kept: "
            "read it again"
        )


def _erase(connection: Connection, document_id: str, at: datetime) -> None:
    live = connection.scalar(_LIVE_REFERENCES_OF, {"key": document_id})
    assert live == 0, "an erased document's references are removed in the same changes"
    _change_one(connection, _ERASE_DOCUMENT, {"key": document_id, "at": at})
    connection.execute(_ERASE_LINES, {"key": document_id, "at": at})


def _documents(vault: Vault, documents: Sequence[NewDocument], at: datetime) -> list[_Row]:
    return [
        {
            "id": document.id,
            "kind": document.kind,
            "lookup": document.lookup,
            "name_lookup": document.name_lookup,
            "identity": _seal_identity(vault, document),
            "expires_on": document.expires_on,
            "status": document.status.value,
            "created_at": at,
        }
        for document in documents
    ]


def _activation(vault: Vault, document: NewDocument) -> _Row:
    return {
        "key": document.id,
        "name": document.name_lookup,
        "sealed": _seal_identity(vault, document),
        "expiry": document.expires_on,
    }


def _seal_identity(vault: Vault, document: NewDocument) -> bytes:
    identity = json.dumps([document.number, document.name], ensure_ascii=False)
    return vault.seal("documents.identity", document.id, identity.encode())


def _enrollment(record: EnrollmentRecord) -> _Row:
    return {
        "id": record.id,
        "sequence": record.sequence,
        "carrier": record.carrier,
        "outlet": record.outlet,
        "document_id": record.document_id,
        "decision": str(record.decision),
        "reasons": [str(reason) for reason in record.reasons],
        "evidence": dict(record.evidence),
        "consent_ref": record.consent_ref,
        "captured_at": record.captured_at,
        "created_at": record.created_at,
    }


def _references(vault: Vault, model_digest: str, references: Sequence[NewReference]) -> list[_Row]:
    if not references:
        return []
    ids = [int(reference.id) for reference in references]
    sealed = vault.seal_templates(ids, np.stack([row.template for row in references]))
    rotation_id = vault.rotation_id
    return [
        {
            "id": key,
            "document_id": reference.document_id,
            "enrollment_id": reference.enrollment_id,
            "template": template,
            "model_digest": model_digest,
            "rotation_id": rotation_id,
            "added_sequence": reference.sequence,
        }
        for key, reference, template in zip(ids, references, sealed, strict=True)
    ]


def _line(vault: Vault, line: NewLine) -> _Row:
    return {
        "id": line.id,
        "msisdn_lookup": line.msisdn_lookup,
        "msisdn": vault.seal("lines.msisdn", line.id, line.msisdn.encode()),
        "document_id": line.document_id,
        "carrier": line.carrier,
        "outlet": line.outlet,
        "enrollment_id": line.enrollment_id,
        "status": LineStatus.ACTIVE.value,
        "opened_at": line.opened_at,
    }


def _case(record: CaseRecord) -> _Row:
    return {
        "id": record.id,
        "kind": record.kind,
        "state": record.state.value,
        "enrollment_id": record.enrollment_id,
        "document_ids": list(record.document_ids),
        "score": record.score,
        "opened_at": record.opened_at,
    }


def _watched(vault: Vault, entry: WatchEntry) -> _Row:
    template = None
    if entry.template is not None:
        template = vault.seal_templates([entry.id], entry.template[None], WATCHED_TEMPLATE)[0]
    return {
        "id": entry.id,
        "document_lookup": entry.document_lookup,
        "template": template,
        "reason": entry.reason,
        "added_at": entry.added_at,
    }


def _answer(answer: StoredAnswer) -> _Row:
    return {
        "scope": answer.scope,
        "payload_digest": answer.payload_digest,
        "enrollment_id": answer.enrollment_id,
        "response": dict(answer.response),
        "created_at": answer.created_at,
    }
