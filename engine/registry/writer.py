"""The one writer: its lease, its fenced and audited transactions, and the SQL of `Changes`."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from engine.errors import StorageFailed
from engine.registry import audit, deployment
from engine.registry.accounts import ENROLLMENT_REFUSED, OUTLETS, OutletChange
from engine.registry.audit import AuditEntry, AuditRecord
from engine.registry.campaigns import end_waiting, write_life
from engine.registry.cases import (
    change_cases,
    erase_notes,
    keep_crops_of_cases,
    write_cases,
    write_notes,
)
from engine.registry.database import (
    Moment,
    change_one,
    changing,
    long_statements,
    open_connection,
    overwrite_journal,
    reading,
    sqlite_file,
    utc_now,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.documents import DOCUMENTS, activation_row, document_row
from engine.registry.enrollments import (
    ENROLLMENTS,
    IDEMPOTENCY,
    LIVENESS,
    TALLIES,
    answer_row,
    count_tallies,
    enrollment_row,
    erase_crops,
    forget_tallies,
    tally_of,
    write_crops,
)
from engine.registry.events import Changes, add_events_of_people, find_events, write_events
from engine.registry.lines import LINES, line_row, set_services
from engine.registry.people import forget_people, write_people
from engine.registry.references import (
    ATTEMPT_TEMPLATES,
    REFERENCES,
    WATCHLIST,
    attempt_template_rows,
    erase_attempt_templates,
    fill_references,
    reference_rows,
    watched_row,
)
from engine.registry.rows import RowValues, changing_rows, columns_of, update_one, with_macs
from engine.registry.sweeps import write_judged, write_sweeps
from engine.registry.transactions import Fence, chained, recorded, take_lease
from engine.registry.vault import Vault
from schema.documents import DocumentStatus
from schema.lines import LineStatus

T = TypeVar("T")

if TYPE_CHECKING:
    import sqlite3


BULK_ROWS = 5_000
"""From so many documents on, a commit counts as a bulk load."""

_ANALYZE = text('ANALYZE documents, enrollments, "references", lines')
_REMOVE_REFERENCE = update_one(REFERENCES, REFERENCES.c.removed_sequence.is_(None)).values(
    template=None,
    second_template=None,
    second_model_digest=None,
    removed_sequence=bindparam("sequence"),
)
_DISPUTE_LINE = update_one(LINES, LINES.c.status == LineStatus.ACTIVE.value).values(
    status=LineStatus.DISPUTED.value
)
_RESTORE_LINE = update_one(LINES, LINES.c.status == LineStatus.DISPUTED.value).values(
    status=LineStatus.ACTIVE.value
)
_CLOSE_LINE = update_one(LINES, LINES.c.status != LineStatus.CLOSED.value).values(
    status=LineStatus.CLOSED.value, closed_at=bindparam("at")
)
_BLOCK_DOCUMENT = update_one(DOCUMENTS, DOCUMENTS.c.lookup.is_not(None)).values(
    blocked_at=func.coalesce(DOCUMENTS.c.blocked_at, bindparam("at", type_=Moment))
)
_UNBLOCK_DOCUMENT = update_one(DOCUMENTS, DOCUMENTS.c.blocked_at.is_not(None)).values(
    blocked_at=None,
    # The block was all that an erased document's look-up was kept for.
    lookup=case(
        (DOCUMENTS.c.status == DocumentStatus.ERASED.value, None), else_=DOCUMENTS.c.lookup
    ),
)
_ACTIVATE_DOCUMENT = update_one(
    DOCUMENTS,
    DOCUMENTS.c.status == DocumentStatus.ATTEMPTED.value,
    DOCUMENTS.c.blocked_at.is_(None),
).values(
    status=DocumentStatus.ACTIVE.value,
    name_lookup=bindparam("name"),
    identity=bindparam("sealed"),
    expires_on=bindparam("expiry"),
)
_ASK_ERASURE = update_one(
    DOCUMENTS,
    DOCUMENTS.c.status != DocumentStatus.ERASED.value,
    DOCUMENTS.c.erasure_due_at.is_(None),
).values(
    erasure_asked_at=bindparam("at", type_=Moment),
    erasure_due_at=bindparam("due", type_=Moment),
    erasure_asked_by=bindparam("by"),
)
_RESTRICT = (
    update(OUTLETS)
    .where(OUTLETS.c.code == bindparam("key"))
    .values(
        restriction=bindparam("new_restriction"),
        restricted_at=bindparam("at", type_=Moment),
        restricted_by=bindparam("by"),
        restricted_person=bindparam("who"),
        restriction_case=bindparam("case"),
        restriction_reason=None,
        # A bar goes on counting where the suspension before it stopped.
        refused_attempts=case((bindparam("is_lifted"), None), else_=OUTLETS.c.refused_attempts),
    )
)
_COUNT_REFUSED = (
    update(OUTLETS)
    .where(OUTLETS.c.code == bindparam("key"), OUTLETS.c.restriction.is_not(None))
    .values(refused_attempts=func.coalesce(OUTLETS.c.refused_attempts, 0) + bindparam("count"))
)
ERASED: RowValues = {
    "status": DocumentStatus.ERASED.value,
    # Or erasure would lift a block: the same document could be enrolled anew.
    "lookup": case((DOCUMENTS.c.blocked_at.is_not(None), DOCUMENTS.c.lookup), else_=None),
    "name_lookup": None,
    "identity": None,
    "expires_on": None,
    # Who asked for it stays in the audit chain alone.
    "erasure_due_at": None,
    "erasure_asked_by": None,
}
"""What an erasure leaves in a document's row, beside its time."""
_ERASE_DOCUMENT = update_one(DOCUMENTS, DOCUMENTS.c.status != DocumentStatus.ERASED.value).values(
    **ERASED, erased_at=bindparam("at"), erasure_number=bindparam("number")
)
_ERASE_LINES = (
    update(LINES)
    .where(LINES.c.document_id == bindparam("key"))
    .values(
        status=LineStatus.CLOSED.value,
        msisdn=None,
        msisdn_lookup=None,
        closed_at=func.coalesce(LINES.c.closed_at, bindparam("at", type_=Moment)),
    )
)
_ATTEMPTS_UNDER = select(ENROLLMENTS.c.id).where(ENROLLMENTS.c.document_id == bindparam("key"))
# The name that a capture system gave to its session leaves; that it was used stays, keyed.
_ERASE_SESSIONS = (
    update(LIVENESS).where(LIVENESS.c.enrollment_id.in_(_ATTEMPTS_UNDER)).values(jti=None)
)
_SESSIONS_UNDER = select(LIVENESS.c.id).where(
    LIVENESS.c.enrollment_id.in_(_ATTEMPTS_UNDER), LIVENESS.c.jti.is_not(None)
)
_LIVE_REFERENCES_OF = (
    select(func.count())
    .select_from(REFERENCES)
    .where(REFERENCES.c.document_id == bindparam("key"))
    .where(REFERENCES.c.removed_sequence.is_(None))
)
_UNWATCH = update_one(WATCHLIST, WATCHLIST.c.removed_at.is_(None)).values(
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
        (DOCUMENTS, [document_row(vault, one, at) for one in changes.documents]),
        (ENROLLMENTS, [enrollment_row(record) for record in changes.enrollments]),
        (REFERENCES, reference_rows(vault, model_digest, changes.references)),
        (ATTEMPT_TEMPLATES, attempt_template_rows(vault, changes.attempt_templates)),
        (LINES, [line_row(vault, line) for line in changes.lines]),
        (WATCHLIST, [watched_row(vault, entry) for entry in changes.watched]),
        (IDEMPOTENCY, [answer_row(answer) for answer in changes.answers]),
        (LIVENESS, [columns_of(one) for one in changes.liveness]),
    ):
        if rows:
            connection.execute(insert(table), with_macs(vault, table, rows))
    _write_cases(connection, vault, changes, at)
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


def _write_cases(connection: Connection, vault: Vault, changes: Changes, at: datetime) -> None:
    """Writes what sweeps and enrollments give to people to decide on, and what these did."""
    if changes.sweeps:
        write_sweeps(connection, vault, changes.sweeps)
    # Before the cases, which may name the document of one.
    if changes.crops:
        write_crops(connection, vault, changes.crops)
    if changes.cases:
        write_cases(connection, vault, changes.cases, at)
    if changes.case_changes:
        change_cases(connection, vault, changes.case_changes, at)
    if changes.crops:
        keep_crops_of_cases(connection, vault, changes.crops, at)
    if changes.case_notes:
        write_notes(connection, vault, changes.case_notes)
    if changes.judged:
        write_judged(connection, vault, changes.judged)


def _find_updated(connection: Connection, changes: Changes) -> dict[Table, list[Any]]:
    """The keys of the rows that the changes update."""
    lines = [*changes.disputed_lines, *changes.restored_lines, *changes.closed_lines]
    sessions: list[str] = []
    if changes.life is not None:
        lines += changes.life.services
    for document_id in changes.erased_documents:
        under = select(LINES.c.id).where(LINES.c.document_id == document_id)
        lines += connection.scalars(under)
        sessions += connection.scalars(_SESSIONS_UNDER, {"key": document_id})
    return {
        LIVENESS: sessions,
        DOCUMENTS: [
            *(one.id for one in changes.activated_documents),
            *changes.blocked_documents,
            *changes.unblocked_documents,
            *changes.erased_documents,
            *(one.document_id for one in changes.asked_erasures),
        ],
        OUTLETS: [*(one.code for one in changes.outlets), *_count_refused(changes)],
        REFERENCES: [int(key) for key, _ in changes.removed_references],
        LINES: lines,
        WATCHLIST: [int(key) for key in changes.unwatched],
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
    lookup = connection.scalar(select(DOCUMENTS.c.lookup).where(DOCUMENTS.c.id == document_id))
    connection.execute(delete(TALLIES).where(tally_of(document_id, lookup)))
    change_one(connection, _ERASE_DOCUMENT, {"key": document_id, "at": at, "number": number})
    connection.execute(_ERASE_LINES, {"key": document_id, "at": at})
    connection.execute(_ERASE_SESSIONS, {"key": document_id})
    erase_crops(connection, [document_id])
    erase_attempt_templates(connection, [document_id])
    under = select(LINES.c.id).where(LINES.c.document_id == document_id)
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

    @property
    def place(self) -> Engine | Connection:
        """Where it writes: on SQLite the connection that has in memory what it wrote."""
        assert not self._closed
        return self._place

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
            forget_tallies(connection)
            row = connection.execute(select(DEPLOYMENT.c.writer_epoch, DEPLOYMENT.c.sequence)).one()
            # Rows of removed references and watch-list entries stay, so their ids stay taken.
            last_reference = connection.scalar(select(func.max(REFERENCES.c.id)))
            last_watch = connection.scalar(select(func.max(WATCHLIST.c.id)))
        self._epoch = row.writer_epoch
        self._sequence = row.sequence
        self._last_reference_id = last_reference or 0
        self._last_watch_id = last_watch or 0


class ChangeRunner(Protocol):
    """Performs changes one after the other on the one writer."""

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        """Perform a change between two batches."""
        ...
