"""Events for the systems of carriers: an outbox, written in the transaction of what happened.

What is acknowledged therefore has its events, whatever ends afterwards, and they have its order.
An event says what happened to which id and no more: whoever may read that reads it by its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select

from engine.reasons import Reason
from engine.registry import tables
from engine.registry.database import chunks
from engine.registry.reader import Reader
from engine.registry.records import CaseState, Changes, LineEventKind, new_id
from engine.registry.row_macs import require_authentic, with_macs
from engine.registry.vault import Vault

EVENT_DATA = "events.data"
MOST_EVENTS = 500
"""In one page of a feed."""


class EventType(StrEnum):
    """What may happen; `subject` is the id of what it happened to."""

    ENROLLMENT_DECIDED = "enrollment.decided"
    LINE_OPENED = "line.opened"
    LINE_DISPUTED = "line.disputed"
    LINE_RESTORED = "line.restored"
    LINE_CLOSED = "line.closed"
    CASE_OPENED = "case.opened"
    CASE_CLOSED = "case.closed"
    WATCHLIST_HIT = "watchlist.hit"
    SWEEP_FINISHED = "sweep.finished"
    ERASURE_DONE = "erasure.done"
    # What happens to lines, by its kind; `line.closed` stands above.
    LINE_SIM_SWAP = "line.sim_swap"
    LINE_DEVICE_CHANGE = "line.device_change"
    LINE_PORT_IN = "line.port_in"
    LINE_PORT_OUT = "line.port_out"
    LINE_TRANSFER = "line.transfer"
    LINE_ESIM_DOWNLOAD = "line.esim_download"
    LINE_REVERIFY_ASKED = "line.reverify_asked"
    LINE_REVERIFIED = "line.reverified"
    LINE_REVERIFY_FAILED = "line.reverify_failed"
    LINE_OVERDUE = "line.overdue"
    LINE_PENDING = "line.pending"
    LINE_SUSPENDED_OUTGOING = "line.suspended_outgoing"
    LINE_SUSPENDED = "line.suspended"
    LINE_UNSUSPENDED = "line.unsuspended"


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `number` is its place among all. Those of one `subject` are in its order.

    Without a `carrier` it is for fraud teams and operators, who are also told all others.
    """

    number: int
    id: str
    type: EventType
    at: datetime
    subject: str
    carrier: str | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _New:
    type: EventType
    subject: str
    carrier: str | None
    data: Mapping[str, Any]


_events, _lines, _sweeps = tables.events, tables.lines, tables.sweeps
_LAST = select(func.coalesce(func.max(_events.c.number), 0))
_LINES = select(_lines.c.id, _lines.c.carrier, _lines.c.document_id).where(
    _lines.c.id.in_(bindparam("keys", expanding=True))
)
_LINES_OF = select(_lines.c.id, _lines.c.carrier, _lines.c.status).where(
    _lines.c.document_id == bindparam("key")
)
_UNFINISHED = select(_sweeps.c.id).where(
    _sweeps.c.id.in_(bindparam("keys", expanding=True)), _sweeps.c.ended_at.is_(None)
)


def find_events(connection: Connection, changes: Changes) -> list[_New]:
    """What these changes are to others; to be called before they are made."""
    found = [*_of_enrollments(changes), *_of_life(connection, changes)]
    found += _of_lines(connection, changes)
    for case in changes.cases:
        found.append(_New(EventType.CASE_OPENED, case.id, None, {"kind": str(case.kind)}))
    for case in changes.case_changes:
        if case.state is CaseState.CLOSED and case.outcome is not None:
            told = {"kind": str(case.kind), "outcome": case.outcome.value}
            found.append(_New(EventType.CASE_CLOSED, case.id, None, told))
    ended = [one for one in changes.sweeps if one.ended_at is not None]
    if ended:
        # A sweep's row is written again when its files leave.
        given = {"keys": [one.id for one in ended]}
        running = set(connection.scalars(_UNFINISHED, given))
        found += [
            _New(EventType.SWEEP_FINISHED, one.id, None, {"state": one.state.value})
            for one in ended
            if one.id in running
        ]
    return found


def _of_enrollments(changes: Changes) -> Iterator[_New]:
    opened = {line.enrollment_id: line.id for line in changes.lines}
    for one in changes.enrollments:
        data = {"decision": str(one.decision), "outlet": one.outlet, "line_id": opened.get(one.id)}
        yield _New(EventType.ENROLLMENT_DECIDED, one.id, one.carrier, data)
        if Reason.WATCHLISTED in one.reasons:
            told = {"carrier": one.carrier, "outlet": one.outlet}
            yield _New(EventType.WATCHLIST_HIT, one.id, None, told)
    for line in changes.lines:
        # An imported base is the carrier's own: it is told of nothing that it does not know.
        if line.enrollment_id is not None:
            told = {"enrollment_id": line.enrollment_id, "outlet": line.outlet}
            yield _New(EventType.LINE_OPENED, line.id, line.carrier, told)


def _of_life(connection: Connection, changes: Changes) -> Iterator[_New]:
    if changes.life is None:
        return
    happened = [one for one in changes.life.events if one.kind is not LineEventKind.CLOSED]
    ids = list(dict.fromkeys(one.line_id for one in happened))
    carriers = {
        row.id: row.carrier
        for part in chunks(ids)
        for row in connection.execute(_LINES, {"keys": part})
    }
    for one in happened:
        told = {"at": one.at.isoformat(), "cause": one.cause}
        yield _New(EventType(f"line.{one.kind}"), one.line_id, carriers[one.line_id], told)


def _of_lines(connection: Connection, changes: Changes) -> Iterator[_New]:
    kinds = (
        (EventType.LINE_DISPUTED, changes.disputed_lines),
        (EventType.LINE_RESTORED, changes.restored_lines),
        (EventType.LINE_CLOSED, changes.closed_lines),
    )
    for kind, ids in kinds:
        for part in chunks(list(ids)):
            for row in connection.execute(_LINES, {"keys": part}):
                yield _New(kind, row.id, row.carrier, {})
    for document_id in changes.erased_documents:
        under = connection.execute(_LINES_OF, {"key": document_id}).all()
        for row in under:
            if row.status != "closed":
                yield _New(EventType.LINE_CLOSED, row.id, row.carrier, {})
        for carrier in sorted({row.carrier for row in under}) or [None]:
            yield _New(EventType.ERASURE_DONE, document_id, carrier, {})


def write_events(connection: Connection, vault: Vault, found: Sequence[_New], at: datetime) -> None:
    """Adds them after all that are there, each sealed for its row."""
    if not found:
        return
    last = connection.scalar(_LAST) or 0
    rows = []
    for number, one in enumerate(found, last + 1):
        event_id = new_id()
        data = json.dumps(one.data, separators=(",", ":")).encode()
        rows.append(
            {
                "number": number,
                "id": event_id,
                "type": one.type.value,
                "at": at,
                "subject": one.subject,
                "carrier": one.carrier,
                "data": vault.seal(EVENT_DATA, event_id, data),
            }
        )
    connection.execute(insert(_events), with_macs(vault, _events, rows))


def read_events(
    source: Reader,
    after: int,
    limit: int = MOST_EVENTS,
    *,
    carrier: str | None = None,
    types: Sequence[EventType] = (),
) -> list[Event]:
    """Events beyond a number, in their order; of one carrier alone where it is given."""
    query = select(_events).where(_events.c.number > after)
    if carrier is not None:
        query = query.where(_events.c.carrier == carrier)
    if types:
        query = query.where(_events.c.type.in_([one.value for one in types]))
    found = []
    for row in source.rows(query.order_by(_events.c.number).limit(limit)):
        require_authentic(source.vault, _events, row)
        data = json.loads(source.vault.open(EVENT_DATA, row.id, row.data))
        given = (row.number, row.id, EventType(row.type), row.at, row.subject, row.carrier, data)
        found.append(Event(*given))
    return found
