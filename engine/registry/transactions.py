"""Audited transactions, what changes rows in them, and the lease of the one process that writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from operator import attrgetter
from pathlib import Path
from threading import Event, Thread
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from engine.errors import LeaseLost, RegistryError, StorageFailed, WriterBusy
from engine.registry import audit
from engine.registry.audit import AuditEntry, AuditRecord
from engine.registry.database import (
    KEYS,
    change_one,
    changing,
    chunks,
    insert_rows,
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
from engine.registry.rows import (
    RowValues,
    Write,
    compute_mac,
    sound_rows,
    values_of,
    with_macs,
    without_sealed,
)
from engine.registry.vault import Vault, add_seals
from schema.events import EventType

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
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise RegistryError(f"{path} cannot be opened: {error.strerror}") from None
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


@dataclass(frozen=True, slots=True)
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
    head: Row[Any],
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


@contextmanager
def changing_rows(
    connection: Connection, vault: Vault, table: Table, keys: Collection[Any]
) -> Iterator[None]:
    """Rows of a table, by their keys, that the block updates: they get a new code after. One that
    was damaged before is changed with the others, and set aside: its code stays as wrong as it is,
    so that nothing is ever vouched for that was altered."""
    before = sound_rows(vault, table, _rows_of(connection, table, keys))
    sound = {_key_of(table, row) for row in before}
    yield
    after = _rows_of(connection, table, keys)
    write_macs(connection, vault, table, [row for row in after if _key_of(table, row) in sound])


def _key_of(table: Table, row: Row[Any]) -> tuple[Any, ...]:
    return tuple(row._mapping[column.name] for column in table.primary_key)


def write_macs(
    connection: Connection, vault: Vault, table: Table, rows: Sequence[Row[Any]]
) -> None:
    """Gives rows that are there the code of what they hold."""
    key = list(table.primary_key)
    stored = [
        {f"key_{column.name}": row._mapping[column.name] for column in key}
        | {"new_mac": compute_mac(vault, table, values_of(row))}
        for row in rows
    ]
    if stored:
        connection.execute(_store_mac(table), stored)


@cache
def _store_mac(table: Table) -> Update:
    is_row = (column == bindparam(f"key_{column.name}") for column in table.primary_key)
    return update(table).where(*is_row).values(mac=bindparam("new_mac"))


@cache
def _select_rows(table: Table) -> Select[Any]:
    return select(*without_sealed(table)).where(next(iter(table.primary_key)).in_(KEYS))


def _rows_of(connection: Connection, table: Table, keys: Collection[Any]) -> list[Row[Any]]:
    return [
        row
        for part in chunks(list(dict.fromkeys(keys)))
        for row in connection.execute(_select_rows(table), {"keys": part})
    ]


@dataclass(slots=True)
class NewEvent:
    """An event to be written. With a `line_id` it is two, the second that this line was opened by
    it: a decision pays for each row. `document_id`: None where the subject is the document."""

    type: EventType
    subject: str
    carrier: str | None
    data: dict[str, Any]
    document_id: str | None = None
    line_id: str | None = None


@dataclass(slots=True)
class Transaction:
    """The transaction that stores writes; `audit_number` is that of its last audit entry. What it
    `is_erasing` leaves the database's journal with it."""

    connection: Connection
    vault: Vault
    model_digest: str
    at: datetime
    audit_number: int = 0
    is_erasing: bool = False
    events: list[NewEvent] = field(default_factory=list)
    """Written once everything else is."""

    def insert(self, table: Table, rows: Sequence[RowValues]) -> None:
        """Inserts rows, each with its code."""
        insert_rows(self.connection, table, with_macs(self.vault, table, rows))

    def add(self, written: Sequence[Write]) -> None:
        """Inserts the rows of writes of one class."""
        self.insert(written[0].table, [one.row(self) for one in written])

    def put(self, table: Table, row: RowValues) -> None:
        """Writes a row in place of the one of its key, or beside all."""
        (values,), (key,) = with_macs(self.vault, table, [row]), table.primary_key
        changed = update(table).where(key == values[key.name]).values(values)
        if not self.connection.execute(changed).rowcount:
            self.connection.execute(insert(table), values)

    def delete(self, column: Column[Any], keys: Sequence[Any]) -> None:
        """Deletes the rows that have one of these keys in a column."""
        for part in chunks(keys):
            self.connection.execute(delete(column.table).where(column.in_(part)))

    def remove(self, written: Sequence[Write]) -> None:
        """Deletes the rows of the keys of writes of one class."""
        key = list(written[0].table.primary_key)
        find_key = attrgetter(*(column.name for column in key))
        place: ColumnElement[Any] = tuple_(*key) if len(key) > 1 else key[0]
        for part in chunks(written):
            is_there = place.in_(list(map(find_key, part)))
            self.connection.execute(delete(written[0].table).where(is_there))

    def changing(self, table: Table, keys: Collection[Any]) -> AbstractContextManager[None]:
        """Gives the rows that the block updates new codes, as `changing_rows`."""
        return changing_rows(self.connection, self.vault, table, keys)

    def change(self, table: Table, statement: Update, changes: Sequence[RowValues]) -> None:
        """Updates rows, each by its `key`, and gives them new codes; `RowRefused` where one is not
        as the statement expects."""
        with self.changing(table, [one["key"] for one in changes]):
            for values in changes:
                change_one(self.connection, statement, values)
