"""Events for the systems of carriers: an outbox, written in the transaction of what happened.

What is acknowledged therefore has its events, whatever ends afterwards, and they have its order.
An event says what happened to which id and no more: whoever may read that reads it by its id.

A reader of events, or of the audit chain, has a cursor. One process at a time holds it, by its own
clock, and is believed until then, so the clocks of hosts that share a registry must agree to within
a few seconds. What is held for longer than anybody holds one was held by a clock that was ahead,
and is free.
"""

import os
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import Annotated, Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    String,
    Table,
    and_,
    insert,
    or_,
    select,
    true,
    update,
)

from engine.errors import PlaceUnknown, RegistryError, SealBroken
from engine.registry.columns import (
    KEY,
    Code,
    Id,
    RowNumber,
    UuidText,
    mac_column,
    metadata,
    partial_index,
    required,
    sealed_column,
    table_of,
)
from engine.registry.database import (
    AnyRow,
    Condition,
    Moment,
    Source,
    changing,
    chunks,
    insert_rows,
    new_id,
    prepare,
)
from engine.registry.rows import (
    NewEvent,
    Single,
    Transaction,
    is_authentic,
    open_each,
    open_some,
    read_as,
    require_authentic,
    sound_rows,
    values_of,
    with_macs,
    write_macs,
)
from engine.registry.vault import Vault
from schema import frozen
from schema.events import EventType

# What happened, for the systems of carriers: written with it, in its order.
EVENTS = Table(
    "events",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=False),
    required("id", UuidText),
    required("type", String(32)),
    required("at", Moment),
    required("subject", UuidText),
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


EVENT_DATA = "events.data"
MOST_EVENTS = 500
"""In one page of a feed."""
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder().decode


@frozen
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


@frozen
class ToldEvent(Single):
    """An event that comes of no other row."""

    table = EVENTS
    event: NewEvent

    def follow(self, to: Transaction) -> None:
        to.events.append(self.event)


_NEWEST = select(*EVENTS.c["number", "id", "line_id"]).order_by(EVENTS.c.number.desc()).limit(1)


def find_last(connection: Connection) -> int:
    """The number of the newest event; 0 where there is none."""
    rows = prepare(_NEWEST, connection, {}).find(connection, {})
    return int(rows[0].number) + (rows[0].line_id is not None) if rows else 0


def write_events(
    connection: Connection, vault: Vault, found: Sequence[NewEvent], at: datetime
) -> None:
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
    insert_rows(connection, EVENTS, with_macs(vault, EVENTS, rows))


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


def is_of_type(types: Sequence[EventType]) -> Condition:
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


def _events_in(vault: Vault, rows: Iterable[AnyRow]) -> Iterator[Event]:
    """The events of rows, in their order."""
    return chain.from_iterable(open_each(rows, partial(_events_of, vault)))


def _events_of(vault: Vault, row: AnyRow) -> list[Event]:
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


@frozen
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


LONGEST_HOLD = timedelta(minutes=3)
"""Nobody holds a cursor for longer without asking anew."""


class CursorLost(RegistryError):
    """Another process holds the cursor, or people have changed it: read it again."""


@frozen
class Cursor:
    """The place of a reader, of a webhook by its id, of the export of the audit chain by its name:
    everything up to `number` is done, or noted elsewhere. One process at a time holds it, until
    `held_until`; `generation` rises when people change what it stands for."""

    name: Annotated[str, Code, KEY]
    number: Annotated[int, BigInteger()]
    generation: Annotated[int, BigInteger()]
    held_by: Id | None = None
    held_until: datetime | None = None

    def is_free(self, holder: str, now: datetime) -> bool:
        if self.held_by in (None, holder) or self.held_until is None:
            return True
        return not now <= self.held_until <= now + LONGEST_HOLD


CURSORS = table_of("cursors", Cursor)


def read_cursors(source: Source) -> dict[str, Cursor]:
    """Every cursor, by its name; a damaged one is set aside."""
    rows = sound_rows(source.vault, CURSORS, source.rows(select(CURSORS)))
    return {row.name: read_as(Cursor, row) for row in rows}


def find_cursor(connection: Connection, vault: Vault, name: str) -> int:
    """Finds a cursor's place; `SealBroken` where it is damaged, or not under its name."""
    for row in connection.execute(select(CURSORS).where(CURSORS.c.name == name)):
        return int(require_authentic(vault, CURSORS, row).number)
    raise SealBroken("a cursor is damaged: run sosie doctor, then sosie webhooks replay")


def hold_cursor(
    source: Source, name: str, holder: str, now: datetime, held: timedelta
) -> Cursor | None:
    """The cursor, held from now on for so long; None where another process holds it, or it is
    damaged."""
    assert held <= LONGEST_HOLD, "or another process would take it for free"
    by, until = CURSORS.c.held_by, CURSORS.c.held_until
    is_free = or_(by.is_(None), by == holder, until < now, until > now + LONGEST_HOLD)
    values = {"held_by": holder, "held_until": now + held}
    with changing(source.engine) as connection:
        row = _change_cursor(connection, source.vault, name, is_free, values)
    return None if row is None else read_as(Cursor, row)


def advance_cursor(
    connection: Connection, vault: Vault, cursor: Cursor, holder: str, number: int
) -> None:
    """Moves a held cursor; `CursorLost` where it is not held, or was changed."""
    is_known = and_(CURSORS.c.held_by == holder, CURSORS.c.generation == cursor.generation)
    if _change_cursor(connection, vault, cursor.name, is_known, {"number": number}) is None:
        raise CursorLost(f"the cursor {cursor.name} was taken over or changed: read it again")


def release_cursor(source: Source, name: str, holder: str) -> None:
    """Lets the next process have the cursor at once."""
    is_held, values = CURSORS.c.held_by == holder, {"held_by": None, "held_until": None}
    with changing(source.engine) as connection:
        _change_cursor(connection, source.vault, name, is_held, values)


def touch_cursor(connection: Connection, vault: Vault, name: str) -> None:
    """Has the process that holds the cursor read it anew."""
    _change_cursor(connection, vault, name, true(), {"generation": CURSORS.c.generation + 1})


def put_cursor(connection: Connection, vault: Vault, name: str, number: int) -> None:
    """Makes the cursor, or sets it, whoever holds it: that process begins anew there. This mends a
    damaged one."""
    is_named = CURSORS.c.name == name
    values = {"number": number, "generation": CURSORS.c.generation + 1}
    if connection.execute(update(CURSORS).where(is_named).values(values)).rowcount == 0:
        row = {"name": name, "number": number, "generation": 0}
        connection.execute(insert(CURSORS), with_macs(vault, CURSORS, [row]))
    else:
        rows = connection.execute(select(CURSORS).where(is_named)).all()
        write_macs(connection, vault, CURSORS, rows)


def _change_cursor(
    connection: Connection, vault: Vault, name: str, condition: Condition, values: Mapping[str, Any]
) -> AnyRow | None:
    """The cursor after the change, with its code; None where the condition does not hold, or it is
    damaged."""
    found = select(CURSORS).where(CURSORS.c.name == name)
    # Locked: its code is of what nobody else changes meanwhile.
    known = connection.execute(found.with_for_update()).all()
    if not list(sound_rows(vault, CURSORS, known)):
        return None
    changed = update(CURSORS).where(CURSORS.c.name == name, condition).values(values)
    if connection.execute(changed).rowcount != 1:
        return None
    rows = connection.execute(found).all()
    write_macs(connection, vault, CURSORS, rows)
    return rows[0]
