"""Audited transactions, and the lease of the one process that writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event, Thread

from sqlalchemy import Connection, Engine, bindparam, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from engine.errors import LeaseLost, RegistryError, StorageFailed, WriterBusy, file_errors
from engine.registry import audit
from engine.registry.audit import AuditEntry, AuditRecord
from engine.registry.database import (
    AnyRow,
    changing,
    open_connection,
    prepare,
    reading,
    restructuring,
    sqlite_file,
    storage_errors,
    utc_now,
    write_something,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.vault import Vault, add_seals
from schema import frozen

RENEW_S, LEASE_S = 2.0, 10


def take_lease(engine: Engine) -> FileLease | AdvisoryLease:
    """Takes the lease, or raises `WriterBusy` at once; held until it is closed or its process
    dies."""
    path = sqlite_file(engine)
    if path is not None:
        return FileLease(path.with_name(path.name + ".lease"))
    return AdvisoryLease(engine)


class FileLease:
    """`flock` on a file beside an SQLite database, which stays there when it is released."""

    def __init__(self, path: Path) -> None:
        with file_errors(f"{path} cannot be opened", RegistryError):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._handle, 20, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise WriterBusy(
                f"another process{f' ({holder})' if holder else ''} writes to this registry: "
                "stop it first, or send the request to it"
            ) from None
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, f"pid {os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._handle)


class AdvisoryLease:
    """A session-level advisory lock of PostgreSQL, on a connection of its own.

    A thread asks the server something all the time, and the server ends the session when it was
    asked nothing for `LEASE_S`: so the lock of a dead host is free by then, whatever stands in
    between. A session that was ended is replaced, unless another writer has come meanwhile; the
    epoch fences this one then.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection = self._take()
        self._is_closed = Event()
        self._thread = Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _take(self) -> Connection:
        with storage_errors():
            connection = open_connection(self._engine).execution_options(
                isolation_level="AUTOCOMMIT"
            )
            try:
                if connection.scalar(_TRY_LOCK, _LOCK):
                    connection.execute(_END_WHEN_SILENT, {"longest": f"{LEASE_S}s"})
                    return connection
            except BaseException:
                # Not to be given to anybody else, since it may have the lock.
                connection.invalidate()
                connection.close()
                raise
            connection.close()
        raise WriterBusy(
            "another process writes to this registry: stop it first, or send the request to it"
        )

    def _renew(self) -> None:
        while not self._is_closed.wait(RENEW_S):
            try:
                self._connection.execute(_LOOK)
            except SQLAlchemyError:
                self._connection.close()
                with contextlib.suppress(RegistryError):
                    self._connection = self._take()

    def close(self) -> None:
        self._is_closed.set()
        self._thread.join()
        # The server frees the lock of a session that ends, but some time later: unlocking first
        # lets the next writer in at once. Where the session is lost already, so is the lock.
        with contextlib.suppress(SQLAlchemyError):
            self._connection.execute(_UNLOCK, _LOCK)
            self._connection.invalidate()
        self._connection.close()


_HOLD = select(DEPLOYMENT.c.singleton).with_for_update()
_ADVANCE = (
    update(DEPLOYMENT)
    .where(DEPLOYMENT.c.audit_number == bindparam("known_number"))
    .values(
        audit_number=bindparam("number"),
        chain_head=bindparam("head"),
        audit_mac=bindparam("code"),
        sequence=bindparam("next_sequence"),
    )
)
_ADVANCE_AND_COUNT = _ADVANCE.values(seals=bindparam("counted"))


@frozen
class Fence:
    """A writer's expectation of the deployment's row: its epoch, the gallery's sequence, and at
    least so many audit entries, or an older head was put back."""

    epoch: int
    sequence: int
    audit_number: int = 0


@contextmanager
def recorded(
    engine: Engine | Connection,
    vault: Vault,
    entries: Sequence[AuditEntry],
    fence: Fence | None = None,
) -> Iterator[Connection]:
    """`chained`, now and without the place in the chain."""
    with chained(engine, vault, entries, utc_now(), fence=fence) as (connection, _):
        yield connection


@contextmanager
def chained(
    engine: Engine | Connection,
    vault: Vault,
    entries: Sequence[AuditEntry],
    at: datetime,
    *,
    fence: Fence | None = None,
    sequence: int | None = None,
    trusts_head: bool = False,
) -> Iterator[tuple[Connection, AuditRecord]]:
    """A write transaction that is audited and, with a fence, refused to a deposed writer.

    Yields the connection and the last audit entry as it will be chained. Changes, audit entries
    and the new sequence are stored together or not at all. `LeaseLost`: a newer writer has taken
    over, or the connection broke during the commit and the outcome could not be read.
    `ChainBroken`: somebody else has changed where the chain ends. `SchemaMismatch`: the registry
    was upgraded since it was opened. With `trusts_head` the chain goes on where its entries end,
    and the head is authenticated for the first time, or anew.
    """
    assert entries, "nothing changes without an audit entry"
    records: list[AuditRecord] = []
    ready, sealed = False, 0
    try:
        with changing(engine) as connection:
            # Locks the row first: PostgreSQL by FOR UPDATE, SQLite by BEGIN IMMEDIATE.
            if connection.dialect.name != "sqlite":
                connection.execute(_HOLD)
            head = audit.read_head(connection)
            if not trusts_head:
                audit.require_head(vault, head, 0 if fence is None else fence.audit_number)
            if fence and (head.writer_epoch, head.sequence) != (fence.epoch, fence.sequence):
                raise LeaseLost(_TAKEN_OVER)
            end = head.audit_number, head.chain_head
            if trusts_head:
                end = audit.find_end(connection, head)
            records = audit.extend(vault, *end, at, entries)
            yield connection, records[-1]
            audit.append(connection, records)
            # What was sealed for it, or outside any transaction before.
            sealed = vault.seals.take()
            _advance(connection, vault, head, records[-1], sequence, sealed)
            ready = True
    except BaseException as failure:
        is_kept = isinstance(failure, StorageFailed) and ready
        if not is_kept or not _was_kept(engine.engine, records[-1]):
            vault.seals.add(sealed)
            raise


_TAKEN_OVER = "another writer has taken over this registry: restart to read its state"


def _advance(
    connection: Connection,
    vault: Vault,
    head: AnyRow,
    last: AuditRecord,
    sequence: int | None,
    sealed: int,
) -> None:
    following = head.sequence if sequence is None else sequence
    values = {
        "known_number": head.audit_number,
        "number": last.number,
        "head": last.hash,
        "code": audit.authenticate_head(vault, last.number, last.hash, following),
        "next_sequence": following,
    }
    statement = _ADVANCE
    if sealed:
        statement = _ADVANCE_AND_COUNT
        values["counted"] = add_seals(head.seals, vault.active_data_version, sealed)
    if prepare(statement, connection, values).change(connection, [values]) != 1:
        raise LeaseLost(_TAKEN_OVER)


def _was_kept(engine: Engine, last: AuditRecord) -> bool:
    # A commit can fail after it took effect; its last audit hash tells, since no other has it.
    try:
        with restructuring(engine) if sqlite_file(engine) else reading(engine) as connection:
            # The server may be committing still, for a client that is gone: its transaction
            # holds this row until it ends.
            connection.execute(_HOLD)
            is_kept = audit.hash_at(connection, last.number) == last.hash
            if is_kept and connection.dialect.name == "sqlite":
                write_something(connection)
        return is_kept
    except StorageFailed:
        raise LeaseLost(
            "the database went away while a transaction was being committed: "
            "restart to read what was kept"
        ) from None


# Advisory locks live in one database, so a constant names the lease of its only registry.
_LOCK = {"key": 0x736F736965}
_TRY_LOCK, _UNLOCK = (
    text(f"SELECT {function}(:key)") for function in ("pg_try_advisory_lock", "pg_advisory_unlock")
)
# Of no effect before PostgreSQL 14, which has no such setting.
_END_WHEN_SILENT = text(
    "SELECT set_config(name, :longest, false) FROM pg_settings WHERE name = 'idle_session_timeout'"
)
_LOOK = text("SELECT 1")
