"""Retention: finds by kind what has stayed its time, and wipes it in bounded transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
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
    update,
)

from engine.cases.opening import date_change
from engine.registry.audit import AuditEntry
from engine.registry.cases import (
    CASE_DOCUMENTS,
    CASES,
    case_of,
    change_cases,
    erase_notes,
    write_notes,
)
from engine.registry.database import UNREADABLE, Json, Source, chunks
from engine.registry.documents import DOCUMENTS
from engine.registry.enrollments import CROPS, ENROLLMENTS, IDEMPOTENCY, LIVENESS, erase_crops
from engine.registry.events import EVENTS, EVENTS_MARKED
from engine.registry.lines import LINE_EVENTS, LINES
from engine.registry.people import EXCEPTIONS, GUARDIANSHIPS, forget_people
from engine.registry.references import ATTEMPT_TEMPLATES, erase_attempt_templates
from engine.registry.rows import changing_rows, open_each
from engine.registry.vault import Vault
from engine.registry.webhooks import Webhooks
from engine.registry.writer import ERASED, Writer
from schema.cases import ALIVE, CaseNote, NoteKind

Strip = Callable[[Json], Json]
"""Reduces an attempt's evidence to what is not about a person."""
Wipe = Callable[[Connection, Vault, Sequence[Any], datetime, Strip], None]
_opened, _standing = CASES.alias("opened"), CASES.alias("standing")

_EXPIRE_ATTEMPT = (
    update(ENROLLMENTS)
    .where(ENROLLMENTS.c.id == bindparam("key"))
    .values(
        evidence=bindparam("stays"), consent_ref=None, captured_at=None, expired_at=bindparam("at")
    )
)


def wipe_attempts(
    connection: Connection, vault: Vault, ids: Sequence[Any], now: datetime, strip: Strip
) -> None:
    """Wipes what describes a person; stored answers, templates and crops are deleted."""
    found = select(ENROLLMENTS.c.id, ENROLLMENTS.c.evidence).where(ENROLLMENTS.c.id.in_(ids))
    stripped = [
        {"key": row.id, "stays": {} if is_damaged else dict(strip(row.evidence)), "at": now}
        for row in connection.execute(found)
        for is_damaged in (vault.set_aside.has(ENROLLMENTS.name, f"row {row.id}"),)
    ]
    connection.execute(_EXPIRE_ATTEMPT, stripped)
    connection.execute(delete(IDEMPOTENCY).where(IDEMPOTENCY.c.enrollment_id.in_(ids)))
    connection.execute(delete(CROPS).where(CROPS.c.enrollment_id.in_(ids)))
    shown = ATTEMPT_TEMPLATES
    connection.execute(delete(shown).where(shown.c.id.in_(ids)))


def wipe_documents(
    connection: Connection, vault: Vault, ids: Sequence[Any], now: datetime, _: Strip
) -> None:
    """Wipes as an erasure does: a block outlives the document's identity, and the notes of a case
    go with the last document that it names."""
    wiped = update(DOCUMENTS).where(DOCUMENTS.c.id.in_(ids)).values(**ERASED, erased_at=now)
    connection.execute(wiped)
    for document_id in ids:
        forget_people(connection, vault, document_id, now)
    erase_notes(connection, vault, ids)
    erase_crops(connection, ids)
    erase_attempt_templates(connection, ids)


def wipe_lines(connection: Connection, _: Vault, ids: Sequence[Any], *__: object) -> None:
    connection.execute(
        update(LINES).where(LINES.c.id.in_(ids)).values(msisdn=None, msisdn_lookup=None)
    )


ROWS_PER_BATCH = 500
"""So many rows delay decisions by a tenth of a second at most."""
Until = Mapping["Kind", datetime]
"""By kind, the newest moment that has stayed its time; a kind without one is kept."""
Hold = timedelta | None
"""How long beyond its time an open case keeps what it needs; None: until it is closed."""

# Not as parameters: a partial index serves only a query that says what the index does.
_REJECTED: ColumnElement[str] = literal_column("'rejected'")
_REVIEW: ColumnElement[str] = literal_column("'review'")
_ATTEMPTED: ColumnElement[str] = literal_column("'attempted'")
_CLOSED: ColumnElement[str] = literal_column("'closed'")
_IS_MARKED: ColumnElement[bool] = literal_column(f"number % {EVENTS_MARKED} < 2")


class Kind(StrEnum):
    """What may expire, in the order in which it does."""

    ATTEMPTS = "attempts"
    """Of rejected attempts: evidence, consent, capture time, stored answer, template, crops. The
    decision stays, with its reasons."""
    REVIEWS = "reviews"
    """The same of attempts that people decided."""
    DOCUMENTS = "documents"
    """Number, name and look-ups of documents known from such attempts alone."""
    LINES = "lines"
    """The numbers of closed lines; the lines stay."""
    ANSWERS = "answers"
    """Stored answers by Idempotency-Key: the same request would be judged anew."""
    CROPS = "crops"
    LIVENESS = "liveness"
    """What capture systems said of faces, and when."""
    EXCEPTIONS = "exceptions"
    """Decided, and without a line in use: who had no usable face, and why."""
    GUARDIANS = "guardians"
    """Who answered for whom, since the end of the year in which that ended."""
    EVENTS = "events"
    """What systems of carriers were told, or could have read."""
    LINE_EVENTS = "line_events"
    """What happened to lines: ids, moments and causes."""


@dataclass(frozen=True, slots=True)
class Due:
    """How many rows expire now, and how many more an open case holds back."""

    rows: int
    held: int


@dataclass(frozen=True, slots=True)
class Job:
    """One run of retention."""

    id: str
    actor: str
    until: Until
    strip: Strip
    hold: Hold = None
    undelivered: Counter[str] = field(default_factory=Counter)
    """Of events that leave, how many each webhook has not taken, counted while it runs."""


def count_due(source: Writer | Source, kind: Kind, until: Until, hold: Hold = None) -> Due:
    """Counts what of a kind expires now."""
    rule = _RULES[kind]
    is_due, is_held = rule.is_due(until, hold), rule.find_held(until, hold)
    counts = [func.count(case((~is_held, 1))), func.count(case((is_held, 1)))]
    query: Any = select(*counts).where(is_due)
    rows, held = tuple(source.rows(query)[0])
    return Due(rows, held)


def expire(writer: Writer, kind: Kind, job: Job, now: datetime, limit: int = ROWS_PER_BATCH) -> int:
    """Wipes at most `limit` rows in one audited transaction, oldest first; 0 when none is left.

    To be called on the writer's thread, where nothing changes between the query and the wiping.
    """
    rule = _RULES[kind]
    is_due, is_held = rule.is_due(job.until, job.hold), rule.find_held(job.until, job.hold)
    query = select(rule.key).where(is_due, ~is_held).order_by(*rule.order)
    # A row whose key is damaged stays, as nothing finds it.
    keys = [row[0] for row in writer.rows(query.limit(limit)) if row[0] is not UNREADABLE]
    if not keys:
        return 0
    until = job.until[kind].astimezone(UTC).isoformat()
    detail = {"job": job.id, "rows": len(keys), "until": until}
    entry = AuditEntry(job.actor, "retention.expired", kind.value, detail)
    if kind is Kind.EVENTS:
        job.undelivered.update(Webhooks(writer.engine, writer.vault).count_leaving(keys))
    with writer.changing(entry) as connection:
        for part in chunks(keys):
            if rule.document is not None and job.hold is not None:
                _tell_cases(connection, writer.vault, rule, part, kind, job.actor, now)
            if rule.wipe is None:
                connection.execute(delete(rule.key.table).where(rule.key.in_(part)))
            else:
                with changing_rows(connection, writer.vault, {rule.key.table: part}):
                    rule.wipe(connection, writer.vault, part, now, job.strip)
    return len(keys)


def _tell_cases(
    connection: Connection,
    vault: Vault,
    rule: _Rule,
    keys: Sequence[Any],
    kind: Kind,
    actor: str,
    now: datetime,
) -> None:
    """Says in the history of open cases that what they need goes all the same: their hold is over.

    Who has read such a case before must read it again to decide it.
    """
    assert rule.document is not None
    documents = select(rule.document).where(rule.key.in_(keys))
    is_alive = CASES.c.state.in_([state.value for state in ALIVE])
    named = select(CASE_DOCUMENTS.c.case_id).where(CASE_DOCUMENTS.c.document_id.in_(documents))
    rows = connection.execute(select(CASES).where(CASES.c.id.in_(named), is_alive)).all()
    found = list(open_each(rows, partial(case_of, vault)))
    changed = [replace(one, updated_at=date_change(one, now)) for one in found]
    if changed:
        change_cases(connection, vault, changed, now)
        note = CaseNote(now, actor, NoteKind.EXPIRED, kind.value)
        write_notes(connection, vault, [(one.id, note) for one in changed])


@dataclass(frozen=True, slots=True)
class _Rule:
    """How one kind is found, and wiped where its rows stay.

    A row whose `document` an open case names is held, as long as it `stays` by a later moment:
    that at which it would have gone, and the hold.
    """

    key: Column[Any]
    is_due: Callable[[Until, Hold], ColumnElement[bool]]
    order: tuple[Column[Any], ...]
    wipe: Wipe | None = None
    document: Column[Any] | None = None
    kind: Kind | None = None
    dated: Column[Any] | None = None

    def find_held(self, until: Until, hold: Hold) -> ColumnElement[bool]:
        """True where an open case needs the row, and its hold is not over."""
        if self.document is None or self.dated is None or self.kind is None:
            return false()
        return _is_held(self.document, self.dated, until[self.kind], hold)


# Nothing expires of a document in an open case: not itself, no attempt, line or face under it.
_LOOKED_INTO = (
    select(CASE_DOCUMENTS.c.document_id)
    .join(CASES, CASES.c.id == CASE_DOCUMENTS.c.case_id)
    .where(CASES.c.state.in_([state.value for state in ALIVE]))
)


def _is_held(
    document: Column[Any], dated: Column[Any], until: datetime, hold: Hold
) -> ColumnElement[bool]:
    is_needed = and_(document.is_not(None), document.in_(_LOOKED_INTO))
    return is_needed if hold is None else and_(is_needed, dated > until - hold)


def _due_reviews(until: Until, _: Hold) -> ColumnElement[bool]:
    """Counted from the close of the case that they opened or went into, where that is later: what
    people have decided on can be looked at for as long as what the rules have."""
    is_newly_closed = exists().where(
        _opened.c.enrollment_id == ENROLLMENTS.c.id,
        _standing.c.id == func.coalesce(_opened.c.merged_into, _opened.c.id),
        _standing.c.closed_at > until[Kind.REVIEWS],
    )
    return and_(_has_stayed(_REVIEW, until[Kind.REVIEWS]), ~is_newly_closed)


def _has_stayed(decision: ColumnElement[str], until: datetime) -> ColumnElement[bool]:
    return and_(
        ENROLLMENTS.c.decision == decision,
        ENROLLMENTS.c.expired_at.is_(None),
        ENROLLMENTS.c.created_at <= until,
    )


def _due_documents(until: Until, hold: Hold) -> ColumnElement[bool]:
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


_DUE_ATTEMPTS: dict[Kind, Callable[[Until, Hold], ColumnElement[bool]]] = {
    Kind.ATTEMPTS: lambda until, _: _has_stayed(_REJECTED, until[Kind.ATTEMPTS]),
    Kind.REVIEWS: _due_reviews,
}


def _due_lines(until: Until, _: Hold) -> ColumnElement[bool]:
    return and_(
        LINES.c.status == _CLOSED,
        LINES.c.msisdn.is_not(None),
        LINES.c.closed_at <= until[Kind.LINES],
    )


def _due_events(until: Until, _: Hold) -> ColumnElement[bool]:
    """Those up to the last marked row of that time, and those after it that are as old, but the
    newest of all: numbers go on from it, and places in the feed are known by it."""
    number = EVENTS.c.number
    marks = select(func.max(number)).where(_IS_MARKED, EVENTS.c.at <= until[Kind.EVENTS])
    last = func.coalesce(marks.scalar_subquery(), 0)
    return and_(
        number < last + 2 * EVENTS_MARKED,
        number < select(func.max(number)).scalar_subquery(),
        EVENTS.c.at <= until[Kind.EVENTS],
    )


_ATTEMPT_ORDER = (ENROLLMENTS.c.created_at, ENROLLMENTS.c.id)
_RULES = {
    **{
        kind: _Rule(
            ENROLLMENTS.c.id,
            is_due,
            _ATTEMPT_ORDER,
            wipe_attempts,
            ENROLLMENTS.c.document_id,
            kind,
            ENROLLMENTS.c.created_at,
        )
        for kind, is_due in _DUE_ATTEMPTS.items()
    },
    Kind.DOCUMENTS: _Rule(
        DOCUMENTS.c.id,
        _due_documents,
        (DOCUMENTS.c.id,),
        wipe_documents,
        DOCUMENTS.c.id,
        Kind.DOCUMENTS,
        DOCUMENTS.c.created_at,
    ),
    Kind.LINES: _Rule(
        LINES.c.id,
        _due_lines,
        (LINES.c.closed_at, LINES.c.id),
        wipe_lines,
        LINES.c.document_id,
        Kind.LINES,
        LINES.c.closed_at,
    ),
    Kind.ANSWERS: _Rule(
        IDEMPOTENCY.c.scope,
        lambda until, _: IDEMPOTENCY.c.created_at <= until[Kind.ANSWERS],
        (IDEMPOTENCY.c.created_at,),
    ),
    Kind.CROPS: _Rule(
        CROPS.c.id,
        lambda until, _: CROPS.c.kept_until <= until[Kind.CROPS],
        (CROPS.c.kept_until,),
        document=CROPS.c.document_id,
        kind=Kind.CROPS,
        dated=CROPS.c.kept_until,
    ),
    Kind.LIVENESS: _Rule(
        LIVENESS.c.id,
        lambda until, _: LIVENESS.c.received_at <= until[Kind.LIVENESS],
        (LIVENESS.c.received_at,),
    ),
    Kind.EVENTS: _Rule(EVENTS.c.number, _due_events, (EVENTS.c.number,)),
    Kind.LINE_EVENTS: _Rule(
        LINE_EVENTS.c.id,
        lambda until, _: LINE_EVENTS.c.recorded_at <= until[Kind.LINE_EVENTS],
        (LINE_EVENTS.c.recorded_at,),
    ),
    Kind.EXCEPTIONS: _Rule(
        EXCEPTIONS.c.id,
        lambda until, _: and_(
            EXCEPTIONS.c.decided_at <= until[Kind.EXCEPTIONS],
            ~exists().where(LINES.c.id == EXCEPTIONS.c.line_id, LINES.c.status != _CLOSED),
        ),
        (EXCEPTIONS.c.decided_at,),
    ),
    Kind.GUARDIANS: _Rule(
        GUARDIANSHIPS.c.line_id,
        lambda until, _: GUARDIANSHIPS.c.ends_in < until[Kind.GUARDIANS].year,
        (GUARDIANSHIPS.c.ends_in,),
    ),
}
