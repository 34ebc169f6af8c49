"""Cursors: how far a reader of events or of the audit chain has come, held by one process at once.

A process holds a cursor by its own clock and is believed until then, so the clocks of hosts that
share a registry must agree to within a few seconds. What is held for longer than anybody holds one
was held by a clock that was ahead, and is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, bindparam, insert, or_, select, update

from engine.errors import RegistryError
from engine.registry import tables
from engine.registry.database import Moment, Source, changing

LONGEST_HOLD = timedelta(minutes=3)
"""Nobody holds a cursor for longer without asking anew."""

_cursors = tables.cursors
_HOLD = (
    update(_cursors)
    .where(
        _cursors.c.name == bindparam("key"),
        or_(
            _cursors.c.held_by.is_(None),
            _cursors.c.held_by == bindparam("by"),
            _cursors.c.held_until < bindparam("now", type_=Moment),
            _cursors.c.held_until > bindparam("latest", type_=Moment),
        ),
    )
    .values(held_by=bindparam("by"), held_until=bindparam("until", type_=Moment))
)
_FIND = select(_cursors).where(_cursors.c.name == bindparam("key"))
_ADVANCE = (
    update(_cursors)
    .where(
        _cursors.c.name == bindparam("key"),
        _cursors.c.held_by == bindparam("by"),
        _cursors.c.generation == bindparam("known"),
    )
    .values(number=bindparam("reached"))
)
_RELEASE = (
    update(_cursors)
    .where(_cursors.c.name == bindparam("key"), _cursors.c.held_by == bindparam("by"))
    .values(held_by=None, held_until=None)
)
_SET = (
    update(_cursors)
    .where(_cursors.c.name == bindparam("key"))
    .values(number=bindparam("reached"), generation=_cursors.c.generation + 1)
)


class CursorLost(RegistryError):
    """Another process holds the cursor, or people have changed it: read it again."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a reader is: everything up to `number` is done, or noted elsewhere."""

    name: str
    number: int
    generation: int


@dataclass(frozen=True, slots=True)
class CursorState:
    """Whether people have changed a cursor, and who holds it until when."""

    generation: int
    holder: str | None
    held_until: datetime | None

    def is_free(self, holder: str, now: datetime) -> bool:
        if self.holder in (None, holder) or self.held_until is None:
            return True
        return not now <= self.held_until <= now + LONGEST_HOLD


def read_all(source: Source) -> dict[str, CursorState]:
    """Every cursor, by its name."""
    rows = source.rows(select(_cursors))
    return {row.name: CursorState(row.generation, row.held_by, row.held_until) for row in rows}


def hold(engine: Engine, name: str, holder: str, now: datetime, held: timedelta) -> Cursor | None:
    """The cursor, held from now on for so long; None where another process holds it."""
    assert held <= LONGEST_HOLD, "or another process would take it for free"
    with changing(engine) as connection:
        given = {"key": name, "by": holder, "now": now, "until": now + held}
        given["latest"] = now + LONGEST_HOLD
        if connection.execute(_HOLD, given).rowcount != 1:
            return None
        row = connection.execute(_FIND, {"key": name}).one()
    return Cursor(row.name, row.number, row.generation)


def advance(connection: Connection, cursor: Cursor, holder: str, number: int) -> None:
    """Moves a held cursor; `CursorLost` where it is not held, or was changed."""
    given = {"key": cursor.name, "by": holder, "known": cursor.generation, "reached": number}
    if connection.execute(_ADVANCE, given).rowcount != 1:
        raise CursorLost(f"the cursor {cursor.name} was taken over or changed: read it again")


def release(engine: Engine, name: str, holder: str) -> None:
    """Lets the next process have the cursor at once."""
    with changing(engine) as connection:
        connection.execute(_RELEASE, {"key": name, "by": holder})


def put(connection: Connection, name: str, number: int) -> None:
    """Makes the cursor, or sets it, whoever holds it: that process begins anew there."""
    if connection.execute(_SET, {"key": name, "reached": number}).rowcount == 0:
        row = {"name": name, "number": number, "generation": 0}
        connection.execute(insert(_cursors), row)
