"""Rows about people whom rules treat apart: guardians, exceptions, the dead, replaced documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Table, bindparam, delete, func, insert, or_, select, update

from engine.registry import tables
from engine.registry.database import KEYS, Source, change_one
from engine.registry.records import (
    AskedLine,
    DeathRecord,
    ExceptionRecord,
    Guardianship,
    PeopleChanges,
    Replacement,
)
from engine.registry.row_macs import REFERENCE_COLUMNS, changing_rows, require_authentic, with_macs
from engine.registry.rows import columns_of, read_as
from engine.registry.vault import Vault

_guardianships, _exceptions = tables.guardianships, tables.exceptions
_deaths, _replacements, _lines = tables.deaths, tables.replacements, tables.lines

_NUMBER = "exceptions.msisdn"
_DEATHS = select(_deaths).where(_deaths.c.document_id.in_(KEYS))
REPLACED = select(_replacements).where(
    or_(_replacements.c.document_id.in_(KEYS), _replacements.c.successor_id.in_(KEYS))
)
_OF_EXCEPTIONS = select(_exceptions).where(_exceptions.c.id.in_(KEYS))
_BY_LINE = select(_exceptions).where(_exceptions.c.line_id.in_(KEYS))
_BY_CASE = select(_exceptions).where(_exceptions.c.case_id == bindparam("case"))
_GUARDED = select(_guardianships).where(_guardianships.c.line_id.in_(KEYS))
_GUARDIANS_OF = select(_guardianships).where(_guardianships.c.document_id.in_(KEYS))
_GUARDED_BY = select(_guardianships).where(_guardianships.c.guardian_id.in_(KEYS))
_REFERENCES = select(*REFERENCE_COLUMNS).where(tables.references.c.document_id.in_(KEYS))
_ENROLLMENTS = select(tables.enrollments).where(tables.enrollments.c.id.in_(KEYS))
_ASKED = (
    select(_exceptions.c.outlet, func.count().label("asked"))
    .where(_exceptions.c.outlet.in_(KEYS), _exceptions.c.asked_at > bindparam("since"))
    .group_by(_exceptions.c.outlet)
)
_COUNTS = (
    select(
        _exceptions.c.outlet,
        _exceptions.c.carrier,
        func.count().label("asked"),
        func.count(_exceptions.c.decided_at).label("decided"),
        func.count(_exceptions.c.line_id).label("granted"),
        func.max(_exceptions.c.asked_at).label("last_at"),
    )
    .where(_exceptions.c.asked_at > bindparam("since"))
    .group_by(_exceptions.c.outlet, _exceptions.c.carrier)
)
_GUARDED_LINES = (
    select(_guardianships.c.guardian_id, func.count().label("lines"))
    .join(_lines, _lines.c.id == _guardianships.c.line_id)
    .where(
        _guardianships.c.guardian_id.in_(KEYS),
        _lines.c.carrier == bindparam("carrier"),
        _lines.c.status != "closed",
    )
    .group_by(_guardianships.c.guardian_id)
)
_SET_EXCEPTION = (
    update(_exceptions)
    .where(_exceptions.c.id == bindparam("key"), _exceptions.c.decided_at.is_(None))
    .values(msisdn=None, decided_at=bindparam("at"), line_id=bindparam("line"))
)
_MOVE = update(_lines).where(_lines.c.id == bindparam("key"), _lines.c.status != "closed")


@dataclass(frozen=True, slots=True)
class OutletExceptions:
    """The exceptions that an outlet has asked for since a moment."""

    outlet: str
    carrier: str
    asked: int
    decided: int
    granted: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of some documents: whose holders are dead, which were replaced, and which are
    one person's by replacement."""

    deceased: frozenset[str] = frozenset()
    replaced: Mapping[str, str] = field(default_factory=dict)

    def kin(self, document_id: str) -> frozenset[str]:
        """The documents of one person with this, itself too, as far as replacements tell."""
        found, left = {document_id}, [document_id]
        links = [*self.replaced.items(), *((new, old) for old, new in self.replaced.items())]
        while left:
            one = left.pop()
            beside = {other for this, other in links if this == one} - found
            found |= beside
            left += beside
        return frozenset(found)


class PeopleReader(Source):
    """Reader of these rows."""

    def standing(self, document_ids: Sequence[str]) -> Standing:
        """What is known of these documents, and of those that they replaced."""
        replaced: dict[str, str] = {}
        seen: set[str] = set()
        asked = set(document_ids)
        while asked:
            seen |= asked
            for row in self._authentic(_replacements, REPLACED, sorted(asked)):
                replaced[row.document_id] = row.successor_id
            asked = {key for pair in replaced.items() for key in pair} - seen
        dead = self._authentic(_deaths, _DEATHS, document_ids)
        return Standing(
            frozenset(row.document_id for row in dead if row.lifted_at is None), replaced
        )

    def replacements(self) -> list[Replacement]:
        """Every document that was replaced."""
        rows = self.rows(select(_replacements))
        return [read_as(Replacement, self._require(_replacements, row)) for row in rows]

    def replaced_by(self, document_id: str) -> list[str]:
        """The documents that this one has replaced, without what those have replaced."""
        replaced = self.standing([document_id]).replaced
        return [old for old, new in replaced.items() if new == document_id]

    def death(self, document_id: str) -> DeathRecord | None:
        """What was reported of a document's holder, lifted or not."""
        rows = self._authentic(_deaths, _DEATHS, [document_id])
        return next((_death_of(row) for row in rows), None)

    def count_guarded(self, guardian_ids: Sequence[str], carrier: str) -> dict[str, int]:
        """How many lines in use with a carrier each of these documents answers for."""
        rows = self._rows_of(_GUARDED_LINES, guardian_ids, carrier=carrier)
        return {row.guardian_id: row.lines for row in rows}

    def guarded_by(self, guardian_id: str) -> list[str]:
        """The lines of minors that the holder of this document answers for, closed ones too."""
        return [row.line_id for row in self._authentic(_guardianships, _GUARDED_BY, [guardian_id])]

    def guardians_of(self, document_id: str) -> set[str]:
        """The documents of those who answer for lines under a minor's document."""
        rows = self._authentic(_guardianships, _GUARDIANS_OF, [document_id])
        return {row.guardian_id for row in rows}

    def bound_by(self, document_id: str) -> set[str]:
        """The carriers whose enrollments have made a face this document's, an erased one's too."""
        found = self._authentic(tables.references, _REFERENCES, [document_id])
        ids = [row.enrollment_id for row in found if row.enrollment_id is not None]
        return {row.carrier for row in self._authentic(tables.enrollments, _ENROLLMENTS, ids)}

    def exceptions(self, enrollment_ids: Sequence[str]) -> dict[str, ExceptionRecord]:
        """The exceptions that these enrollments asked for."""
        rows = self._authentic(_exceptions, _OF_EXCEPTIONS, enrollment_ids)
        return {row.id: read_as(ExceptionRecord, row, line=None) for row in rows}

    def exceptions_of_lines(self, line_ids: Sequence[str]) -> dict[str, ExceptionRecord]:
        """The exceptions by which lines were opened, by line."""
        rows = self._authentic(_exceptions, _BY_LINE, line_ids)
        return {row.line_id: read_as(ExceptionRecord, row, line=None) for row in rows}

    def exception_of_case(self, case_id: str) -> ExceptionRecord | None:
        """The exception that a case decides, with what it asks for while that is undecided."""
        for row in self.rows(_BY_CASE, case=case_id):
            self._require(_exceptions, row)
            sealed = row.msisdn
            line = None if sealed is None else _read_line(self.vault.open(_NUMBER, row.id, sealed))
            return read_as(ExceptionRecord, row, line=line)
        return None

    def count_asked(self, outlets: Sequence[str], since: datetime) -> dict[str, int]:
        """How many exceptions each of these outlets has asked for since; none of one without."""
        return {row.outlet: row.asked for row in self._rows_of(_ASKED, outlets, since=since)}

    def count_by_outlet(self, since: datetime) -> list[OutletExceptions]:
        """The outlets that have asked for exceptions since, those with most first."""
        found = [read_as(OutletExceptions, row) for row in self.rows(_COUNTS, since=since)]
        return sorted(found, key=lambda one: (-one.asked, one.outlet))

    def guardians(self, line_ids: Sequence[str]) -> dict[str, Guardianship]:
        """Who answers for lines of minors, by line."""
        rows = self._authentic(_guardianships, _GUARDED, line_ids)
        return {row.line_id: read_as(Guardianship, row) for row in rows}

    def _authentic(self, table: Table, query: Any, keys: Sequence[str]) -> list[Row[Any]]:
        return [self._require(table, row) for row in self._rows_of(query, keys)]

    def _require(self, table: Table, row: Row[Any]) -> Row[Any]:
        return require_authentic(self.vault, table, row)


def _death_of(row: Row[Any]) -> DeathRecord:
    return read_as(DeathRecord, row, disputed_lines=tuple(row.disputed_lines))


def write_people(
    connection: Connection, vault: Vault, changes: PeopleChanges, at: datetime
) -> None:
    """Writes these rows, after the lines, enrollments and cases that they name."""
    bound = [one.line_id for one in changes.guardianships]
    if bound:
        # A line that goes along with a minor's renewed document has the guardian of before.
        connection.execute(delete(_guardianships).where(_guardianships.c.line_id.in_(bound)))
    for table, rows in (
        (_guardianships, [columns_of(one) for one in changes.guardianships]),
        (_exceptions, [_exception_row(vault, one) for one in changes.exceptions]),
        (_replacements, [columns_of(one) for one in changes.replacements]),
    ):
        if rows:
            connection.execute(insert(table), with_macs(vault, table, rows))
    for one in changes.replacements:
        _follow_replacement(connection, vault, one)
    for death in changes.deaths:
        row = columns_of(death, disputed_lines=list(death.disputed_lines))
        connection.execute(delete(_deaths).where(_deaths.c.document_id == death.document_id))
        connection.execute(insert(_deaths), with_macs(vault, _deaths, [row]))
    updated = {
        _exceptions: [key for key, _ in changes.decided_exceptions],
        _lines: [key for key, _ in changes.moved_lines],
    }
    with changing_rows(connection, vault, updated):
        for key, line_id in changes.decided_exceptions:
            given = {"key": key, "at": at, "line": line_id}
            change_one(connection, _SET_EXCEPTION, given)
        for key, document_id in changes.moved_lines:
            change_one(connection, _MOVE.values(document_id=document_id), {"key": key})


def _follow_replacement(connection: Connection, vault: Vault, one: Replacement) -> None:
    """Whom a document is of, as a minor or as a guardian, is the holder of its successor."""
    columns = (_guardianships.c.document_id, _guardianships.c.guardian_id)
    for column in columns:
        is_old = column == one.document_id
        keys = connection.scalars(select(_guardianships.c.line_id).where(is_old)).all()
        if keys:
            with changing_rows(connection, vault, {_guardianships: keys}):
                moved = update(_guardianships).where(is_old)
                connection.execute(moved.values({column.name: one.successor_id}))


def _exception_row(vault: Vault, one: ExceptionRecord) -> Mapping[str, Any]:
    assert one.line is not None, "what is asked for is a line"
    sealed = vault.seal(_NUMBER, one.id, msgspec.json.encode(one.line))
    row = columns_of(one, msisdn=sealed)
    return {name: row[name] for name in row if name in _exceptions.c}


def _read_line(opened: bytes) -> AskedLine:
    # A number alone was sealed before names were.
    if opened.startswith(b"+"):
        return AskedLine(opened.decode())
    return msgspec.json.decode(opened, type=AskedLine)


def forget_people(connection: Connection, vault: Vault, document_id: str, at: datetime) -> None:
    """What an erased document leaves: no number that was asked for, and no tie to a person."""
    asked = connection.scalars(
        select(_exceptions.c.id).where(
            _exceptions.c.document_id == document_id, _exceptions.c.decided_at.is_(None)
        )
    ).all()
    with changing_rows(connection, vault, {_exceptions: asked}):
        for key in asked:
            change_one(connection, _SET_EXCEPTION, {"key": key, "at": at, "line": None})
    for column in (_guardianships.c.document_id, _guardianships.c.guardian_id):
        connection.execute(delete(_guardianships).where(column == document_id))
    connection.execute(delete(_replacements).where(_replacements.c.document_id == document_id))
