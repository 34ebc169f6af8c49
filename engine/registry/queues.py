"""Queues that people are shown, of cases and attempts, and the faces of documents."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy import case as by_value

from engine.errors import NotFound
from engine.registry.cases import CASE_DOCUMENTS, CASES, CaseReader, CaseRecord, case_of
from engine.registry.crops import CropReader
from engine.registry.database import KEYS, is_id
from engine.registry.enrollments import ENROLLMENTS, AttemptRecord
from engine.registry.lines import LINES
from engine.registry.rows import open_some, read_as, require_authentic
from schema.cases import ALIVE, KIND_RISK, CaseKind, CaseSort, CaseState, DueDates, Outcome
from schema.lines import LineStatus


def risk_of(found: CaseRecord) -> float:
    """The points of a case: of its group in a sweep, else of its kind."""
    return KIND_RISK.get(found.kind, 0.0) if found.risk is None else found.risk


# Of a document that a case names and does not suspect, a victim's, only what the case is about.
_IS_FRAUD_IN_USE = and_(
    CASES.c.outcome == Outcome.FRAUD.value,
    CASE_DOCUMENTS.c.case_id == CASES.c.id,
    CASE_DOCUMENTS.c.document_id == LINES.c.document_id,
    LINES.c.status != LineStatus.CLOSED.value,
    or_(
        cast(CASES.c.suspect_ids, Text).contains(LINES.c.document_id),
        cast(CASES.c.line_ids, Text).contains(LINES.c.id),
    ),
)
# From each case of fraud, which are few, to its lines: a join would begin with all lines in use.
_HAS_FRAUD_IN_USE = and_(
    CASES.c.state == CaseState.CLOSED.value,
    CASES.c.outcome == Outcome.FRAUD.value,
    exists().where(_IS_FRAUD_IN_USE).correlate(CASES),
)
"""Of a case: it was decided to be fraud, and lines of it are in use."""
_FRAUD_IN_USE = select(func.count()).select_from(CASES).where(_HAS_FRAUD_IN_USE)
_FRAUD_OF_CASES = select(CASE_DOCUMENTS.c.case_id, LINES.c.id.label("line_id")).where(
    CASE_DOCUMENTS.c.case_id.in_(KEYS), _IS_FRAUD_IN_USE
)
_FRAUD_UNDER = select(LINES.c.document_id, LINES.c.id.label("line_id")).where(
    LINES.c.document_id.in_(KEYS), exists().where(_IS_FRAUD_IN_USE).correlate(LINES)
)

_RANKED = by_value(
    {str(kind): points for kind, points in KIND_RISK.items()}, value=CASES.c.kind, else_=0.0
)
_SORTS: dict[CaseSort, tuple[ColumnElement[Any], Callable[[CaseRecord], Any], bool]] = {
    CaseSort.RISK: (func.coalesce(CASES.c.risk, _RANKED), risk_of, True),
    CaseSort.SCORE: (
        func.coalesce(CASES.c.score, -1.0),
        lambda one: -1.0 if one.score is None else one.score,
        True,
    ),
    CaseSort.NEWEST: (CASES.c.opened_at, lambda one: one.opened_at, True),
    CaseSort.OLDEST: (CASES.c.opened_at, lambda one: one.opened_at, False),
}
"""What an order sorts by, in the database and of a record, and whether it descends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFilter:
    """Which cases a queue has; what is None does not matter.

    `carrier` and `outlet` are where a line in use of one of its documents was opened, or where it
    was attempted. `id_end`: its id, or that of its enrollment or of a document, ends so.
    `overdue_at`: due before that moment, by the dates of the queue, and not decided.
    `fraud_in_use`: decided to be fraud, and lines of it are in use.
    """

    state: CaseState | Collection[CaseState] | None = None
    kind: str | None = None
    assignees: Collection[str] = ()
    """Any of these: a person, and how older cases name them."""
    carrier: str | None = None
    outlet: str | None = None
    id_end: str | None = None
    overdue_at: datetime | None = None
    fraud_in_use: bool = False

    def terms(self, due: DueDates) -> Iterator[ColumnElement[bool]]:
        """As terms of a query."""
        if self.state is not None:
            states = [self.state] if isinstance(self.state, CaseState) else self.state
            yield CASES.c.state.in_([one.value for one in states])
        if self.fraud_in_use:
            yield _HAS_FRAUD_IN_USE
        if self.kind is not None:
            yield CASES.c.kind == self.kind
        if self.assignees:
            yield CASES.c.assignee.in_(self.assignees)
        if self.carrier is not None:
            yield _is_at(LINES.c.carrier, ENROLLMENTS.c.carrier, self.carrier)
        if self.outlet is not None:
            yield _is_at(LINES.c.outlet, ENROLLMENTS.c.outlet, self.outlet)
        if self.id_end is not None:
            yield or_(
                CASES.c.id.endswith(self.id_end, autoescape=True),
                CASES.c.enrollment_id.endswith(self.id_end, autoescape=True),
                exists().where(
                    CASE_DOCUMENTS.c.case_id == CASES.c.id,
                    CASE_DOCUMENTS.c.document_id.endswith(self.id_end, autoescape=True),
                ),
            )
        if self.overdue_at is not None:
            late = [
                and_(CASES.c.kind == kind.value, CASES.c.opened_at < self.overdue_at - span)
                for kind in CaseKind
                if (span := due.span(kind)) is not None
            ]
            yield and_(CASES.c.state.in_([one.value for one in ALIVE]), or_(*late))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFilter:
    """Which attempts of an outlet are listed; what is None does not matter.

    `case`: those whose case, or the one that it went into, is in that queue. `id_end`: its id, or
    that of its document, ends so.
    """

    outlet: str
    decision: str | None = None
    id_end: str | None = None
    case: CaseFilter | None = None
    oldest_first: bool = False

    def terms(self, due: DueDates) -> Iterator[ColumnElement[bool]]:
        """As terms of a query."""
        attempts = ENROLLMENTS.c
        yield attempts.outlet == self.outlet
        if self.decision is not None:
            yield attempts.decision == self.decision
        if self.id_end is not None:
            yield or_(
                attempts.id.endswith(self.id_end, autoescape=True),
                attempts.document_id.endswith(self.id_end, autoescape=True),
            )
        if self.case is not None and self.case != CaseFilter():
            yield exists().where(
                _opened.c.enrollment_id == attempts.id,
                CASES.c.id == func.coalesce(_opened.c.merged_into, _opened.c.id),
                *self.case.terms(due),
            )


def _is_at(of_line: Column[str], of_attempt: Column[str], value: str) -> ColumnElement[bool]:
    return or_(
        exists().where(
            CASE_DOCUMENTS.c.case_id == CASES.c.id,
            LINES.c.document_id == CASE_DOCUMENTS.c.document_id,
            of_line == value,
        ),
        exists().where(ENROLLMENTS.c.id == CASES.c.enrollment_id, of_attempt == value),
    )


def _is_below(
    key: ColumnElement[Any], value: object, case_id: str, descends: bool
) -> ColumnElement[bool]:
    further, beside = (
        (key < value, CASES.c.id < case_id) if descends else (key > value, CASES.c.id > case_id)
    )
    return or_(further, and_(key == value, beside))


_PLACES = (
    select(CASE_DOCUMENTS.c.case_id, LINES.c.carrier, LINES.c.outlet, func.count().label("lines"))
    .join(LINES, LINES.c.document_id == CASE_DOCUMENTS.c.document_id)
    .where(CASE_DOCUMENTS.c.case_id.in_(KEYS), LINES.c.status != LineStatus.CLOSED.value)
    .group_by(CASE_DOCUMENTS.c.case_id, LINES.c.carrier, LINES.c.outlet)
    .order_by(func.count().desc(), LINES.c.carrier, LINES.c.outlet)
)
_ATTEMPTED_AT = (
    select(CASES.c.id.label("case_id"), ENROLLMENTS.c.carrier, ENROLLMENTS.c.outlet)
    .join(ENROLLMENTS, ENROLLMENTS.c.id == CASES.c.enrollment_id)
    .where(CASES.c.id.in_(KEYS))
)

_opened = CASES.alias("opened")


@dataclass(slots=True)
class CasePlaces:
    """The places where the lines in use of a case's documents were opened, and their number."""

    carriers: list[str] = field(default_factory=list)
    outlets: list[str] = field(default_factory=list)
    lines: int = 0

    def add(self, carrier: str, outlet: str) -> None:
        for known, one in ((self.carriers, carrier), (self.outlets, outlet)):
            if one not in known:
                known.append(one)


class QueueReader(CaseReader, CropReader):
    """Reader of cases, of the queues that they are in, and of the faces of their documents."""

    def newest(
        self,
        state: CaseState | Collection[CaseState] | None = CaseState.OPEN,
        kind: str | None = None,
        assignee: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[CaseRecord]:
        """The newest cases: of one state, of several or of all, below the case `after`.

        `NotFound` where `after` is no case.
        """
        wanted = CaseFilter(
            state=state, kind=kind, assignees=() if assignee is None else (assignee,)
        )
        return self.queue(wanted, CaseSort.NEWEST, limit=limit, after=after)

    def queue(
        self,
        wanted: CaseFilter,
        sort: CaseSort,
        *,
        due: DueDates | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[CaseRecord]:
        """The first cases of a queue in an order, or the first below the case `after`, which need
        not be in the queue any more. `NotFound` where `after` is no case."""
        due = due or DueDates()
        last = None if after is None else self.get(after)
        if sort is CaseSort.DUE:
            return self._by_due_date(wanted, due, limit, last)
        return self._sorted(wanted, sort, due, limit, last)

    def attempts(
        self,
        wanted: AttemptFilter,
        *,
        due: DueDates | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[AttemptRecord]:
        """The newest attempts at an outlet, or the oldest, below the attempt `after`.

        `NotFound` where `after` is none.
        """
        table = ENROLLMENTS
        place = (table.c.created_at, table.c.id)
        query = select(table).where(*wanted.terms(due or DueDates()))
        query = query.order_by(*(one if wanted.oldest_first else one.desc() for one in place))
        if after is not None:
            last = self.rows(select(*place).where(table.c.id == after)) if is_id(after) else ()
            if not last:
                raise NotFound("no enrollment has this id: check it")
            mark = tuple_(*map(literal, last[0], (one.type for one in place)))
            own = tuple_(*place)
            query = query.where(own > mark if wanted.oldest_first else own < mark)
        require = partial(require_authentic, self.vault, table)
        return [read_as(AttemptRecord, row) for row in open_some(self, query, limit, require)]

    def _sorted(
        self, wanted: CaseFilter, sort: CaseSort, due: DueDates, limit: int, last: CaseRecord | None
    ) -> list[CaseRecord]:
        key, value_of, descends = _SORTS[sort]
        order = (key, CASES.c.id)
        query = select(CASES).where(*wanted.terms(due))
        query = query.order_by(*(one.desc() for one in order) if descends else order)
        if last is not None:
            query = query.where(_is_below(key, value_of(last), last.id, descends))
        return open_some(self, query, limit, partial(case_of, self.vault))

    def _by_due_date(
        self, wanted: CaseFilter, due: DueDates, limit: int, last: CaseRecord | None
    ) -> list[CaseRecord]:
        # Of one kind the oldest is due first: a merge, since no database adds days to our moments.
        last_due = None if last is None else due.of(last.kind, last.opened_at)
        if last is not None and last_due is None:
            return []
        parts = []
        for kind in CaseKind:
            span = due.span(kind)
            if span is None or wanted.kind not in {None, kind}:
                continue
            before = None
            if last is not None and last_due is not None:
                before = replace(last, opened_at=last_due - span)
            of_kind = replace(wanted, kind=kind.value)
            parts.append(self._sorted(of_kind, CaseSort.OLDEST, due, limit, before))
        merged = heapq.merge(*parts, key=lambda one: (due.of(one.kind, one.opened_at), one.id))
        return list(islice(merged, limit))

    def places(self, case_ids: Sequence[str]) -> dict[str, CasePlaces]:
        """The places of the lines of each case; no case is left out."""
        found = {key: CasePlaces() for key in case_ids}
        for row in self._rows_of(_PLACES, case_ids):
            found[row.case_id].add(row.carrier, row.outlet)
            found[row.case_id].lines += row.lines
        for row in self._rows_of(_ATTEMPTED_AT, case_ids):
            found[row.case_id].add(row.carrier, row.outlet)
        return found

    def count_fraud(self) -> int:
        """The number of cases that were decided to be fraud and have lines in use."""
        ((count,),) = self.rows(_FRAUD_IN_USE)
        return int(count)

    def fraud_of_cases(self, case_ids: Sequence[str]) -> dict[str, set[str]]:
        """The lines in use of what each case was decided to be fraud about; none is left out."""
        found: dict[str, set[str]] = {key: set() for key in case_ids}
        for row in self._rows_of(_FRAUD_OF_CASES, case_ids):
            found[row.case_id].add(row.line_id)
        return found

    def fraud_under(self, document_ids: Sequence[str]) -> dict[str, set[str]]:
        """The lines in use of decided fraud under each document; none is left out."""
        found: dict[str, set[str]] = {key: set() for key in document_ids}
        for row in self._rows_of(_FRAUD_UNDER, document_ids):
            found[row.document_id].add(row.line_id)
        return found
