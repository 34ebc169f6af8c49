"""What a row loses when its time is over; the row itself stays, where it is not told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, select, update

from engine.registry import casetables, tables
from engine.registry.caserows import erase_notes
from engine.registry.records import DocumentStatus, Json

Strip = Callable[[Json], Json]
"""What stays of an attempt's evidence: nothing about a person."""
Wipe = Callable[[Connection, Sequence[Any], datetime, Strip], None]

_documents, _enrollments = tables.documents, tables.enrollments
_lines, _answers, _crops = tables.lines, tables.idempotency, casetables.crops

_EXPIRE_ATTEMPT = (
    update(_enrollments)
    .where(_enrollments.c.id == bindparam("key"))
    .values(
        evidence=bindparam("stays"),
        consent_ref=None,
        captured_at=None,
        expired_at=bindparam("at"),
    )
)


def wipe_attempts(connection: Connection, ids: Sequence[Any], now: datetime, strip: Strip) -> None:
    """With their stored answers and crops, which go as a whole."""
    found = select(_enrollments.c.id, _enrollments.c.evidence).where(_enrollments.c.id.in_(ids))
    stripped = [
        {"key": row.id, "stays": dict(strip(row.evidence)), "at": now}
        for row in connection.execute(found)
    ]
    connection.execute(_EXPIRE_ATTEMPT, stripped)
    connection.execute(delete(_answers).where(_answers.c.enrollment_id.in_(ids)))
    connection.execute(delete(_crops).where(_crops.c.enrollment_id.in_(ids)))


def wipe_documents(connection: Connection, ids: Sequence[Any], now: datetime, _: Strip) -> None:
    """As an erasure does it: a block outlives what the document was known by; what people wrote
    goes with the last whom their case names."""
    blocked_lookup = case((_documents.c.blocked_at.is_not(None), _documents.c.lookup), else_=None)
    connection.execute(
        update(_documents)
        .where(_documents.c.id.in_(ids))
        .values(
            status=DocumentStatus.ERASED.value,
            lookup=blocked_lookup,
            name_lookup=None,
            identity=None,
            expires_on=None,
            erased_at=now,
        )
    )
    erase_notes(connection, ids)


def wipe_lines(connection: Connection, ids: Sequence[Any], *_: object) -> None:
    """Their numbers."""
    connection.execute(
        update(_lines).where(_lines.c.id.in_(ids)).values(msisdn=None, msisdn_lookup=None)
    )


def wipe_answers(connection: Connection, scopes: Sequence[Any], *_: object) -> None:
    """As a whole."""
    connection.execute(delete(_answers).where(_answers.c.scope.in_(scopes)))


def wipe_crops(connection: Connection, ids: Sequence[Any], *_: object) -> None:
    """As a whole."""
    connection.execute(delete(_crops).where(_crops.c.id.in_(ids)))
