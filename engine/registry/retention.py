"""Retention: finds by kind what has stayed its time, and wipes it in bounded transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
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

from engine.registry import tables
from engine.registry.database import Source, chunks
from engine.registry.records import ALIVE, AuditEntry, Json
from engine.registry.row_macs import changing_rows
from engine.registry.rows import erase_crops, erase_notes
from engine.registry.vault import Vault
from engine.registry.writer import ERASED, Writer

Strip = Callable[[Json], Json]
"""Reduces an attempt's evidence to what is not about a person."""
Wipe = Callable[[Connection, Vault, Sequence[Any], datetime, Strip], None]

_cases, _documents, _enrollments = tables.cases, tables.documents, tables.enrollments
_lines, _answers = tables.lines, tables.idempotency
_crops, _named = tables.crops, tables.case_documents
_opened, _standing = _cases.alias("opened"), _cases.alias("standing")

_EXPIRE_ATTEMPT = (
    update(_enrollments)
    .where(_enrollments.c.id == bindparam("key"))
    .values(
        evidence=bindparam("stays"), consent_ref=None, captured_at=None, expired_at=bindparam("at")
    )
)


def wipe_attempts(
    connection: Connection, _: Vault, ids: Sequence[Any], now: datetime, strip: Strip
) -> None:
    """Wipes what describes a person; stored answers and crops are deleted."""
    found = select(_enrollments.c.id, _enrollments.c.evidence).where(_enrollments.c.id.in_(ids))
    stripped = [
        {"key": row.id, "stays": dict(strip(row.evidence)), "at": now}
        for row in connection.execute(found)
    ]
    connection.execute(_EXPIRE_ATTEMPT, stripped)
    connection.execute(delete(_answers).where(_answers.c.enrollment_id.in_(ids)))
    connection.execute(delete(_crops).where(_crops.c.enrollment_id.in_(ids)))


def wipe_documents(
    connection: Connection, vault: Vault, ids: Sequence[Any], now: datetime, _: Strip
) -> None:
    """Wipes as an erasure does: a block outlives the document's identity, and the notes of a case
    go with the last document that it names."""
    wiped = update(_documents).where(_documents.c.id.in_(ids)).values(**ERASED, erased_at=now)
    connection.execute(wiped)
    erase_notes(connection, vault, ids)
    erase_crops(connection, ids)


def wipe_lines(connection: Connection, _: Vault, ids: Sequence[Any], *__: object) -> None:
    connection.execute(
        update(_lines).where(_lines.c.id.in_(ids)).values(msisdn=None, msisdn_lookup=None)
    )


ROWS_PER_BATCH = 500
"""So many rows delay decisions by a tenth of a second at most."""
Until = Mapping["Kind", datetime]
"""By kind, the newest moment that has stayed its time; a kind without one is kept."""

# Not as parameters: a partial index serves only a query that says what the index does.
_REJECTED: ColumnElement[str] = literal_column("'rejected'")
_REVIEW: ColumnElement[str] = literal_column("'review'")
_ATTEMPTED: ColumnElement[str] = literal_column("'attempted'")
_CLOSED: ColumnElement[str] = literal_column("'closed'")


class Kind(StrEnum):
    """What may expire, in the order in which it does."""

    ATTEMPTS = "attempts"
    """Of rejected attempts: evidence, consent, capture time, stored answer, crops. The decision
    stays, with its reasons."""
    REVIEWS = "reviews"
    """The same of attempts that people decided."""
    DOCUMENTS = "documents"
    """Number, name and look-ups of documents known from such attempts alone."""
    LINES = "lines"
    """The numbers of closed lines; the lines stay."""
    ANSWERS = "answers"
    """Stored answers by Idempotency-Key: the same request would be judged anew."""
    CROPS = "crops"


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


def count_due(source: Writer | Source, kind: Kind, until: Until) -> Due:
    """Counts what of a kind expires now."""
    rule = _RULES[kind]
    is_due, is_held = rule.is_due(until), rule.is_held
    counts = [func.count(case((~is_held, 1))), func.count(case((is_held, 1)))]
    query: Any = select(*counts).where(is_due)
    rows, held = tuple(source.rows(query)[0])
    return Due(rows, held)


def expire(writer: Writer, kind: Kind, job: Job, now: datetime, limit: int = ROWS_PER_BATCH) -> int:
    """Wipes at most `limit` rows in one audited transaction, oldest first; 0 when none is left.

    To be called on the writer's thread, where nothing changes between the query and the wiping.
    """
    rule = _RULES[kind]
    query = select(rule.key).where(rule.is_due(job.until), ~rule.is_held).order_by(*rule.order)
    keys = [row[0] for row in writer.rows(query.limit(limit))]
    if not keys:
        return 0
    until = job.until[kind].astimezone(UTC).isoformat()
    detail = {"job": job.id, "rows": len(keys), "until": until}
    entry = AuditEntry(job.actor, "retention.expired", kind.value, detail)
    with writer.changing(entry) as connection:
        for part in chunks(keys):
            if rule.wipe is None:
                connection.execute(delete(rule.key.table).where(rule.key.in_(part)))
            else:
                with changing_rows(connection, writer.vault, {rule.key.table: part}):
                    rule.wipe(connection, writer.vault, part, now, job.strip)
    return len(keys)


@dataclass(frozen=True, slots=True)
class _Rule:
    """How one kind is found, and wiped where its rows stay; `is_held` is true where an open case
    names the row."""

    key: Column[Any]
    is_due: Callable[[Until], ColumnElement[bool]]
    order: tuple[Column[Any], ...]
    wipe: Wipe | None = None
    is_held: ColumnElement[bool] = field(default_factory=false)


# Nothing expires of a document in an open case: not itself, no attempt or line under it.
_LOOKED_INTO = (
    select(_named.c.document_id)
    .join(_cases, _cases.c.id == _named.c.case_id)
    .where(_cases.c.state.in_([state.value for state in ALIVE]))
)
_IS_HELD_ATTEMPT = and_(
    _enrollments.c.document_id.is_not(None), _enrollments.c.document_id.in_(_LOOKED_INTO)
)
_IS_HELD_DOCUMENT = _documents.c.id.in_(_LOOKED_INTO)
_IS_HELD_LINE = _lines.c.document_id.in_(_LOOKED_INTO)


def _due_reviews(until: Until) -> ColumnElement[bool]:
    """Counted from the close of the case that they opened or went into, where that is later: what
    people have decided on can be looked at for as long as what the rules have."""
    is_newly_closed = exists().where(
        _opened.c.enrollment_id == _enrollments.c.id,
        _standing.c.id == func.coalesce(_opened.c.merged_into, _opened.c.id),
        _standing.c.closed_at > until[Kind.REVIEWS],
    )
    return and_(_has_stayed(_REVIEW, until[Kind.REVIEWS]), ~is_newly_closed)


def _has_stayed(decision: ColumnElement[str], until: datetime) -> ColumnElement[bool]:
    return and_(
        _enrollments.c.decision == decision,
        _enrollments.c.expired_at.is_(None),
        _enrollments.c.created_at <= until,
    )


def _due_documents(until: Until) -> ColumnElement[bool]:
    """Attempted, and no attempt under it stays."""
    has_left = _enrollments.c.expired_at.is_not(None)
    due = [is_due(until) for kind, is_due in _DUE_ATTEMPTS.items() if kind in until]
    leaves = and_(or_(false(), *due), ~_IS_HELD_ATTEMPT)
    under_it = _enrollments.c.document_id == _documents.c.id
    return and_(
        _documents.c.status == _ATTEMPTED,
        exists().where(under_it),
        ~exists().where(under_it, ~or_(has_left, leaves)),
    )


_DUE_ATTEMPTS: dict[Kind, Callable[[Until], ColumnElement[bool]]] = {
    Kind.ATTEMPTS: lambda until: _has_stayed(_REJECTED, until[Kind.ATTEMPTS]),
    Kind.REVIEWS: _due_reviews,
}


def _due_lines(until: Until) -> ColumnElement[bool]:
    return and_(
        _lines.c.status == _CLOSED,
        _lines.c.msisdn.is_not(None),
        _lines.c.closed_at <= until[Kind.LINES],
    )


_ATTEMPT_ORDER = (_enrollments.c.created_at, _enrollments.c.id)
_RULES = {
    **{
        kind: _Rule(_enrollments.c.id, is_due, _ATTEMPT_ORDER, wipe_attempts, _IS_HELD_ATTEMPT)
        for kind, is_due in _DUE_ATTEMPTS.items()
    },
    Kind.DOCUMENTS: _Rule(
        _documents.c.id, _due_documents, (_documents.c.id,), wipe_documents, _IS_HELD_DOCUMENT
    ),
    Kind.LINES: _Rule(
        _lines.c.id, _due_lines, (_lines.c.closed_at, _lines.c.id), wipe_lines, _IS_HELD_LINE
    ),
    Kind.ANSWERS: _Rule(
        _answers.c.scope,
        lambda until: _answers.c.created_at <= until[Kind.ANSWERS],
        (_answers.c.created_at,),
    ),
    Kind.CROPS: _Rule(
        _crops.c.id, lambda until: _crops.c.kept_until <= until[Kind.CROPS], (_crops.c.kept_until,)
    ),
}
