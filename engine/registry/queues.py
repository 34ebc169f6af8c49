"""Queues that people are shown, of cases and attempts, and the faces of documents: crops of
attempts and of imported references, as long as they are kept."""

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
    Connection,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy import case as by_value

from engine.errors import NotFound
from engine.registry.cases import (
    ALIVE_STATES,
    CASE_DOCUMENTS,
    CASES,
    CROP_IMAGE,
    CROPS,
    STATE_OF_NAMED,
    CaseReader,
    CaseRecord,
    CropRecord,
)
from engine.registry.database import KEYS, AnyRow, Condition, Moment, Query, Source, is_id, utc_now
from engine.registry.enrollments import ENROLLMENTS, AttemptRecord
from engine.registry.lines import LINES
from engine.registry.references import IS_LIVE, REFERENCES
from engine.registry.rows import open_each, open_some, read_as, require_authentic
from schema import frozen
from schema.cases import KIND_RISK, CaseKind, CaseSort, CaseState, DueDates, Outcome
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
_APPROVED = ((CaseState.PROPOSED, "person"), (CaseState.CLOSED, "reopen_by"))
"""States that await a second person, and where a proposal names the first."""
_FRAUD_IN_USE = select(func.count()).select_from(CASES).where(_HAS_FRAUD_IN_USE)
_FRAUD_OF_CASES = select(CASE_DOCUMENTS.c.case_id.label("key"), LINES.c.id.label("line_id")).where(
    CASE_DOCUMENTS.c.case_id.in_(KEYS), _IS_FRAUD_IN_USE
)
_FRAUD_UNDER = select(LINES.c.document_id.label("key"), LINES.c.id.label("line_id")).where(
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


@frozen(kw_only=True)
class CaseFilter:
    """Which cases a queue has; what is None does not matter.

    `carriers` and `outlets` are where a line in use of one of its documents was opened, or where it
    was attempted. `id_end`: its id, or that of its enrollment or of a document, ends so.
    `overdue_at`: due before that moment, by the dates of the queue, and not decided.
    `to_approve_by`: proposed, by nobody of these names, however they are written; if they are
    closed, to be opened again.
    `fraud_in_use`: decided to be fraud, and lines of it are in use.
    """

    state: CaseState | Collection[CaseState] | None = None
    kind: str | None = None
    assignees: Collection[str] = ()
    """Any of these: a person, and how older cases name them."""
    to_approve_by: Collection[str] = ()
    carriers: Collection[str] = ()
    outlets: Collection[str] = ()
    id_end: str | None = None
    overdue_at: datetime | None = None
    fraud_in_use: bool = False

    def terms(self, due: DueDates) -> Iterator[Condition]:
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
        if self.to_approve_by:
            state, asker = _APPROVED[self.state is CaseState.CLOSED]
            yield CASES.c.state == state.value
            yield CASES.c.proposal[asker].as_string().not_in(self.to_approve_by)
        if self.carriers:
            yield _is_at(LINES.c.carrier, ENROLLMENTS.c.carrier, self.carriers)
        if self.outlets:
            yield _is_at(LINES.c.outlet, ENROLLMENTS.c.outlet, self.outlets)
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
            yield and_(CASES.c.state.in_(ALIVE_STATES), or_(*late))


@frozen(kw_only=True)
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

    def terms(self, due: DueDates) -> Iterator[Condition]:
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


def _is_at(of_line: Column[str], of_attempt: Column[str], any_of: Collection[str]) -> Condition:
    return or_(
        exists().where(
            CASE_DOCUMENTS.c.case_id == CASES.c.id,
            LINES.c.document_id == CASE_DOCUMENTS.c.document_id,
            of_line.in_(any_of),
        ),
        exists().where(ENROLLMENTS.c.id == CASES.c.enrollment_id, of_attempt.in_(any_of)),
    )


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


_ATTEMPTS_UNDER = select(ENROLLMENTS.c.id).where(ENROLLMENTS.c.document_id.in_(KEYS))
_ERASE_CROPS = delete(CROPS).where(
    or_(CROPS.c.document_id.in_(KEYS), CROPS.c.enrollment_id.in_(_ATTEMPTS_UNDER))
)


def erase_crops(connection: Connection, document_ids: Sequence[str]) -> None:
    """Deletes the crops of documents: of every attempt under one, and of an imported reference."""
    connection.execute(_ERASE_CROPS, {"keys": list(document_ids)})


@frozen
class Face:
    """An aligned face of a document; `is_of_reference` where the document's reference was made of
    it.

    `decision` and `captured_at` are of its attempt: None of an imported reference.
    """

    crop: CropRecord
    is_of_reference: bool
    decision: str | None
    captured_at: datetime | None


_IS_NEEDED = exists().where(
    CASE_DOCUMENTS.c.document_id == CROPS.c.document_id, STATE_OF_NAMED.in_(ALIVE_STATES)
)
# An open case keeps its faces beyond their time; retention takes them where its hold is over.
_IS_SHOWN = and_(
    or_(CROPS.c.kept_until > bindparam("now", type_=Moment), _IS_NEEDED),
    func.coalesce(CROPS.c.is_held, false()).is_(false()),
)
_CROPS_OF = (
    select(CROPS)
    .where(CROPS.c.enrollment_id == bindparam("enrollment"), _IS_SHOWN)
    .order_by(CROPS.c.photograph, CROPS.c.id)
)
# Where an earlier import's reference was removed, its crops may be of another person.
_removed = REFERENCES.alias("removed")
_CROPS_OF_IMPORT = (
    select(CROPS)
    .where(
        CROPS.c.document_id == bindparam("document"),
        CROPS.c.enrollment_id.is_(None),
        _IS_SHOWN,
        ~exists().where(
            _removed.c.document_id == CROPS.c.document_id,
            _removed.c.enrollment_id.is_(None),
            _removed.c.removed_sequence.is_not(None),
        ),
    )
    .order_by(CROPS.c.photograph, CROPS.c.id)
)
# The reference's own first: those of attempts may show somebody else. An import's has no attempt.
_IS_OF_REFERENCE = exists().where(
    REFERENCES.c.document_id == CROPS.c.document_id,
    IS_LIVE,
    or_(
        REFERENCES.c.enrollment_id == CROPS.c.enrollment_id,
        and_(REFERENCES.c.enrollment_id.is_(None), CROPS.c.enrollment_id.is_(None)),
    ),
)
_ranked = (
    select(
        CROPS.c.id,
        by_value((_IS_OF_REFERENCE, 1), else_=0).label("is_of_reference"),
        func.row_number()
        .over(
            partition_by=CROPS.c.document_id,
            order_by=(
                by_value((_IS_OF_REFERENCE, 0), else_=1),
                CROPS.c.received_at.desc(),
                CROPS.c.enrollment_id,
                CROPS.c.photograph,
                CROPS.c.id,
            ),
        )
        .label("place"),
    )
    .where(CROPS.c.document_id.in_(KEYS), _IS_SHOWN)
    .subquery()
)
_OF_ATTEMPT = "attempt_"
_FACES_OF = (
    select(
        CROPS,
        _ranked.c.is_of_reference,
        *(one.label(f"{_OF_ATTEMPT}{one.name}") for one in ENROLLMENTS.columns),
    )
    .join(_ranked, _ranked.c.id == CROPS.c.id)
    .join(ENROLLMENTS, ENROLLMENTS.c.id == CROPS.c.enrollment_id, isouter=True)
    .where(_ranked.c.place <= bindparam("most"))
    .order_by(CROPS.c.document_id, _ranked.c.place)
)


class CropReader(Source):
    """Reader of crops."""

    def crops(self, enrollment_id: str) -> list[CropRecord]:
        """The crops of an enrollment, `live` before `portrait`.

        None where none were kept, or where their time is over.
        """
        if not is_id(enrollment_id):
            return []
        rows = self.rows(_CROPS_OF, enrollment=enrollment_id, now=utc_now())
        return list(open_each(rows, self._crop))

    def crops_of_import(self, document_id: str) -> list[CropRecord]:
        """The same of the reference that an import brought; none where it brought another before,
        since a crop does not say which one it is of."""
        rows = self.rows(_CROPS_OF_IMPORT, document=document_id, now=utc_now())
        return list(open_each(rows, self._crop))

    def faces(self, document_ids: Sequence[str], most: int) -> dict[str, list[Face]]:
        """At most so many crops that are kept of each document, its reference's own first, then
        the newest; no document is left out."""
        found: dict[str, list[Face]] = {key: [] for key in document_ids}
        rows = self._rows_of(_FACES_OF, document_ids, most=most, now=utc_now())
        for row, face in open_each(rows, self._face):
            found[row.document_id].append(face)
        return found

    def _face(self, row: AnyRow) -> tuple[AnyRow, Face]:
        if row.attempt_id is not None:
            require_authentic(self.vault, ENROLLMENTS, row, _OF_ATTEMPT)
        # Crops of before there was a column for it came in when they were decided on.
        crop = self._crop(row, received_at=row.received_at or row.attempt_created_at)
        told = (bool(row.is_of_reference), row.attempt_decision, row.attempt_captured_at)
        return row, Face(crop, *told)

    def _crop(self, row: AnyRow, **known: Any) -> CropRecord:
        # Or a face could be put under another document, and its holder be taken for it.
        require_authentic(self.vault, CROPS, row)
        image = self.vault.open(CROP_IMAGE, row.id, row.image)
        return read_as(CropRecord, row, image=image, **known)


class QueueReader(CaseReader, CropReader):
    """Reader of cases, of the queues that they are in, and of the faces of their documents."""

    def whole_queue(self, wanted: CaseFilter) -> Iterator[CaseRecord]:
        """Every case of a queue, the newest first."""
        after = None
        while page := self.queue(wanted, CaseSort.NEWEST, limit=1_000, after=after):
            yield from page
            after = page[-1].id

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
        if sort is not CaseSort.DUE:
            return self._sorted(wanted, sort, due, limit, last)
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
        query = select(CASES).where(*self._terms(wanted, due))
        query = query.order_by(*(one.desc() for one in order) if descends else order)
        if last is not None:
            values = value_of(last), last.id
            mark = tuple_(*map(literal, values, (one.type for one in order)))
            query = query.where(tuple_(*order) < mark if descends else tuple_(*order) > mark)
        return open_some(self, query, limit, partial(self._read, CaseRecord))

    def places(self, case_ids: Sequence[str]) -> dict[str, CasePlaces]:
        """The places of the lines of each case; no case is left out."""
        found = {key: CasePlaces() for key in case_ids}
        for row in self._rows_of(_PLACES, case_ids):
            found[row.case_id].add(row.carrier, row.outlet)
            found[row.case_id].lines += row.lines
        for row in self._rows_of(_ATTEMPTED_AT, case_ids):
            found[row.case_id].add(row.carrier, row.outlet)
        return found

    def _terms(self, wanted: CaseFilter, due: DueDates) -> Iterator[Condition]:
        if names := wanted.to_approve_by:
            wanted = replace(wanted, to_approve_by=(*names, *self.spellings(names)))
        return wanted.terms(due)

    def count(self, wanted: CaseFilter, due: DueDates) -> dict[str, int]:
        """The number of cases of a queue by kind."""
        query = select(CASES.c.kind, func.count().label("cases")).where(*self._terms(wanted, due))
        return {row.kind: int(row.cases) for row in self.rows(query.group_by(CASES.c.kind))}

    def count_fraud(self) -> int:
        """The number of cases that were decided to be fraud and have lines in use."""
        ((count,),) = self.rows(_FRAUD_IN_USE)
        return int(count)

    def fraud_of_cases(self, case_ids: Sequence[str]) -> dict[str, set[str]]:
        """The lines in use of what each case was decided to be fraud about; none is left out."""
        return self._fraud(_FRAUD_OF_CASES, case_ids)

    def fraud_under(self, document_ids: Sequence[str]) -> dict[str, set[str]]:
        """The lines in use of decided fraud under each document; none is left out."""
        return self._fraud(_FRAUD_UNDER, document_ids)

    def _fraud(self, query: Query, keys: Sequence[str]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {key: set() for key in keys}
        for row in self._rows_of(query, keys):
            found[row.key].add(row.line_id)
        return found
