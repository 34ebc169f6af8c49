"""Writes one `Changes` inside the caller's transaction, in bulk and in the order of its keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

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
from engine.registry.cases import erase_crops, write_crops, write_judged, write_sweeps
from engine.registry.records import Changes, DocumentStatus, LineStatus
from engine.registry.rows import (
    RowValues,
    activation_row,
    answer_row,
    change_cases,
    document_row,
    enrollment_row,
    erase_notes,
    line_row,
    reference_rows,
    watched_row,
    write_cases,
    write_notes,
)
from engine.registry.tables import Moment, metadata
from engine.registry.vault import Vault

BULK_ROWS = 5_000
"""From so many documents on, a commit counts as a bulk load."""

_ANALYZE = text('ANALYZE documents, enrollments, "references", lines')
_INSERTS = {table: insert(table) for table in metadata.tables.values()}

_REMOVE_REFERENCE = (
    update(tables.references)
    .where(tables.references.c.id == bindparam("key"))
    .where(tables.references.c.removed_sequence.is_(None))
    .values(template=None, removed_sequence=bindparam("sequence"))
)
_DISPUTE_LINE = (
    update(tables.lines)
    .where(tables.lines.c.id == bindparam("key"))
    .where(tables.lines.c.status == LineStatus.ACTIVE.value)
    .values(status=LineStatus.DISPUTED.value)
)
_RESTORE_LINE = (
    update(tables.lines)
    .where(tables.lines.c.id == bindparam("key"))
    .where(tables.lines.c.status == LineStatus.DISPUTED.value)
    .values(status=LineStatus.ACTIVE.value)
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
    .values(blocked_at=func.coalesce(tables.documents.c.blocked_at, bindparam("at", type_=Moment)))
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
        closed_at=func.coalesce(tables.lines.c.closed_at, bindparam("at", type_=Moment)),
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
        (tables.documents, [document_row(vault, one, at) for one in changes.documents]),
        (tables.enrollments, [enrollment_row(record) for record in changes.enrollments]),
        (tables.references, reference_rows(vault, model_digest, changes.references)),
        (tables.lines, [line_row(vault, line) for line in changes.lines]),
        (tables.watchlist, [watched_row(vault, entry) for entry in changes.watched]),
        (tables.idempotency, [answer_row(answer) for answer in changes.answers]),
    ):
        _insert(connection, table, rows)
    _write_desk(connection, vault, changes)
    for document in changes.activated_documents:
        _change_one(connection, _ACTIVATE_DOCUMENT, activation_row(vault, document))
    for key, sequence in changes.removed_references:
        _change_one(connection, _REMOVE_REFERENCE, {"key": int(key), "sequence": sequence})
    for line_id in changes.disputed_lines:
        _change_one(connection, _DISPUTE_LINE, {"key": line_id})
    for line_id in changes.restored_lines:
        _change_one(connection, _RESTORE_LINE, {"key": line_id})
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


def _write_desk(connection: Connection, vault: Vault, changes: Changes) -> None:
    write_sweeps(connection, changes.sweeps)
    write_cases(connection, changes.cases)
    change_cases(connection, changes.case_changes)
    write_notes(connection, vault, changes.case_notes)
    write_judged(connection, changes.judged)
    write_crops(connection, vault, changes.crops)


def _insert(connection: Connection, table: Table, rows: Sequence[RowValues]) -> None:
    if rows:
        connection.execute(_INSERTS[table], rows)


def _change_one(connection: Connection, statement: Executable, values: RowValues) -> None:
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
    erase_crops(connection, document_id)
    erase_notes(connection, [document_id])
