"""Cursors: how far a reader of events or of the audit chain has come, held by one process at once.

A process holds a cursor by its own clock and is believed until then, so the clocks of hosts that
share a registry must agree to within a few seconds. What is held for longer than anybody holds one
was held by a clock that was ahead, and is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Update, bindparam, insert, or_, select, update

from engine.errors import RegistryError, SealBroken
from engine.registry import tables
from engine.registry.database import Moment, Source, changing
from engine.registry.row_macs import require_authentic, sound_rows, with_macs, write_macs
from engine.registry.vault import Vault

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
_HELD = _FIND.with_for_update()
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
_TOUCH = (
    update(_cursors)
    .where(_cursors.c.name == bindparam("key"))
    .values(generation=_cursors.c.generation + 1)
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
    """Every cursor, by its name; a damaged one is set aside."""
    rows = sound_rows(source.vault, _cursors, source.rows(select(_cursors)))
    return {row.name: CursorState(row.generation, row.held_by, row.held_until) for row in rows}


def find(connection: Connection, vault: Vault, name: str) -> int:
    """How far a cursor has come; `SealBroken` where it is damaged, or not under its name."""
    for row in connection.execute(_FIND, {"key": name}):
        return int(require_authentic(vault, _cursors, row).number)
    raise SealBroken("a cursor is damaged: run sosie doctor, then sosie webhooks replay")


def hold(source: Source, name: str, holder: str, now: datetime, held: timedelta) -> Cursor | None:
    """The cursor, held from now on for so long; None where another process holds it, or it is
    damaged."""
    assert held <= LONGEST_HOLD, "or another process would take it for free"
    given = {"key": name, "by": holder, "now": now, "until": now + held}
    given["latest"] = now + LONGEST_HOLD
    with changing(source.engine) as connection:
        row = _change(connection, source.vault, _HOLD, given)
    return None if row is None else Cursor(row.name, row.number, row.generation)


def advance(connection: Connection, vault: Vault, cursor: Cursor, holder: str, number: int) -> None:
    """Moves a held cursor; `CursorLost` where it is not held, or was changed."""
    given = {"key": cursor.name, "by": holder, "known": cursor.generation, "reached": number}
    if _change(connection, vault, _ADVANCE, given) is None:
        raise CursorLost(f"the cursor {cursor.name} was taken over or changed: read it again")


def release(source: Source, name: str, holder: str) -> None:
    """Lets the next process have the cursor at once."""
    with changing(source.engine) as connection:
        _change(connection, source.vault, _RELEASE, {"key": name, "by": holder})


def touch(connection: Connection, vault: Vault, name: str) -> None:
    """Has the process that holds the cursor read it anew."""
    _change(connection, vault, _TOUCH, {"key": name})


def put(connection: Connection, vault: Vault, name: str, number: int) -> None:
    """Makes the cursor, or sets it, whoever holds it: that process begins anew there. This mends a
    damaged one."""
    if connection.execute(_SET, {"key": name, "reached": number}).rowcount == 0:
        row = {"name": name, "number": number, "generation": 0}
        connection.execute(insert(_cursors), with_macs(vault, _cursors, [row]))
    else:
        write_macs(connection, vault, _cursors, connection.execute(_FIND, {"key": name}).all())


def _change(
    connection: Connection, vault: Vault, statement: Update, given: Mapping[str, Any]
) -> Row[Any] | None:
    """The cursor after the change, with its code; None where its conditions do not hold, or it is
    damaged."""
    key = {"key": given["key"]}
    # Locked: its code is of what nobody else changes meanwhile.
    known = connection.execute(_HELD, key).all()
    if not list(sound_rows(vault, _cursors, known)):
        return None
    if connection.execute(statement, given).rowcount != 1:
        return None
    rows = connection.execute(_FIND, key).all()
    write_macs(connection, vault, _cursors, rows)
    return rows[0]
