"""Retention: finds by kind what has stayed its time, and wipes it in bounded transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import convert, to_builtins
from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)

from engine.cases.opening import date_change
from engine.registry.audit import AuditEntry
from engine.registry.cases import (
    ALIVE_STATES,
    CASE_DOCUMENTS,
    CASES,
    CROPS,
    AddedNote,
    CaseChange,
    CaseRecord,
    erase_notes,
)
from engine.registry.database import (
    KEYS,
    UNREADABLE,
    AnyRow,
    Condition,
    Json,
    Moment,
    Source,
    chunks,
    long_statements,
    reading,
)
from engine.registry.documents import DOCUMENTS
from engine.registry.enrollments import (
    ENROLLMENTS,
    EXPIRE_ATTEMPT,
    IDEMPOTENCY,
    LIVENESS,
    TALLIES,
    tally_of,
)
from engine.registry.events import EVENTS, EVENTS_MARKED
from engine.registry.lines import (
    IN_USE_UNDER,
    LINE_EVENTS,
    LINES,
    REVERIFICATIONS,
    LineChange,
    LineEvent,
)
from engine.registry.people import EXCEPTIONS, GUARDIANSHIPS, IS_LAST_FACE, LAST_USE, forget_people
from engine.registry.queues import erase_crops
from engine.registry.references import ATTEMPT_TEMPLATES, IS_LIVE, REFERENCES
from engine.registry.rows import (
    NewEvent,
    RowValues,
    Single,
    Transaction,
    read_as,
    sound_rows,
    update_one,
)
from engine.registry.watchlist import WATCHED_SINCE, WATCHLIST, forget_watched
from engine.registry.webhooks import Webhooks
from engine.registry.writer import Writer
from schema import frozen
from schema.cases import CaseNote, NoteKind
from schema.decisions import RecordedEvidence
from schema.decoding import prepare
from schema.documents import DocumentStatus
from schema.events import EventType
from schema.lines import LineEventKind, LineStatus
from schema.phases import Retained

Wipe = Callable[[Transaction, Sequence[Any]], None]
_opened, _standing = CASES.alias("opened"), CASES.alias("standing")
_IS_OPEN = CASES.c.state.in_(ALIVE_STATES)


def _strip(evidence: Json) -> Json:
    stays: Json = to_builtins(convert(evidence, prepare(RecordedEvidence)).strip())
    return stays


def wipe_attempts(to: Transaction, ids: Sequence[Any]) -> None:
    """Wipes what describes a person; stored answers, templates and crops are deleted."""
    found = select(ENROLLMENTS.c.id, ENROLLMENTS.c.evidence).where(ENROLLMENTS.c.id.in_(ids))
    stripped = [
        {"key": row.id, "stays": {} if is_damaged else _strip(row.evidence), "at": to.at}
        for row in to.connection.execute(found)
        for is_damaged in (to.vault.set_aside.has(ENROLLMENTS.name, f"row {row.id}"),)
    ]
    to.connection.execute(EXPIRE_ATTEMPT, stripped)
    for column in (IDEMPOTENCY.c.enrollment_id, CROPS.c.enrollment_id, ATTEMPT_TEMPLATES.c.id):
        to.delete(column, ids)


def wipe_documents(to: Transaction, ids: Sequence[Any]) -> None:
    """Wipes as an erasure does: a block outlives the document's identity, and the notes of a case
    go with the last document that it names."""
    wiped = update(DOCUMENTS).where(DOCUMENTS.c.id.in_(ids)).values(**_ERASED, erased_at=to.at)
    to.connection.execute(wiped)
    _forget(to, ids)


def _forget(to: Transaction, document_ids: Sequence[str]) -> None:
    """Wipes all that leaves with a document, beside its lines."""
    for document_id in document_ids:
        forget_people(to, document_id)
    erase_notes(to, document_ids)
    erase_crops(to.connection, document_ids)
    to.delete(ATTEMPT_TEMPLATES.c.document_id, document_ids)


def wipe_lines(to: Transaction, ids: Sequence[Any]) -> None:
    to.connection.execute(
        update(LINES).where(LINES.c.id.in_(ids)).values(msisdn=None, msisdn_lookup=None)
    )


_ERASED: RowValues = {
    "status": DocumentStatus.ERASED.value,
    # Or erasure would lift a block: the same document could be enrolled anew.
    "lookup": case((DOCUMENTS.c.blocked_at.is_not(None), DOCUMENTS.c.lookup), else_=None),
    "name_lookup": None,
    "identity": None,
    "expires_on": None,
    # Who asked for it stays in the audit chain alone.
    "erasure_due_at": None,
    "erasure_asked_by": None,
    "erasure_scope": None,
    "withdrawn": None,
}
"""What an erasure leaves in a document's row, beside its time."""
_ERASE = update_one(DOCUMENTS, DOCUMENTS.c.status != DocumentStatus.ERASED.value).values(
    **_ERASED, erased_at=bindparam("at"), erasure_number=bindparam("number")
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
_FORGET_CONSENTS = (
    update(ENROLLMENTS).where(ENROLLMENTS.c.document_id == bindparam("key")).values(consent=None)
)
_SESSIONS_UNDER = select(LIVENESS.c.id).where(
    LIVENESS.c.enrollment_id.in_(_ATTEMPTS_UNDER), LIVENESS.c.jti.is_not(None)
)
# The name that a capture system gave to its session leaves; that it was used stays, keyed.
_FORGET_SESSIONS = update(LIVENESS).where(LIVENESS.c.id.in_(KEYS)).values(jti=None)


@frozen
class DocumentErasure(Single):
    """A document that loses its number, name and look-ups, and whose lines are closed and lose
    theirs; its references are removed in the same transaction. A blocked one keeps its look-up
    until it is unblocked."""

    table = DOCUMENTS
    step = 2

    document_id: str
    by: str

    def follow(self, to: Transaction) -> None:
        to.is_erasing = True
        document, connection = self.document_id, to.connection
        live = select(REFERENCES.c.id).where(REFERENCES.c.document_id == document, IS_LIVE)
        assert connection.scalar(live) is None, "its references leave in the same transaction"
        lookup = connection.scalar(select(DOCUMENTS.c.lookup).where(DOCUMENTS.c.id == document))
        connection.execute(delete(TALLIES).where(tally_of(document, lookup)))
        to.change(DOCUMENTS, _ERASE, [{"key": document, "at": to.at, "number": to.audit_number}])
        in_use = connection.scalars(IN_USE_UNDER, {"key": document}).all()
        closed = LineChange(in_use, LineEventKind.CLOSED, "erasure", self.by)
        if events := closed.events(to.at):
            LineEvent.note(to, events)
        to.delete(REVERIFICATIONS.c.line_id, in_use)
        under = select(LINES.c.id, LINES.c.carrier).where(LINES.c.document_id == document)
        lines = connection.execute(under).all()
        ids = [line.id for line in lines]
        # In one statement: a firm may have lines by the thousand.
        with to.changing(LINES, ids):
            connection.execute(_ERASE_LINES, {"key": document, "at": to.at})
        told = _ATTEMPTS_UNDER.where(ENROLLMENTS.c.consent.is_not(None))
        with to.changing(ENROLLMENTS, connection.scalars(told, {"key": document}).all()):
            connection.execute(_FORGET_CONSENTS, {"key": document})
        sessions = connection.scalars(_SESSIONS_UNDER, {"key": document}).all()
        with to.changing(LIVENESS, sessions):
            for part in chunks(sessions):
                connection.execute(_FORGET_SESSIONS, {"keys": part})
        for carrier in sorted({line.carrier for line in lines}) or [None]:
            to.events.append(NewEvent(EventType.ERASURE_DONE, document, carrier, {}))
        _forget(to, [document])


ROWS_PER_BATCH = 500
"""So many rows delay decisions by a tenth of a second at most."""
Until = Mapping[Retained, datetime]
"""By kind, the newest moment that has stayed its time; a kind without one is kept."""
Hold = timedelta | None
"""How long beyond its time an open case keeps what it needs; None: until it is closed."""

# Not as parameters: a partial index serves only a query that says what the index does.
_REJECTED: ColumnElement[str] = literal_column("'rejected'")
_REVIEW: ColumnElement[str] = literal_column("'review'")
_ATTEMPTED: ColumnElement[str] = literal_column("'attempted'")
_CLOSED: ColumnElement[str] = literal_column("'closed'")
_IS_MARKED: Condition = literal_column(f"number % {EVENTS_MARKED} < 2")


@frozen
class Due:
    """The number of rows that expire now, and of those that an open case holds back."""

    rows: int
    held: int


@frozen
class Job:
    """One run of retention."""

    id: str
    actor: str
    until: Until
    hold: Hold = None
    undelivered: Counter[str] = field(default_factory=Counter)
    """Of events that leave, how many each webhook has not taken, counted while it runs."""


def count_due(source: Writer | Source, kind: Retained, until: Until, hold: Hold = None) -> Due:
    """Counts what of a kind expires now."""
    rule = _RULES[kind]
    is_due, is_held = rule.find_due(kind, until, hold), rule.find_held(kind, until, hold)
    counts = [func.count(case((~is_held, 1))), func.count(case((is_held, 1)))]
    query: Any = select(*counts).where(is_due)
    rows, held = tuple(_read(source, query)[0])
    return Due(rows, held)


def find_due(
    source: Writer | Source,
    kind: Retained,
    until: Until,
    hold: Hold = None,
    limit: int = ROWS_PER_BATCH,
    among: Sequence[Any] | None = None,
) -> list[Any]:
    """The keys of at most `limit` rows that expire now, oldest first; `among` these, if given."""
    rule = _RULES[kind]
    is_due = rule.find_due(kind, until, hold) & ~rule.find_held(kind, until, hold)
    query = select(rule.key).where(is_due).order_by(*(rule.order or (rule.dated, rule.key)))
    if among is not None:
        query = query.where(rule.key.in_(among))
    # A row whose key is damaged stays, as nothing finds it.
    return [row[0] for row in _read(source, query.limit(limit)) if row[0] is not UNREADABLE]


def _read(source: Writer | Source, query: Select[Any]) -> Sequence[AnyRow]:
    """For a schedule nobody waits: it may look at a whole table."""
    with reading(source.engine) as connection, long_statements(connection):
        return connection.execute(query).all()


def expire(
    writer: Writer, kind: Retained, job: Job, now: datetime, limit: int = ROWS_PER_BATCH
) -> int:
    """Wipes at most `limit` rows in one audited transaction, oldest first; 0 when none is left.

    To be called on the writer's thread, where nothing changes between the query and the wiping.
    """
    rule = _RULES[kind]
    keys = find_due(writer, kind, job.until, job.hold, limit)
    if not keys:
        return 0
    until = job.until[kind].astimezone(UTC).isoformat()
    detail = {"job": job.id, "rows": len(keys), "until": until}
    entry = AuditEntry(job.actor, "retention.expired", kind.value, detail)
    if kind is Retained.EVENTS:
        job.undelivered.update(Webhooks(writer.engine, writer.vault).count_leaving(keys))
    with writer.changing(entry) as connection:
        to = Transaction(connection, writer.vault, writer.model_digest, now)
        for part in chunks(keys):
            if rule.document is not None and job.hold is not None:
                documents = select(rule.document).where(rule.key.in_(part))
                _tell_cases(to, documents, kind, job.actor)
            if rule.wipe is None:
                to.delete(rule.key, part)
            else:
                with to.changing(rule.key.table, part):
                    rule.wipe(to, part)
    return len(keys)


def _tell_cases(to: Transaction, documents: Select[Any], kind: Retained, actor: str) -> None:
    """Says in the history of open cases that what they need goes all the same: their hold is over.

    Who has read such a case before must read it again to decide it.
    """
    named = select(CASE_DOCUMENTS.c.case_id).where(CASE_DOCUMENTS.c.document_id.in_(documents))
    rows = to.connection.execute(select(CASES).where(CASES.c.id.in_(named), _IS_OPEN)).all()
    found = [read_as(CaseRecord, row) for row in sound_rows(to.vault, CASES, rows)]
    if found:
        changed = [CaseChange(replace(one, updated_at=date_change(one, to.at))) for one in found]
        CaseChange.store(to, changed)
        note = CaseNote(to.at, actor, NoteKind.EXPIRED, kind.value)
        AddedNote.store(to, [AddedNote(one.id, note) for one in found])


@frozen
class _Rule:
    """The rule of one kind: a row is due when what it is `dated` has stayed its time and the
    condition `is_due` holds, or as that function says; it is deleted, or wiped where it stays.

    A row whose `document` an open case names is held, as long as it `stays` by a later moment:
    that at which it would have gone, and the hold.
    """

    key: Column[Any]
    dated: ColumnElement[Any]
    is_due: Condition | Callable[[Until, Hold], Condition] = field(default_factory=true)
    wipe: Wipe | None = None
    document: Column[Any] | None = None
    order: tuple[Column[Any], ...] = ()
    """By `dated`, where none is given."""

    def find_due(self, kind: Retained, until: Until, hold: Hold) -> Condition:
        """True where the row's time is over."""
        if callable(self.is_due):
            return self.is_due(until, hold)
        return and_(self.dated <= until[kind], self.is_due)

    def find_held(self, kind: Retained, until: Until, hold: Hold) -> Condition:
        """True where an open case needs the row, and its hold is not over."""
        if self.document is None:
            return false()
        return _is_held(self.document, self.dated, until[kind], hold)


# Nothing expires of a document in an open case: not itself, no attempt, line or face under it.
_LOOKED_INTO = (
    select(CASE_DOCUMENTS.c.document_id)
    .join(CASES, CASES.c.id == CASE_DOCUMENTS.c.case_id)
    .where(_IS_OPEN)
)


def _is_held(
    document: Column[Any], dated: ColumnElement[Any], until: datetime, hold: Hold
) -> Condition:
    is_needed = and_(document.is_not(None), document.in_(_LOOKED_INTO))
    return is_needed if hold is None else and_(is_needed, dated > until - hold)


def _due_reviews(until: Until, _: Hold) -> Condition:
    """Counted from the close of the case that they opened or went into, where that is later: what
    people have decided on can be looked at for as long as what the rules have."""
    is_newly_closed = exists().where(
        _opened.c.enrollment_id == ENROLLMENTS.c.id,
        _standing.c.id == func.coalesce(_opened.c.merged_into, _opened.c.id),
        _standing.c.closed_at > until[Retained.REVIEWS],
    )
    return and_(_has_stayed(_REVIEW, until[Retained.REVIEWS]), ~is_newly_closed)


def _has_stayed(decision: ColumnElement[str], until: datetime) -> Condition:
    return and_(
        ENROLLMENTS.c.decision == decision,
        ENROLLMENTS.c.expired_at.is_(None),
        ENROLLMENTS.c.created_at <= until,
    )


def _due_documents(until: Until, hold: Hold) -> Condition:
    """Attempted, and no attempt under it stays."""
    has_left = ENROLLMENTS.c.expired_at.is_not(None)
    leaves = or_(
        false(),
        *(
            and_(
                is_due(until, hold),
                ~_is_held(ENROLLMENTS.c.document_id, ENROLLMENTS.c.created_at, until[kind], hold),
            )
            for kind, is_due in _DUE_ATTEMPTS.items()
            if kind in until
        ),
    )
    under_it = ENROLLMENTS.c.document_id == DOCUMENTS.c.id
    return and_(
        DOCUMENTS.c.status == _ATTEMPTED,
        exists().where(under_it),
        ~exists().where(under_it, ~or_(has_left, leaves)),
    )


_DUE_ATTEMPTS: dict[Retained, Callable[[Until, Hold], Condition]] = {
    Retained.ATTEMPTS: lambda until, _: _has_stayed(_REJECTED, until[Retained.ATTEMPTS]),
    Retained.REVIEWS: _due_reviews,
}


def _due_events(until: Until, _: Hold) -> Condition:
    """Those up to the last marked row of that time, and those after it that are as old, but the
    newest of all: numbers go on from it, and places in the feed are known by it."""
    number = EVENTS.c.number
    marks = select(func.max(number)).where(_IS_MARKED, EVENTS.c.at <= until[Retained.EVENTS])
    last = func.coalesce(marks.scalar_subquery(), 0)
    return and_(
        number < last + 2 * EVENTS_MARKED,
        number < select(func.max(number)).scalar_subquery(),
        EVENTS.c.at <= until[Retained.EVENTS],
    )


_RULES = {
    **{
        kind: _Rule(
            ENROLLMENTS.c.id,
            ENROLLMENTS.c.created_at,
            is_due,
            wipe_attempts,
            ENROLLMENTS.c.document_id,
        )
        for kind, is_due in _DUE_ATTEMPTS.items()
    },
    Retained.DOCUMENTS: _Rule(
        DOCUMENTS.c.id,
        DOCUMENTS.c.created_at,
        _due_documents,
        wipe_documents,
        DOCUMENTS.c.id,
        # As the index has them: the first that are due are found without all others.
        order=(DOCUMENTS.c.id,),
    ),
    Retained.LINES: _Rule(
        LINES.c.id,
        LINES.c.closed_at,
        and_(LINES.c.status == _CLOSED, LINES.c.msisdn.is_not(None)),
        wipe_lines,
        LINES.c.document_id,
    ),
    Retained.ANSWERS: _Rule(IDEMPOTENCY.c.scope, IDEMPOTENCY.c.created_at),
    Retained.CROPS: _Rule(CROPS.c.id, CROPS.c.kept_until, document=CROPS.c.document_id),
    Retained.LIVENESS: _Rule(LIVENESS.c.id, LIVENESS.c.received_at),
    Retained.EVENTS: _Rule(EVENTS.c.number, EVENTS.c.number, _due_events),
    Retained.LINE_EVENTS: _Rule(LINE_EVENTS.c.id, LINE_EVENTS.c.recorded_at),
    Retained.EXCEPTIONS: _Rule(
        EXCEPTIONS.c.id,
        EXCEPTIONS.c.decided_at,
        ~exists().where(LINES.c.id == EXCEPTIONS.c.line_id, LINES.c.status != _CLOSED),
    ),
    Retained.GUARDIANS: _Rule(
        GUARDIANSHIPS.c.line_id,
        GUARDIANSHIPS.c.ends_in,
        lambda until, _: GUARDIANSHIPS.c.ends_in < until[Retained.GUARDIANS].year,
    ),
    Retained.WATCHLIST: _Rule(WATCHLIST.c.id, WATCHED_SINCE, wipe=forget_watched),
    # Each is an erasure of its own, with a certificate: no batch wipes it.
    Retained.FACES: _Rule(
        DOCUMENTS.c.id,
        LAST_USE,
        and_(IS_LAST_FACE, DOCUMENTS.c.erasure_due_at.is_(None)),
        document=DOCUMENTS.c.id,
        order=(DOCUMENTS.c.id,),
    ),
}
