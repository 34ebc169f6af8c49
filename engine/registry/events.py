"""Events for the systems of carriers: an outbox, written in the transaction of what happened.

What is acknowledged therefore has its events, whatever ends afterwards, and they have its order.
An event says what happened to which id and no more: whoever may read that reads it by its id.
"""

from __future__ import annotations

import os
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    ForeignKey,
    Index,
    Row,
    Select,
    String,
    Table,
    bindparam,
    insert,
    select,
)

from engine.errors import PlaceUnknown
from engine.registry.accounts import OutletChange
from engine.registry.audit import AuditEntry
from engine.registry.campaigns import LifeChanges
from engine.registry.cases import CASES, CaseRecord
from engine.registry.database import Moment, Source, chunks, new_id
from engine.registry.documents import AskedErasure, NewDocument
from engine.registry.enrollments import (
    EnrollmentRecord,
    LivenessRecord,
    NewCrop,
    StoredAnswer,
    Tally,
)
from engine.registry.lines import LINES, LineEvent, NewLine
from engine.registry.people import PeopleChanges
from engine.registry.references import AttemptTemplate, NewReference, SecondTemplate, WatchEntry
from engine.registry.rows import (
    Code,
    RowNumber,
    UuidText,
    is_authentic,
    mac_column,
    metadata,
    open_each,
    open_some,
    partial_index,
    require_authentic,
    sealed_column,
    values_of,
    with_macs,
)
from engine.registry.sweeps import SWEEPS, JudgedPair
from engine.registry.vault import Vault
from schema.cases import ALIVE, CaseNote, CaseState
from schema.events import EventType
from schema.lines import CampaignState, LineEventKind, LineStatus
from schema.reasons import Decision, Reason
from schema.sweeps import SweepRecord

# What happened, for the systems of carriers: written with it, in its order.
EVENTS = Table(
    "events",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=False),
    Column("id", UuidText, nullable=False),
    Column("type", String(32), nullable=False),
    Column("at", Moment, nullable=False),
    Column("subject", UuidText, nullable=False),
    # Null of what no carrier is told.
    Column("carrier", Code, ForeignKey("carriers.code")),
    sealed_column("data", nullable=False),
    mac_column(),
    # Of an enrollment that opened this line: the row is that event too, of the next number.
    Column("line_id", UuidText),
    # Whose it is, where the subject is something of a document: its events wait for one another.
    Column("document_id", UuidText),
)
Index("ix_events_carrier", EVENTS.c.carrier, EVENTS.c.number)
# Numbers follow the time, so few rows need an entry. A row has two numbers at most: one of two
# that follow each other is some row's own.
EVENTS_MARKED = 128
partial_index("ix_events_marks", EVENTS.c.at, where=f"number % {EVENTS_MARKED} < 2")


@dataclass(frozen=True, slots=True)
class Changes:
    """One transaction: all of it is stored, or nothing.

    `sequence` is the gallery's after these changes. Every commit carries at least one audit
    entry. Sweeps and judged pairs replace those of the same id or documents. A removed reference
    keeps its row, without a template. An erased document loses its number, name and look-ups, and
    its lines are closed and lose theirs; the caller removes its references in the same changes. A
    blocked document keeps its keyed look-up through an erasure and loses it when it is unblocked.
    """

    sequence: int
    audit: Sequence[AuditEntry]
    documents: Sequence[NewDocument] = ()
    activated_documents: Sequence[NewDocument] = ()
    """Documents that were attempted, under the id they have, with what makes them active."""
    enrollments: Sequence[EnrollmentRecord] = ()
    references: Sequence[NewReference] = ()
    lines: Sequence[NewLine] = ()
    cases: Sequence[CaseRecord] = ()
    case_changes: Sequence[CaseRecord] = ()
    """Cases that are there, as they are from now on."""
    answers: Sequence[StoredAnswer] = ()
    removed_references: Sequence[tuple[int, int]] = ()
    """Reference id and the gallery sequence of its removal."""
    disputed_lines: Sequence[str] = ()
    closed_lines: Sequence[str] = ()
    blocked_documents: Sequence[str] = ()
    unblocked_documents: Sequence[str] = ()
    erased_documents: Sequence[str] = ()
    asked_erasures: Sequence[AskedErasure] = ()
    outlets: Sequence[OutletChange] = ()
    watched: Sequence[WatchEntry] = ()
    unwatched: Sequence[int] = ()
    case_notes: Sequence[tuple[str, CaseNote]] = ()
    """Case id and an entry of its history; those of one case in their order."""
    judged: Sequence[JudgedPair] = ()
    sweeps: Sequence[SweepRecord] = ()
    crops: Sequence[NewCrop] = ()
    restored_lines: Sequence[str] = ()
    """Disputed lines that are active again."""
    cause: str | None = None
    """Why people close, dispute or restore these lines."""
    tallies: Sequence[Tally] = ()
    """Of one name as many as there are."""
    attempt_templates: Sequence[AttemptTemplate] = ()
    """Those of a document go when it becomes active, and has a reference."""
    filled_references: Sequence[tuple[int, SecondTemplate]] = ()
    """Reference id and its template of a second model; one that was removed is left alone."""
    liveness: Sequence[LivenessRecord] = ()
    life: LifeChanges | None = None
    people: PeopleChanges | None = None


_IN_USE_UNDER = (
    select(LINES.c.id)
    .where(LINES.c.document_id == bindparam("key"), LINES.c.status != LineStatus.CLOSED.value)
    .order_by(LINES.c.id)
)


def add_events_of_people(connection: Connection, changes: Changes, at: datetime) -> Changes:
    """The changes with an event of each line that people close, dispute or restore; those of rules
    and reports are in them already. To be called before anything is written."""
    life = changes.life or LifeChanges()
    told = {one.line_id for one in life.events if one.kind is LineEventKind.CLOSED}
    closed = [key for key in changes.closed_lines if key not in told]
    happened = [
        (LineEventKind.DISPUTED, changes.disputed_lines, changes.cause),
        (LineEventKind.RESTORED, changes.restored_lines, changes.cause),
        (LineEventKind.CLOSED, closed, changes.cause),
    ]
    for document_id in changes.erased_documents:
        under = connection.scalars(_IN_USE_UNDER, {"key": document_id}).all()
        happened.append((LineEventKind.CLOSED, under, "erasure"))
    events = [
        LineEvent(
            id=new_id(),
            line_id=key,
            kind=kind,
            at=at,
            recorded_at=at,
            cause=cause,
            by=changes.audit[0].actor,
        )
        for kind, keys, cause in happened
        for key in keys
    ]
    if not events:
        return changes
    return replace(changes, life=replace(life, events=(*life.events, *events)))


EVENT_DATA = "events.data"
MOST_EVENTS = 500
"""In one page of a feed."""
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `number` is its place among all. Those of one `queue` are delivered one after
    another: a document's with those of its enrollments and lines, else those of the subject.

    Without a `carrier` it is for fraud teams and operators, who are also told all others.
    """

    number: int
    id: str
    type: EventType
    at: datetime
    subject: str
    carrier: str | None
    data: Mapping[str, Any]
    queue: str


@dataclass(frozen=True, slots=True)
class _New:
    """With a `line_id` it is two events, the second that this line was opened by it: a decision
    pays for each row. `document_id` is left out where the subject is the document."""

    type: EventType
    subject: str
    carrier: str | None
    data: Mapping[str, Any]
    line_id: str | None = None
    document_id: str | None = None


_INSERT = insert(EVENTS)
_LAST = select(EVENTS.c.number, EVENTS.c.line_id).order_by(EVENTS.c.number.desc()).limit(1)
_LINES: Select[Any] = select(LINES.c.id, LINES.c.carrier, LINES.c.document_id).where(
    LINES.c.id.in_(bindparam("keys", expanding=True))
)
_IN_USE_OF: Select[Any] = select(LINES.c.id, LINES.c.carrier, LINES.c.document_id).where(
    LINES.c.document_id == bindparam("key"), LINES.c.status != "closed"
)
_CARRIERS_OF = (
    select(LINES.c.carrier)
    .where(LINES.c.document_id == bindparam("key"))
    .distinct()
    .order_by(LINES.c.carrier)
)
_CASE_STATES = select(CASES.c.id, CASES.c.state).where(
    CASES.c.id.in_(bindparam("keys", expanding=True))
)
_UNFINISHED = select(SWEEPS.c.id).where(
    SWEEPS.c.id.in_(bindparam("keys", expanding=True)), SWEEPS.c.ended_at.is_(None)
)


def find_events(connection: Connection, changes: Changes) -> list[_New]:
    """What these changes are to others; to be called before they are made."""
    found = [*_of_enrollments(changes), *_of_life(connection, changes)]
    found += [*_of_lines(connection, changes), *_of_cases(connection, changes)]
    found += _of_replacements(connection, changes)
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


def _of_cases(connection: Connection, changes: Changes) -> Iterator[_New]:
    for case in changes.cases:
        # One that is merged as it is made was never open.
        if case.state in ALIVE:
            yield _New(EventType.CASE_OPENED, case.id, None, {"kind": str(case.kind)})
    ended = [one for one in changes.case_changes if one.state not in ALIVE]
    if not ended:
        return
    # A closed one is written again when something else is noted of it.
    states = connection.execute(_CASE_STATES, {"keys": [one.id for one in ended]})
    alive = {row.id for row in states if CaseState(row.state) in ALIVE}
    for case in ended:
        if case.id not in alive:
            continue
        told = {"kind": str(case.kind)}
        if case.state is CaseState.MERGED:
            yield _New(EventType.CASE_MERGED, case.id, None, told | {"into": case.merged_into})
        elif case.outcome is not None:
            told["outcome"] = case.outcome.value
            yield _New(EventType.CASE_CLOSED, case.id, None, told)


def _of_enrollments(changes: Changes) -> Iterator[_New]:
    # An imported base is the carrier's own: it is told of nothing that it does not know.
    opened = {line.enrollment_id: line for line in changes.lines if line.enrollment_id is not None}
    for one in changes.enrollments:
        line = opened.pop(one.id, None)
        line_id = None if line is None else line.id
        data = {"decision": str(one.decision), "outlet": one.outlet, "line_id": line_id}
        of = one.document_id
        yield _New(EventType.ENROLLMENT_DECIDED, one.id, one.carrier, data, line_id, of)
        if Reason.WATCHLISTED in one.reasons:
            told = {"carrier": one.carrier, "outlet": one.outlet}
            yield _New(EventType.WATCHLIST_HIT, one.id, None, told, document_id=of)
    for line in opened.values():
        by: Mapping[str, Any] = {"enrollment_id": line.enrollment_id, "outlet": line.outlet}
        opened_by = (EventType.LINE_OPENED, line.id, line.carrier, by)
        yield _New(*opened_by, document_id=line.document_id)


def _of_replacements(connection: Connection, changes: Changes) -> Iterator[_New]:
    """That people are to decide whether lines may move: their holder may object in time."""
    for one in changes.enrollments:
        if Reason.REPLACEMENT_ASKED in one.reasons and one.decision == Decision.REVIEW:
            old = one.evidence["inputs"]["people"]["replacement"]["document_id"]
            for row in connection.execute(_IN_USE_OF, {"key": old}):
                yield _of_line(EventType.LINE_MOVE_ASKED, row, {})


def _of_life(connection: Connection, changes: Changes) -> Iterator[_New]:
    if changes.life is None:
        return
    ids = dict.fromkeys(one.line_id for one in changes.life.events)
    lines = {row.id: row for row in _find_lines(connection, ids)}
    for one in changes.life.events:
        # One of a line that is not there is refused when it is written.
        if one.line_id in lines:
            yield _of_line(EventType(f"line.{one.kind}"), lines[one.line_id], _tell(one))
    for campaign in changes.life.campaigns:
        # Written as ended once.
        if campaign.state is CampaignState.ENDED:
            yield _New(EventType.CAMPAIGN_ENDED, campaign.id, campaign.carrier, {})


def _tell(event: LineEvent) -> Mapping[str, Any]:
    # Of a holder who has not come the case stays, for those who read the whole feed.
    is_whole = event.kind is LineEventKind.REVERIFY_FAILED
    return {"at": event.at.isoformat(), "cause": event.cause if is_whole else tell_cause(event)}


def tell_cause(event: LineEvent) -> str | None:
    """The cause as a carrier is told it: of a case no id, which would say whose other lines are in
    it, and which is for fraud teams."""
    is_case = event.kind is LineEventKind.REVERIFY_FAILED or (event.cause or "").startswith("case:")
    return "case" if is_case else event.cause


def _find_lines(connection: Connection, ids: Iterable[str]) -> Iterator[Row[Any]]:
    for part in chunks(list(ids)):
        yield from connection.execute(_LINES, {"keys": part})


def _of_line(kind: EventType, row: Row[Any], data: Mapping[str, Any]) -> _New:
    return _New(kind, row.id, row.carrier, data, document_id=row.document_id)


def _of_lines(connection: Connection, changes: Changes) -> Iterator[_New]:
    moved = () if changes.people is None else [key for key, _ in changes.people.moved_lines]
    for row in _find_lines(connection, moved):
        yield _of_line(EventType.LINE_MOVED, row, {})
    for document_id in changes.erased_documents:
        carriers = connection.scalars(_CARRIERS_OF, {"key": document_id}).all()
        for carrier in carriers or [None]:
            yield _New(EventType.ERASURE_DONE, document_id, carrier, {})


def find_last(connection: Connection) -> int:
    """The number of the newest event; 0 where there is none."""
    row = connection.execute(_LAST).first()
    return 0 if row is None else int(row.number) + (row.line_id is not None)


def write_events(connection: Connection, vault: Vault, found: Sequence[_New], at: datetime) -> None:
    """Adds them after all that are there, each sealed for its row."""
    if not found:
        return
    number = find_last(connection) + 1
    rows = []
    for one in found:
        event_id = new_id()
        rows.append(
            {
                "number": number,
                "id": event_id,
                "type": one.type.value,
                "at": at,
                "subject": one.subject,
                "carrier": one.carrier if one.type.is_for_carriers else None,
                "data": vault.seal(EVENT_DATA, event_id, _encode(one.data)),
                "line_id": one.line_id,
                "document_id": one.document_id,
            }
        )
        number += 1 if one.line_id is None else 2
    connection.execute(_INSERT, with_macs(vault, EVENTS, rows))


def read_events(
    source: Source,
    after: int,
    limit: int = MOST_EVENTS,
    *,
    carrier: str | None = None,
    types: Sequence[EventType] = (),
    until: int | None = None,
) -> list[Event]:
    """Events beyond a number, in their order; of one carrier alone where it is given, and to the
    number `until`."""
    # The row before may hold the first of them.
    query = select(EVENTS).where(EVENTS.c.number >= after)
    if until is not None:
        query = query.where(EVENTS.c.number <= until)
    if carrier is not None:
        query = query.where(EVENTS.c.carrier == carrier)
    if types:
        query = query.where(is_of_type(types))
    query = query.order_by(EVENTS.c.number)
    rows = open_some(source, query, limit + 1, partial(_events_of, source.vault))
    found = [
        event
        for event in chain.from_iterable(rows)
        if event.number > after and (not types or event.type in types)
    ]
    return found[:limit]


def is_of_type(types: Sequence[EventType]) -> ColumnElement[bool]:
    """Rows that hold an event of one of these types."""
    found = EVENTS.c.type.in_([one.value for one in types])
    if EventType.LINE_OPENED in types:
        return found | EVENTS.c.line_id.is_not(None)
    return found


def read_these(source: Source, numbers: Iterable[int]) -> dict[int, Event]:
    """Events by their numbers, without those that have left."""
    wanted = set(numbers)
    # A number may be the second one of the row before.
    keys = sorted(wanted | {one - 1 for one in wanted})
    return {
        event.number: event
        for part in chunks(keys)
        for event in _events_in(
            source.vault, source.rows(select(EVENTS).where(EVENTS.c.number.in_(part)))
        )
        if event.number in wanted
    }


def _events_in(vault: Vault, rows: Iterable[Row[Any]]) -> Iterator[Event]:
    """The events of rows, in their order."""
    return chain.from_iterable(open_each(rows, partial(_events_of, vault)))


def _events_of(vault: Vault, row: Row[Any]) -> list[Event]:
    """The event of a row, or its two."""
    require_authentic(vault, EVENTS, row)
    data = _decode(vault.open(EVENT_DATA, row.id, row.data))
    first = (row.number, row.id, EventType(row.type), row.at, row.subject)
    queue = row.document_id or row.subject
    found = [Event(*first, row.carrier, data, queue)]
    if row.line_id is not None:
        told = {"enrollment_id": row.subject, "outlet": data["outlet"]}
        second = (row.number + 1, _second_id(row.id), EventType.LINE_OPENED, row.at, row.line_id)
        found.append(Event(*second, row.carrier, told, queue))
    return found


def _second_id(event_id: str) -> str:
    return f"{event_id[:-1]}{int(event_id[-1], 16) ^ 1:x}"


BEGINNING = "0"
"""The place before the first event that is kept."""
_NEWEST = (
    select(EVENTS.c.number, EVENTS.c.id, EVENTS.c.line_id).order_by(EVENTS.c.number.desc()).limit(1)
)


@dataclass(frozen=True, slots=True)
class Page:
    """Events in their order, and the place after all that were looked at for them."""

    events: list[Event]
    next: str


def read_page(
    source: Source,
    after: str,
    limit: int = MOST_EVENTS,
    *,
    carrier: str | None = None,
    types: Sequence[EventType] = (),
) -> Page:
    """The events beyond a place of the feed, which is of this carrier or of those who see all.

    A place is sealed, and no two are alike: what lies between two of a carrier's events is
    somebody else's, or is withheld, and their distance would tell of it. `PlaceUnknown` where what
    followed the place may have left, or was never there.
    """
    begin = open_place(source, after, carrier)
    newest = next(iter(source.rows(_NEWEST)), None)
    if newest is None:
        return Page([], BEGINNING)
    last, last_id = newest.number, newest.id
    if newest.line_id is not None:
        last, last_id = last + 1, _second_id(last_id)
    found = read_events(source, begin, limit, carrier=carrier, types=types, until=last)
    if len(found) == limit:
        last, last_id = found[-1].number, found[-1].id
    return Page(found, seal_place(source.vault, carrier, last, last_id))


def _cipher(vault: Vault) -> AESSIV:
    # Its nonces may be as many as there are polls: a random one may come twice.
    return AESSIV(vault.authenticate("events.place", b""))


def seal_place(vault: Vault, carrier: str | None, number: int, event_id: str) -> str:
    """The place after an event, for a carrier or for those who see all."""
    told = os.urandom(8) + number.to_bytes(8) + uuid.UUID(event_id).bytes
    sealed = _cipher(vault).encrypt(told, [(carrier or "").encode()])
    return urlsafe_b64encode(sealed).decode()


def open_place(source: Source, place: str, carrier: str | None) -> int:
    """The number of the event that a place is after; 0 of the beginning. `PlaceUnknown`."""
    if place == BEGINNING:
        return 0
    try:
        sealed = urlsafe_b64decode(place)
        told = _cipher(source.vault).decrypt(sealed, [(carrier or "").encode()])
    except (ValueError, InvalidTag):
        raise PlaceUnknown(_UNKNOWN) from None
    number, event_id = int.from_bytes(told[8:16]), str(uuid.UUID(bytes=told[16:]))
    rows = source.rows(select(EVENTS).where(EVENTS.c.number.in_((number - 1, number))))
    there = {one.number: one.id for one in _events_in(source.vault, rows)}
    # All feeds may have come as far as one damaged row: it says nothing against their places.
    is_damaged = any(not is_authentic(source.vault, EVENTS, values_of(row)) for row in rows)
    # After a backup was put back, another event may have this number.
    if there.get(number) == event_id or (is_damaged and number not in there):
        return number
    raise PlaceUnknown(_UNKNOWN)


_UNKNOWN = (
    "after: this place of the feed is not known or has left with its events: begin at after=0, "
    "and read what concerns you by its id"
)
