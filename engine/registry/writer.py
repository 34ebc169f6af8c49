"""The one writer: its lease, its fenced and audited transactions, and the SQL of `Changes`."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    Update,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from engine.errors import LeaseLost, RegistryError, StorageFailed, WriterBusy
from engine.registry import audit, deployment, tables
from engine.registry.database import (
    Moment,
    change_one,
    changing,
    long_statements,
    open_connection,
    overwrite_journal,
    reading,
    restructuring,
    sqlite_file,
    storage_errors,
    write_something,
)
from engine.registry.events import find_events, write_events
from engine.registry.line_life import add_events_of_people, end_waiting, set_services, write_life
from engine.registry.people import forget_people, write_people
from engine.registry.reader import Reader
from engine.registry.records import (
    ENROLLMENT_REFUSED,
    AuditEntry,
    AuditRecord,
    Changes,
    OutletChange,
    utc_now,
)
from engine.registry.row_macs import RowValues, changing_rows, with_macs
from engine.registry.rows import (
    activation_row,
    answer_row,
    attempt_template_rows,
    change_cases,
    columns_of,
    count_tallies,
    document_row,
    enrollment_row,
    erase_attempt_templates,
    erase_crops,
    erase_notes,
    fill_references,
    keep_crops_of_cases,
    line_row,
    reference_rows,
    tally_of,
    watched_row,
    write_cases,
    write_crops,
    write_judged,
    write_notes,
    write_sweeps,
)
from engine.registry.tables import metadata
from engine.registry.vault import Vault
from schema.documents import DocumentStatus
from schema.lines import LineStatus

if TYPE_CHECKING:
    import sqlite3


RENEW_S, LEASE_S = 2.0, 10
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


def take_lease(engine: Engine) -> FileLease | AdvisoryLease:
    """Takes the lease, or raises `WriterBusy` at once; held until it is released or its process
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

    def release(self) -> None:
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
        self._is_released = Event()
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
        while not self._is_released.wait(RENEW_S):
            try:
                self._connection.execute(_LOOK)
            except SQLAlchemyError:
                self._connection.close()
                with contextlib.suppress(RegistryError):
                    self._connection = self._take()

    def release(self) -> None:
        self._is_released.set()
        self._thread.join()
        # The server frees the lock of a session that ends, but some time later: unlocking first
        # lets the next writer in at once. Where the session is lost already, so is the lock.
        with contextlib.suppress(SQLAlchemyError):
            self._connection.execute(_UNLOCK, _LOCK)
            self._connection.invalidate()
        self._connection.close()


_deployment = tables.deployment
_HOLD = select(_deployment.c.singleton).with_for_update()
_ADVANCE = (
    update(_deployment)
    .where(_deployment.c.audit_number == bindparam("known_number"))
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
    """What a writer expects in the deployment's row: its epoch, the gallery's sequence, and at
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
        values["counted"] = deployment.add_seals(head.seals, vault.active_data_version, sealed)
    if connection.execute(statement, values).rowcount != 1:
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


def _forget_tallies(connection: Connection) -> None:
    """Deletes counts that nothing was added to for long, by the newest audit entry: every count
    came with one, and a wrong clock forgets none."""
    head = select(_deployment.c.audit_number).scalar_subquery()
    newest = connection.scalar(select(tables.audit.c.at).where(tables.audit.c.number == head))
    if isinstance(newest, datetime):
        stale = tables.tallies.c.at < min(newest, utc_now()) - TALLIES_STAY
        connection.execute(delete(tables.tallies).where(stale))


TALLIES_STAY = timedelta(days=90)
"""A count that nothing was added to for so long leaves at the next start."""
BULK_ROWS = 5_000
"""From so many documents on, a commit counts as a bulk load."""

_ANALYZE = text('ANALYZE documents, enrollments, "references", lines')
_INSERTS = {table: insert(table) for table in metadata.tables.values()}


def _one_of(table: Table, *conditions: ColumnElement[bool]) -> Update:
    """An update of the row `key`, where it is as the change expects."""
    return update(table).where(table.c.id == bindparam("key"), *conditions)


_documents, _lines, _references = tables.documents, tables.lines, tables.references
_enrollments, _liveness = tables.enrollments, tables.liveness
_REMOVE_REFERENCE = _one_of(_references, _references.c.removed_sequence.is_(None)).values(
    template=None,
    second_template=None,
    second_model_digest=None,
    removed_sequence=bindparam("sequence"),
)
_DISPUTE_LINE = _one_of(_lines, _lines.c.status == LineStatus.ACTIVE.value).values(
    status=LineStatus.DISPUTED.value
)
_RESTORE_LINE = _one_of(_lines, _lines.c.status == LineStatus.DISPUTED.value).values(
    status=LineStatus.ACTIVE.value
)
_CLOSE_LINE = _one_of(_lines, _lines.c.status != LineStatus.CLOSED.value).values(
    status=LineStatus.CLOSED.value, closed_at=bindparam("at")
)
_BLOCK_DOCUMENT = _one_of(_documents, _documents.c.lookup.is_not(None)).values(
    blocked_at=func.coalesce(_documents.c.blocked_at, bindparam("at", type_=Moment))
)
_UNBLOCK_DOCUMENT = _one_of(_documents, _documents.c.blocked_at.is_not(None)).values(
    blocked_at=None,
    # The block was all that an erased document's look-up was kept for.
    lookup=case(
        (_documents.c.status == DocumentStatus.ERASED.value, None), else_=_documents.c.lookup
    ),
)
_ACTIVATE_DOCUMENT = _one_of(
    _documents,
    _documents.c.status == DocumentStatus.ATTEMPTED.value,
    _documents.c.blocked_at.is_(None),
).values(
    status=DocumentStatus.ACTIVE.value,
    name_lookup=bindparam("name"),
    identity=bindparam("sealed"),
    expires_on=bindparam("expiry"),
)
_ASK_ERASURE = _one_of(
    _documents,
    _documents.c.status != DocumentStatus.ERASED.value,
    _documents.c.erasure_due_at.is_(None),
).values(
    erasure_asked_at=bindparam("at", type_=Moment),
    erasure_due_at=bindparam("due", type_=Moment),
    erasure_asked_by=bindparam("by"),
)
_outlets = tables.outlets
_RESTRICT = (
    update(_outlets)
    .where(_outlets.c.code == bindparam("key"))
    .values(
        restriction=bindparam("new_restriction"),
        restricted_at=bindparam("at", type_=Moment),
        restricted_by=bindparam("by"),
        restricted_person=bindparam("who"),
        restriction_case=bindparam("case"),
        restriction_reason=None,
        # A bar goes on counting where the suspension before it stopped.
        refused_attempts=case((bindparam("is_lifted"), None), else_=_outlets.c.refused_attempts),
    )
)
_COUNT_REFUSED = (
    update(_outlets)
    .where(_outlets.c.code == bindparam("key"), _outlets.c.restriction.is_not(None))
    .values(refused_attempts=func.coalesce(_outlets.c.refused_attempts, 0) + bindparam("count"))
)
ERASED: RowValues = {
    "status": DocumentStatus.ERASED.value,
    # Or erasure would lift a block: the same document could be enrolled anew.
    "lookup": case((_documents.c.blocked_at.is_not(None), _documents.c.lookup), else_=None),
    "name_lookup": None,
    "identity": None,
    "expires_on": None,
    # Who asked for it stays in the audit chain alone.
    "erasure_due_at": None,
    "erasure_asked_by": None,
}
"""What an erasure leaves in a document's row, beside its time."""
_ERASE_DOCUMENT = _one_of(_documents, _documents.c.status != DocumentStatus.ERASED.value).values(
    **ERASED, erased_at=bindparam("at"), erasure_number=bindparam("number")
)
_ERASE_LINES = (
    update(_lines)
    .where(_lines.c.document_id == bindparam("key"))
    .values(
        status=LineStatus.CLOSED.value,
        msisdn=None,
        msisdn_lookup=None,
        closed_at=func.coalesce(_lines.c.closed_at, bindparam("at", type_=Moment)),
    )
)
_ATTEMPTS_UNDER = select(_enrollments.c.id).where(_enrollments.c.document_id == bindparam("key"))
# The name that a capture system gave to its session leaves; that it was used stays, keyed.
_ERASE_SESSIONS = (
    update(_liveness).where(_liveness.c.enrollment_id.in_(_ATTEMPTS_UNDER)).values(jti=None)
)
_SESSIONS_UNDER = select(_liveness.c.id).where(
    _liveness.c.enrollment_id.in_(_ATTEMPTS_UNDER), _liveness.c.jti.is_not(None)
)
_LIVE_REFERENCES_OF = (
    select(func.count())
    .select_from(_references)
    .where(_references.c.document_id == bindparam("key"))
    .where(_references.c.removed_sequence.is_(None))
)
_UNWATCH = _one_of(tables.watchlist, tables.watchlist.c.removed_at.is_(None)).values(
    template=None,
    second_template=None,
    second_model_digest=None,
    document_lookup=None,
    removed_at=bindparam("at"),
)


def apply(
    connection: Connection,
    vault: Vault,
    model_digest: str,
    changes: Changes,
    at: datetime,
    number: int,
) -> None:
    """Inserts, then removes; a change of a row that is not there undoes the transaction. `number`
    is that of the changes' last audit entry."""
    changes = add_events_of_people(connection, changes, at)
    events = find_events(connection, changes)
    for table, rows in (
        (tables.documents, [document_row(vault, one, at) for one in changes.documents]),
        (tables.enrollments, [enrollment_row(record) for record in changes.enrollments]),
        (tables.references, reference_rows(vault, model_digest, changes.references)),
        (tables.attempt_templates, attempt_template_rows(vault, changes.attempt_templates)),
        (tables.lines, [line_row(vault, line) for line in changes.lines]),
        (tables.watchlist, [watched_row(vault, entry) for entry in changes.watched]),
        (tables.idempotency, [answer_row(answer) for answer in changes.answers]),
        (tables.liveness, [columns_of(one) for one in changes.liveness]),
    ):
        if rows:
            connection.execute(_INSERTS[table], with_macs(vault, table, rows))
    write_sweeps(connection, vault, changes.sweeps)
    # Before the cases, which may name the document of one.
    write_crops(connection, vault, changes.crops)
    write_cases(connection, vault, changes.cases, at)
    change_cases(connection, vault, changes.case_changes, at)
    keep_crops_of_cases(connection, vault, changes.crops, at)
    write_notes(connection, vault, changes.case_notes)
    write_judged(connection, vault, changes.judged)
    if changes.people is not None:
        write_people(connection, vault, changes.people, at)
    if changes.tallies:
        count_tallies(connection, vault, changes.tallies, at)
    if changes.life is not None:
        write_life(connection, vault, changes.life)
    if changes.filled_references:
        fill_references(connection, vault, changes.filled_references)
    with changing_rows(connection, vault, _find_updated(connection, changes)):
        _update(connection, vault, changes, at, number)
    if changes.erased_documents:
        erase_notes(connection, vault, changes.erased_documents)
    write_events(connection, vault, events, at)
    if connection.dialect.name == "postgresql" and len(changes.documents) >= BULK_ROWS:
        # Until its own statistics follow, PostgreSQL would scan a table that was just filled.
        with long_statements(connection):
            connection.execute(_ANALYZE)


def _find_updated(connection: Connection, changes: Changes) -> dict[Table, list[Any]]:
    """The keys of the rows that the changes update."""
    lines = [*changes.disputed_lines, *changes.restored_lines, *changes.closed_lines]
    sessions: list[str] = []
    if changes.life is not None:
        lines += changes.life.services
    for document_id in changes.erased_documents:
        under = select(_lines.c.id).where(_lines.c.document_id == document_id)
        lines += connection.scalars(under)
        sessions += connection.scalars(_SESSIONS_UNDER, {"key": document_id})
    return {
        _liveness: sessions,
        _documents: [
            *(one.id for one in changes.activated_documents),
            *changes.blocked_documents,
            *changes.unblocked_documents,
            *changes.erased_documents,
            *(one.document_id for one in changes.asked_erasures),
        ],
        _outlets: [*(one.code for one in changes.outlets), *_count_refused(changes)],
        _references: [int(key) for key, _ in changes.removed_references],
        _lines: lines,
        tables.watchlist: [int(key) for key in changes.unwatched],
    }


def _update(
    connection: Connection, vault: Vault, changes: Changes, at: datetime, number: int
) -> None:
    for document in changes.activated_documents:
        change_one(connection, _ACTIVATE_DOCUMENT, activation_row(vault, document))
    if changes.activated_documents:
        # From now on the holder's reference says whose face it is.
        erase_attempt_templates(connection, [one.id for one in changes.activated_documents])
    for reference_id, sequence in changes.removed_references:
        change_one(connection, _REMOVE_REFERENCE, {"key": int(reference_id), "sequence": sequence})
    for statement, keys, values in (
        (_DISPUTE_LINE, changes.disputed_lines, {}),
        (_RESTORE_LINE, changes.restored_lines, {}),
        (_CLOSE_LINE, changes.closed_lines, {"at": at}),
        (_BLOCK_DOCUMENT, changes.blocked_documents, {"at": at}),
        (_UNBLOCK_DOCUMENT, changes.unblocked_documents, {}),
    ):
        for key in keys:
            change_one(connection, statement, {"key": key, **values})
    if changes.life is not None:
        set_services(connection, changes.life.services)
    if changes.closed_lines:
        end_waiting(connection, changes.closed_lines)
    for asked in changes.asked_erasures:
        given = {"key": asked.document_id, "at": at, "due": asked.due_at, "by": asked.by}
        change_one(connection, _ASK_ERASURE, given)
    for document_id in changes.erased_documents:
        _erase(connection, document_id, at, number)
        forget_people(connection, vault, document_id, at)
    for outlet in changes.outlets:
        change_one(connection, _RESTRICT, _restriction_row(outlet, at))
    for code, count in _count_refused(changes).items():
        # None where it has been lifted meanwhile.
        connection.execute(_COUNT_REFUSED, {"key": code, "count": count})
    for entry_id in changes.unwatched:
        change_one(connection, _UNWATCH, {"key": int(entry_id), "at": at})


def _count_refused(changes: Changes) -> Counter[str]:
    """Attempts by restricted outlet, as the audit entries have them."""
    return Counter(one.subject for one in changes.audit if one.action == ENROLLMENT_REFUSED)


def _restriction_row(outlet: OutletChange, at: datetime) -> RowValues:
    is_lifted = outlet.restriction is None
    return {
        "key": outlet.code,
        "new_restriction": None if is_lifted else str(outlet.restriction),
        "at": None if is_lifted else at,
        "by": outlet.by,
        "who": outlet.person,
        "case": outlet.case_id,
        "is_lifted": is_lifted,
    }


def _erase(connection: Connection, document_id: str, at: datetime, number: int) -> None:
    live = connection.scalar(_LIVE_REFERENCES_OF, {"key": document_id})
    assert live == 0, "an erased document's references are removed in the same changes"
    lookup = connection.scalar(select(_documents.c.lookup).where(_documents.c.id == document_id))
    connection.execute(delete(tables.tallies).where(tally_of(document_id, lookup)))
    change_one(connection, _ERASE_DOCUMENT, {"key": document_id, "at": at, "number": number})
    connection.execute(_ERASE_LINES, {"key": document_id, "at": at})
    connection.execute(_ERASE_SESSIONS, {"key": document_id})
    erase_crops(connection, [document_id])
    erase_attempt_templates(connection, [document_id])
    under = select(_lines.c.id).where(_lines.c.document_id == document_id)
    end_waiting(connection, connection.scalars(under).all())


class Writer:
    """Holds the writer's lease from its making to `close`; used by one thread at a time.

    The lease keeps a second writer out, and the epoch in the deployment's row fences this one
    should the lease be lost unnoticed: a commit under an older epoch raises `LeaseLost`.
    """

    def __init__(self, engine: Engine, vault: Vault, model_digest: str) -> None:
        self._engine = engine
        self.vault = vault
        self.model_digest = model_digest
        self._closed = False
        self._epoch = self._sequence = self._audit_number = 0
        self._last_reference_id = self._last_watch_id = 0
        self._has_erased = True  # A process before this one may have, and been killed.
        self._lease = take_lease(engine)
        self._place: Engine | Connection = engine
        try:
            if sqlite_file(engine) is not None:
                # One for all that is written: only so may a copy be made meanwhile.
                self._place = open_connection(engine)
            self._take_over()
            self._forget_erased()
        except BaseException:
            self._release()
            raise

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def sequence(self) -> int:
        """The gallery sequence after the last commit."""
        return self._sequence

    @property
    def epoch(self) -> int:
        """The number of this writer: every later one has a greater."""
        return self._epoch

    def next_reference_id(self) -> int:
        """A gallery key that no reference had before, removed ones included."""
        self._last_reference_id += 1
        return self._last_reference_id

    def next_watch_id(self) -> int:
        """A key for a watched face, from a range of its own."""
        self._last_watch_id += 1
        return self._last_watch_id

    def commit(self, changes: Changes) -> AuditRecord:
        """Stores all of the changes, durably, or raises and stores none.

        Returns the last of their audit entries, in its place in the chain.

        `StorageFull` and `StorageFailed`: nothing was stored, and the writer may go on.
        `LeaseLost`: nothing more may be committed from here.
        """
        assert not self._closed
        assert changes.sequence >= self._sequence, "the gallery's sequence never goes back"
        now = utc_now()
        with chained(
            self._place,
            self.vault,
            changes.audit,
            now,
            fence=self._fence,
            sequence=changes.sequence,
        ) as (connection, last):
            apply(connection, self.vault, self.model_digest, changes, now, last.number)
        self._sequence = changes.sequence
        self._audit_number = last.number
        if changes.removed_references or changes.erased_documents or changes.unwatched:
            self._has_erased = True
        self._forget_erased()
        return last

    def reading(self) -> AbstractContextManager[Reader]:
        """The registry over one connection until the block ends: on SQLite the one that writes,
        which has in memory what it wrote."""
        assert not self._closed
        return Reader(self._place, self.vault).reading()

    @contextmanager
    def changing(self, *entries: AuditEntry) -> Iterator[Connection]:
        """A fenced and audited transaction, for work inside this package that has no `Changes`."""
        assert not self._closed
        with (
            recorded(self._place, self.vault, entries, self._fence) as connection,
            long_statements(connection),
        ):
            yield connection
        # It wipes rows, or seals them anew.
        self._has_erased = True
        self._forget_erased()

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """Reads for such work: nothing else changes the rows while the lease is held."""
        with reading(self._engine) as connection, long_statements(connection):
            return connection.execute(query).all()

    @property
    def sqlite(self) -> sqlite3.Connection | None:
        """The driver's connection that everything is written through; None on PostgreSQL."""
        if not isinstance(self._place, Connection):
            return None
        return cast("sqlite3.Connection", self._place.connection.driver_connection)

    def close(self) -> None:
        """Gives the lease back; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    def _release(self) -> None:
        try:
            if isinstance(self._place, Connection):
                self._place.close()
        finally:
            self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget_erased(self) -> None:
        """Overwrites the rows that were erased where SQLite's rollback journal still has them; what
        fails is tried again after the next commit, since this one is durable."""
        if self._has_erased:
            with contextlib.suppress(StorageFailed):
                overwrite_journal(self._engine)
                self._has_erased = False

    @property
    def _fence(self) -> Fence:
        return Fence(self._epoch, self._sequence, self._audit_number)

    def _take_over(self) -> None:
        # One transaction: a deposed writer's last commit is either seen here or fenced off.
        with changing(self._place) as connection:
            deployment.raise_epoch(connection)
            # Again, after `Store.open`: the data key may have been rotated in between.
            deployment.check_data_key_is_newest(connection, self.vault)
            deployment.check(connection, self.vault, self.model_digest)
            audit.require_head(self.vault, audit.read_head(connection), self._audit_number)
            deployment.add_data_key(connection, self.vault)
            _forget_tallies(connection)
            row = connection.execute(
                select(_deployment.c.writer_epoch, _deployment.c.sequence)
            ).one()
            # Rows of removed references and watch-list entries stay, so their ids stay taken.
            last_reference = connection.scalar(select(func.max(tables.references.c.id)))
            last_watch = connection.scalar(select(func.max(tables.watchlist.c.id)))
        self._epoch = row.writer_epoch
        self._sequence = row.sequence
        self._last_reference_id = last_reference or 0
        self._last_watch_id = last_watch or 0
