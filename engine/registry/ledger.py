"""The one row that every change goes through: fence, gallery sequence and head of the audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

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
    .where(_deployment.c.sequence == bindparam("known_sequence"))
    .where(_deployment.c.audit_number == bindparam("known_number"))
    .values(
        audit_number=bindparam("number"),
        audit_head=bindparam("head"),
        sequence=bindparam("next_sequence"),
    )
)


@dataclass(frozen=True, slots=True)
class Fence:
    """What a writer takes the deployment's row to say: its epoch, and the gallery's sequence."""

    epoch: int
    sequence: int


@contextmanager
def recorded(
    engine: Engine,
    vault: Vault,
    entries: Sequence[AuditEntry],
    at: datetime,
    *,
    fence: Fence | None = None,
    sequence: int | None = None,
) -> Iterator[Connection]:
    """`chained`, for who does not ask where in the chain it stands."""
    with chained(engine, vault, entries, at, fence=fence, sequence=sequence) as (connection, _):
        yield connection


@contextmanager
def chained(
    engine: Engine,
    vault: Vault,
    entries: Sequence[AuditEntry],
    at: datetime,
    *,
    fence: Fence | None = None,
    sequence: int | None = None,
) -> Iterator[tuple[Connection, AuditRecord]]:
    """A write transaction that is audited and, with a fence, refused to whoever is behind.

    The block is given the last of its entries, as the chain will have it. Its changes, its audit
    entries and the new sequence are kept together or not at all. `LeaseLost`: the row says
    otherwise than the fence, since a newer writer has taken over, or the connection broke while
    the transaction was being committed and the database could not be asked whether it was.
    """
    assert entries, "nothing changes without an audit entry"
    records: list[AuditRecord] = []
    ready = False
    try:
        with changing(engine) as connection:
            # Locks the row first: PostgreSQL by FOR UPDATE, SQLite by BEGIN IMMEDIATE.
            head = connection.execute(_HEAD).one()
            records = audit.extend(vault, head.audit_number, head.audit_head, at, entries)
            _advance(
                connection,
                fence or Fence(head.writer_epoch, head.sequence),
                head.audit_number,
                records[-1],
                sequence,
            )
            yield connection, records[-1]
            audit.append(connection, records)
            ready = True
    except StorageFailed:
        if not ready or not _was_kept(engine, records[-1]):
            raise


def _advance(
    connection: Connection, fence: Fence, number: int, last: AuditRecord, sequence: int | None
) -> None:
    result = connection.execute(
        _ADVANCE,
        {
            "epoch": fence.epoch,
            "known_sequence": fence.sequence,
            "known_number": number,
            "number": last.number,
            "head": last.hash,
            "next_sequence": fence.sequence if sequence is None else sequence,
        },
    )
    if result.rowcount != 1:
        raise LeaseLost("another writer has taken over this registry: restart to read its state")


def _was_kept(engine: Engine, last: AuditRecord) -> bool:
    # A commit can fail after it took effect; its last audit hash tells, since no other has it.
    try:
        with reading(engine, locking=True) as connection:
            # The server may be committing still, for a client that is gone: its transaction
            # holds this row until it ends.
            connection.execute(_HEAD)
            return audit.hash_at(connection, last.number) == last.hash
    except StorageFailed:
        raise LeaseLost(
            "the database went away while a transaction was being committed: "
            "restart to read what was kept"
        ) from None
