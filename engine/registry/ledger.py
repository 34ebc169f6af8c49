"""The one row that every change goes through: fence, gallery sequence and head of the audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select, update

from engine.errors import LeaseLost, StorageFailed
from engine.registry import audit, tables
from engine.registry.database import changing, reading
from engine.registry.records import AuditEntry, AuditRecord
from engine.registry.vault import Vault

_deployment = tables.deployment
_HEAD = select(_deployment).with_for_update()
_ADVANCE = (
    update(_deployment)
    .where(_deployment.c.writer_epoch == bindparam("epoch"))
    .values(audit_number=bindparam("number"), audit_head=bindparam("head"))
)
_ADVANCE_GALLERY = _ADVANCE.values(sequence=bindparam("gallery_sequence"))
_HASH = select(tables.audit.c.hash).where(tables.audit.c.number == bindparam("number"))


@contextmanager
def recorded(
    engine: Engine,
    vault: Vault,
    entries: Sequence[AuditEntry],
    at: datetime,
    *,
    epoch: int | None = None,
    sequence: int | None = None,
) -> Iterator[Connection]:
    """A write transaction that is audited and, with an epoch, fenced against a newer writer.

    The block's changes, its audit entries and the new sequence are kept together or not at all.
    `LeaseLost`: a newer writer has taken over, or the connection broke while the transaction was
    being committed and the database could not be asked whether it was.
    """
    assert entries, "nothing changes without an audit entry"
    chained: list[AuditRecord] = []
    ready = False
    try:
        with changing(engine) as connection:
            # Locks the row first: PostgreSQL by FOR UPDATE, SQLite by BEGIN IMMEDIATE.
            head = connection.execute(_HEAD).one()
            chained = audit.extend(vault, head.audit_number, head.audit_head, at, entries)
            _advance(
                connection, chained[-1], head.writer_epoch if epoch is None else epoch, sequence
            )
            yield connection
            audit.append(connection, chained)
            ready = True
    except StorageFailed:
        if not ready or not _was_kept(engine, chained[-1]):
            raise


def _advance(connection: Connection, last: AuditRecord, epoch: int, sequence: int | None) -> None:
    values: dict[str, Any] = {"epoch": epoch, "number": last.number, "head": last.hash}
    if sequence is None:
        result = connection.execute(_ADVANCE, values)
    else:
        result = connection.execute(_ADVANCE_GALLERY, values | {"gallery_sequence": sequence})
    if result.rowcount != 1:
        raise LeaseLost("another writer has taken over this registry: restart to read its state")


def _was_kept(engine: Engine, last: AuditRecord) -> bool:
    # A commit can fail after it took effect; its last audit hash tells, since no other has it.
    try:
        with reading(engine) as connection:
            found: bytes | None = connection.scalar(_HASH, {"number": last.number})
    except StorageFailed:
        raise LeaseLost(
            "the database went away while a transaction was being committed: "
            "restart to read what was kept"
        ) from None
    return found == last.hash
