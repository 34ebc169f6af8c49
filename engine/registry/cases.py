"""Readers of cases with what people judged, of sweeps, and of facts about references."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    ColumnElement,
    Row,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy import case as by_value

from engine.errors import NotFound
from engine.registry import tables
from engine.registry.database import KEYS, Moment, Source, long_statements, reading
from engine.registry.line_life import HAS_FRAUD_IN_USE
from engine.registry.records import (
    AttemptRecord,
    CaseRecord,
    CropRecord,
    JudgedPair,
    is_id,
    utc_now,
)
from engine.registry.row_macs import (
    REFERENCE_COLUMNS,
    open_each,
    open_some,
    require_authentic,
    sound_rows,
)
from engine.registry.rows import CASE_NOTE, CROP_IMAGE, case_of, read_as
from engine.registry.tables import IS_ALIVE, case_documents, case_notes, cases, crops, judged_pairs
from schema.cases import (
    ALIVE,
    KIND_RISK,
    CaseKind,
    CaseNote,
    CaseSort,
    CaseState,
    DueDates,
    NoteKind,
    Outcome,
)
from schema.lines import LineStatus
from schema.sweeps import Identity, LineFact


def risk_of(found: CaseRecord) -> float:
    """The points of a case: of its group in a sweep, else of its kind."""
    return KIND_RISK.get(found.kind, 0.0) if found.risk is None else found.risk


_references, _lines = tables.references, tables.lines

_RANKED = by_value(
    {str(kind): points for kind, points in KIND_RISK.items()}, value=cases.c.kind, else_=0.0
)
_SORTS: dict[CaseSort, tuple[ColumnElement[Any], Callable[[CaseRecord], Any], bool]] = {
    CaseSort.RISK: (func.coalesce(cases.c.risk, _RANKED), risk_of, True),
    CaseSort.SCORE: (
        func.coalesce(cases.c.score, -1.0),
        lambda one: -1.0 if one.score is None else one.score,
        True,
    ),
    CaseSort.NEWEST: (cases.c.opened_at, lambda one: one.opened_at, True),
    CaseSort.OLDEST: (cases.c.opened_at, lambda one: one.opened_at, False),
}
"""What an order sorts by, in the database and of a record, and whether it descends."""
_PLACES = (
    select(case_documents.c.case_id, _lines.c.carrier, _lines.c.outlet, func.count().label("lines"))
    .join(_lines, _lines.c.document_id == case_documents.c.document_id)
    .where(case_documents.c.case_id.in_(KEYS), _lines.c.status != LineStatus.CLOSED.value)
    .group_by(case_documents.c.case_id, _lines.c.carrier, _lines.c.outlet)
    .order_by(func.count().desc(), _lines.c.carrier, _lines.c.outlet)
)
_ATTEMPTED_AT = (
    select(cases.c.id.label("case_id"), tables.enrollments.c.carrier, tables.enrollments.c.outlet)
    .join(tables.enrollments, tables.enrollments.c.id == cases.c.enrollment_id)
    .where(cases.c.id.in_(KEYS))
)
_CASES = select(cases).where(cases.c.id.in_(KEYS))
_OPEN_OF_LINE = select(cases).where(
    cases.c.line_id == bindparam("line"), cases.c.kind == bindparam("kind"), text(IS_ALIVE)
)
# A subquery and no join: SQLite would go through every case of the states first.
_STATE = select(cases.c.state).where(cases.c.id == case_documents.c.case_id).scalar_subquery()
_NAMING = select(case_documents.c.document_id, case_documents.c.case_id).where(
    case_documents.c.document_id.in_(KEYS), _STATE.in_(bindparam("states", expanding=True))
)
_MERGED_INTO = (
    select(cases)
    .where(cases.c.merged_into == bindparam("id"))
    .order_by(cases.c.opened_at, cases.c.id)
)
_standing = cases.alias("standing")
_OF_GROUPS = (
    select(_standing, cases.c.group_key.label("named_key"))
    .join(_standing, _standing.c.id == func.coalesce(cases.c.merged_into, cases.c.id))
    .where(cases.c.group_key.in_(KEYS))
    .order_by(_standing.c.opened_at, _standing.c.id)
)
_WENT_INTO = select(cases.c.id).where(cases.c.merged_into == bindparam("id"))
_NOTES = (
    select(case_notes)
    .where(or_(case_notes.c.case_id == bindparam("id"), case_notes.c.case_id.in_(_WENT_INTO)))
    .order_by(case_notes.c.id)
)
_RESTRICTIONS = (
    select(case_notes)
    .where(case_notes.c.case_id.in_(KEYS), case_notes.c.kind == NoteKind.RESTRICTED.value)
    .order_by(case_notes.c.id)
)
_IS_NEEDED = exists().where(
    case_documents.c.document_id == crops.c.document_id,
    _STATE.in_(sorted(state.value for state in ALIVE)),
)
# An open case keeps its faces beyond their time; retention takes them where its hold is over.
_IS_SHOWN = and_(
    or_(crops.c.kept_until > bindparam("now", type_=Moment), _IS_NEEDED),
    func.coalesce(crops.c.is_held, false()).is_(false()),
)
_CROPS_OF = (
    select(crops)
    .where(crops.c.enrollment_id == bindparam("enrollment"), _IS_SHOWN)
    .order_by(crops.c.photograph, crops.c.id)
)
# Where an earlier import's reference was removed, its crops may be of another person.
_removed = tables.references.alias("removed")
_CROPS_OF_IMPORT = (
    select(crops)
    .where(
        crops.c.document_id == bindparam("document"),
        crops.c.enrollment_id.is_(None),
        _IS_SHOWN,
        ~exists().where(
            _removed.c.document_id == crops.c.document_id,
            _removed.c.enrollment_id.is_(None),
            _removed.c.removed_sequence.is_not(None),
        ),
    )
    .order_by(crops.c.photograph, crops.c.id)
)
# The reference's own first: those of attempts may show somebody else. An import's has no attempt.
_IS_OF_REFERENCE = exists().where(
    tables.references.c.document_id == crops.c.document_id,
    tables.references.c.removed_sequence.is_(None),
    or_(
        tables.references.c.enrollment_id == crops.c.enrollment_id,
        and_(tables.references.c.enrollment_id.is_(None), crops.c.enrollment_id.is_(None)),
    ),
)
_ranked = (
    select(
        crops.c.id,
        by_value((_IS_OF_REFERENCE, 1), else_=0).label("is_of_reference"),
        func.row_number()
        .over(
            partition_by=crops.c.document_id,
            order_by=(
                by_value((_IS_OF_REFERENCE, 0), else_=1),
                crops.c.received_at.desc(),
                crops.c.enrollment_id,
                crops.c.photograph,
                crops.c.id,
            ),
        )
        .label("place"),
    )
    .where(crops.c.document_id.in_(KEYS), _IS_SHOWN)
    .subquery()
)
_OF_ATTEMPT = "attempt_"
_FACES_OF = (
    select(
        crops,
        _ranked.c.is_of_reference,
        *(one.label(f"{_OF_ATTEMPT}{one.name}") for one in tables.enrollments.columns),
    )
    .join(_ranked, _ranked.c.id == crops.c.id)
    .join(tables.enrollments, tables.enrollments.c.id == crops.c.enrollment_id, isouter=True)
    .where(_ranked.c.place <= bindparam("most"))
    .order_by(crops.c.document_id, _ranked.c.place)
)
EXCEPTIONS = frozenset({Outcome.TWINS, Outcome.MISTAKE})
"""What later sweeps respect: these two documents are two people, or one with good reason."""

_CLOSED_COUNT = (
    select(func.count()).select_from(cases).where(cases.c.state == CaseState.CLOSED.value)
)
_PAIRS = select(judged_pairs)
_JUDGED = _PAIRS.order_by(judged_pairs.c.left_document, judged_pairs.c.right_document)
_NEWEST_REFERENCES = (
    select(_references.c.document_id, func.max(_references.c.added_sequence).label("newest"))
    .where(_references.c.document_id.in_(KEYS), _references.c.removed_sequence.is_(None))
    .group_by(_references.c.document_id)
)


@dataclass(frozen=True, slots=True)
class Face:
    """An aligned face of a document as a JPEG or PNG file; `is_of_reference` where the document's
    reference was made of it.

    `decision` and `captured_at` are of its attempt: None of an imported reference.
    """

    crop: CropRecord
    is_of_reference: bool
    decision: str | None
    captured_at: datetime | None
    image: bytes = field(repr=False)


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
            yield cases.c.state.in_([one.value for one in states])
        if self.fraud_in_use:
            yield HAS_FRAUD_IN_USE
        if self.kind is not None:
            yield cases.c.kind == self.kind
        if self.assignees:
            yield cases.c.assignee.in_(self.assignees)
        if self.carrier is not None:
            yield _is_at(_lines.c.carrier, tables.enrollments.c.carrier, self.carrier)
        if self.outlet is not None:
            yield _is_at(_lines.c.outlet, tables.enrollments.c.outlet, self.outlet)
        if self.id_end is not None:
            yield or_(
                cases.c.id.endswith(self.id_end, autoescape=True),
                cases.c.enrollment_id.endswith(self.id_end, autoescape=True),
                exists().where(
                    case_documents.c.case_id == cases.c.id,
                    case_documents.c.document_id.endswith(self.id_end, autoescape=True),
                ),
            )
        if self.overdue_at is not None:
            late = [
                and_(cases.c.kind == kind.value, cases.c.opened_at < self.overdue_at - span)
                for kind in CaseKind
                if (span := due.span(kind)) is not None
            ]
            yield and_(cases.c.state.in_([one.value for one in ALIVE]), or_(*late))


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
        attempts = tables.enrollments.c
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
                cases.c.id == func.coalesce(_opened.c.merged_into, _opened.c.id),
                *self.case.terms(due),
            )


_opened = cases.alias("opened")
_OF_ATTEMPTS = (
    select(_standing, cases.c.enrollment_id.label("attempt_id"))
    .join(_standing, _standing.c.id == func.coalesce(cases.c.merged_into, cases.c.id))
    .where(cases.c.enrollment_id.in_(KEYS))
    .order_by(_standing.c.opened_at, _standing.c.id)
)


def _is_at(of_line: Column[str], of_attempt: Column[str], value: str) -> ColumnElement[bool]:
    return or_(
        exists().where(
            case_documents.c.case_id == cases.c.id,
            _lines.c.document_id == case_documents.c.document_id,
            of_line == value,
        ),
        exists().where(tables.enrollments.c.id == cases.c.enrollment_id, of_attempt == value),
    )


@dataclass(slots=True)
class CasePlaces:
    """Where the lines in use of a case's documents were opened, and how many there are."""

    carriers: list[str] = field(default_factory=list)
    outlets: list[str] = field(default_factory=list)
    lines: int = 0

    def add(self, carrier: str, outlet: str) -> None:
        for known, one in ((self.carriers, carrier), (self.outlets, outlet)):
            if one not in known:
                known.append(one)


class CaseReader(Source):
    """Reader of cases, judged pairs and crops."""

    def get(self, case_id: str) -> CaseRecord:
        """One case; `NotFound` if there is none."""
        found = self.by_id([case_id]) if is_id(case_id) else {}
        if case_id not in found:
            raise NotFound("no case has this id: see `sosie cases`")
        return found[case_id]

    def by_id(self, ids: Sequence[str]) -> dict[str, CaseRecord]:
        """The known ones of these cases."""
        return {row.id: case_of(self.vault, row) for row in self._rows_of(_CASES, ids)}

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
        table = tables.enrollments
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
        return [
            read_as(AttemptRecord, row, reasons=tuple(row.reasons))
            for row in open_some(self, query, limit, require)
        ]

    def of_attempts(self, enrollment_ids: Sequence[str]) -> dict[str, CaseRecord]:
        """The newest case that each of these attempts opened or went into."""
        return {
            row.attempt_id: case_of(self.vault, row)
            for row in sound_rows(self.vault, cases, self._rows_of(_OF_ATTEMPTS, enrollment_ids))
        }

    def _sorted(
        self, wanted: CaseFilter, sort: CaseSort, due: DueDates, limit: int, last: CaseRecord | None
    ) -> list[CaseRecord]:
        key, value_of, descends = _SORTS[sort]
        order = (key, cases.c.id)
        query = select(cases).where(*wanted.terms(due))
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
        """Where the lines of each case are; no case is left out."""
        found = {key: CasePlaces() for key in case_ids}
        for row in self._rows_of(_PLACES, case_ids):
            found[row.case_id].add(row.carrier, row.outlet)
            found[row.case_id].lines += row.lines
        for row in self._rows_of(_ATTEMPTED_AT, case_ids):
            found[row.case_id].add(row.carrier, row.outlet)
        return found

    def notes(self, case_id: str) -> list[CaseNote]:
        """The history of a case and of those that went into it, oldest first; a text that was
        erased is empty.
        """
        return [
            CaseNote(at=row.at, actor=row.actor, kind=NoteKind(row.kind), text=self._text(row))
            for found in self.rows(_NOTES, id=case_id)
            for row in (require_authentic(self.vault, case_notes, found),)
        ]

    def restrictions(self, case_ids: Sequence[str]) -> dict[str, list[str]]:
        """What the histories of these cases say of outlets, oldest first; nothing of what was
        erased."""
        found: dict[str, list[str]] = {}
        rows = self._rows_of(_RESTRICTIONS, sorted(set(case_ids)))
        for row in sound_rows(self.vault, case_notes, rows):
            found.setdefault(row.case_id, []).append(self._text(row))
        return found

    def merged_into(self, case_id: str) -> list[CaseRecord]:
        """The cases that went into this one, oldest first: each with its own enrollment."""
        return [case_of(self.vault, row) for row in self.rows(_MERGED_INTO, id=case_id)]

    def open_of_line(self, line_id: str, kind: str) -> CaseRecord | None:
        """The case of one kind about a line that is alive; `None` where there is none."""
        row = self._first(_OPEN_OF_LINE, line=line_id, kind=kind)
        return None if row is None else case_of(self.vault, row)

    def open_of(self, document_ids: Sequence[str]) -> dict[str, list[CaseRecord]]:
        """The cases alive that name each document, the newest first; no document is left out."""
        return self._by_document(document_ids, ALIVE)

    def of(self, document_ids: Sequence[str]) -> dict[str, list[CaseRecord]]:
        """The cases that name each document, alive or closed; a merged one as what it went into."""
        return self._by_document(document_ids, ALIVE | {CaseState.CLOSED})

    def of_groups(self, group_keys: Sequence[str]) -> dict[str, CaseRecord]:
        """The newest case that each of these groups of sweeps went into, closed or alive; none
        where that is damaged, for what an earlier one says may be over."""
        newest = {row.named_key: row for row in self._rows_of(_OF_GROUPS, group_keys)}
        return {
            row.named_key: case_of(self.vault, row)
            for row in sound_rows(self.vault, cases, newest.values())
        }

    def count_closed(self) -> int:
        """How many cases are closed; none is ever opened again, or deleted."""
        ((count,),) = self.rows(_CLOSED_COUNT)
        return int(count)

    def judged_pairs(self, outcomes: Collection[Outcome] | None = None) -> list[JudgedPair]:
        """Every judged pair, or those with one of these outcomes; by document."""
        query = _JUDGED
        if outcomes is not None:
            query = query.where(judged_pairs.c.outcome.in_([one.value for one in outcomes]))
        return list(open_each(self.rows(query), self._judged))

    def judged_between(self, document_ids: Sequence[str]) -> list[JudgedPair]:
        """What people judged of any two of these documents."""
        wanted, left = set(document_ids), judged_pairs.c.left_document
        rows = self._rows_of(_PAIRS.where(left.in_(KEYS)), sorted(wanted))
        return [self._judged(row) for row in rows if row.right_document in wanted]

    def newest_references(self, document_ids: Sequence[str]) -> dict[str, int]:
        """The gallery's sequence at which each document's newest live reference was added; none of
        one without references."""
        return {
            row.document_id: row.newest for row in self._rows_of(_NEWEST_REFERENCES, document_ids)
        }

    def _judged(self, found: Row[Any]) -> JudgedPair:
        row = require_authentic(self.vault, judged_pairs, found)
        return read_as(JudgedPair, row, outcome=Outcome(row.outcome))

    def crops(self, enrollment_id: str) -> list[tuple[CropRecord, bytes]]:
        """The crops of an enrollment with their images, `live` before `portrait`.

        None where none were kept, or where their time is over.
        """
        if not is_id(enrollment_id):
            return []
        rows = self.rows(_CROPS_OF, enrollment=enrollment_id, now=utc_now())
        return [(read_as(CropRecord, row), image) for row, image in open_each(rows, self._image)]

    def crops_of_import(self, document_id: str) -> list[tuple[CropRecord, bytes]]:
        """The same of the reference that an import brought; none where it brought another before,
        since a crop does not say which one it is of."""
        rows = self.rows(_CROPS_OF_IMPORT, document=document_id, now=utc_now())
        return [(read_as(CropRecord, row), image) for row, image in open_each(rows, self._image)]

    def faces(self, document_ids: Sequence[str], most: int) -> dict[str, list[Face]]:
        """At most so many crops that are kept of each document, its reference's own first, then
        the newest; no document is left out."""
        found: dict[str, list[Face]] = {key: [] for key in document_ids}
        rows = self._rows_of(_FACES_OF, document_ids, most=most, now=utc_now())
        for row, face in open_each(rows, self._face):
            found[row.document_id].append(face)
        return found

    def _face(self, row: Row[Any]) -> tuple[Row[Any], Face]:
        if row.attempt_id is not None:
            require_authentic(self.vault, tables.enrollments, row, _OF_ATTEMPT)
        # Crops of before there was a column for it came in when they were decided on.
        crop = read_as(CropRecord, row, received_at=row.received_at or row.attempt_created_at)
        told = (bool(row.is_of_reference), row.attempt_decision, row.attempt_captured_at)
        return row, Face(crop, *told, self._image(row)[1])

    def _image(self, row: Row[Any]) -> tuple[Row[Any], bytes]:
        # Or a face could be put under another document, and its holder be taken for it.
        require_authentic(self.vault, crops, row)
        return row, self.vault.open(CROP_IMAGE, row.id, row.image)

    def _by_document(
        self, document_ids: Sequence[str], states: Collection[CaseState]
    ) -> dict[str, list[CaseRecord]]:
        named = [state.value for state in sorted(states)]
        links = [
            (row.document_id, row.case_id)
            for row in self._rows_of(_NAMING, document_ids, states=named)
        ]
        # Each case is read once, however many of the documents it names.
        known = self.by_id([case_id for _, case_id in links])
        found: dict[str, list[CaseRecord]] = {key: [] for key in document_ids}
        for document_id, case_id in links:
            if known[case_id].state in states:
                found[document_id].append(known[case_id])
        for cases_of_one in found.values():
            cases_of_one.sort(key=lambda case: (case.opened_at, case.id), reverse=True)
        return found

    def _text(self, row: Row[Any]) -> str:
        return "" if row.text is None else self.vault.open(CASE_NOTE, row.id, row.text).decode()


def _is_below(
    key: ColumnElement[Any], value: object, case_id: str, descends: bool
) -> ColumnElement[bool]:
    further, beside = (
        (key < value, cases.c.id < case_id) if descends else (key > value, cases.c.id > case_id)
    )
    return or_(further, and_(key == value, beside))


OWNERS_PER_PAGE = 50_000
_ID_BYTES = 36

_IS_LIVE = _references.c.removed_sequence.is_(None)
DOCUMENTS_OF = select(*REFERENCE_COLUMNS).where(_references.c.id.in_(KEYS), _IS_LIVE)
_LINES_OF = (
    select(
        _lines.c.document_id,
        _lines.c.id,
        _lines.c.carrier,
        _lines.c.outlet,
        _lines.c.opened_at,
        _lines.c.status,
    )
    .where(_lines.c.document_id.in_(KEYS))
    .order_by(_lines.c.opened_at, _lines.c.id)
)
_IS_OPEN_DISPUTE = (
    select(cases.c.kind == CaseKind.DISPUTE.value)
    .where(
        cases.c.id == case_documents.c.case_id,
        cases.c.state.in_(sorted(state.value for state in ALIVE)),
    )
    .scalar_subquery()
)
# A subquery and no join: SQLite would go through every open case first.
_DISPUTES_OF = (
    select(case_documents.c.document_id, func.count().label("disputes"))
    .where(case_documents.c.document_id.in_(KEYS), _IS_OPEN_DISPUTE)
    .group_by(case_documents.c.document_id)
)
# In the order of an index that has both columns: the rows themselves, which are ten times as
# long for their templates, are not read.
_OWNERS = (
    select(_references.c.document_id, _references.c.id)
    .where(
        tuple_(_references.c.document_id, _references.c.id)
        > tuple_(bindparam("document"), bindparam("id"))
    )
    .order_by(_references.c.document_id, _references.c.id)
    .limit(bindparam("page"))
)
_REMOVED = select(_references.c.id).where(_references.c.removed_sequence.is_not(None))
_OPENINGS = (
    select(_lines.c.id, _references.c.id.label("reference"), _lines.c.outlet, _lines.c.opened_at)
    .add_columns(_lines.c.status)
    .join(_references, (_references.c.document_id == _lines.c.document_id) & _IS_LIVE)
    .where(_lines.c.id > bindparam("last"))
    .order_by(_lines.c.id)
    .limit(bindparam("page"))
)


class FactReader(Source):
    """Reader of facts about references, by which sweeps rank and group them."""

    def identities_of(self, reference_ids: Sequence[int]) -> list[Identity]:
        """The documents of these references, each once, in the order of their first reference.

        A reference that is gone has none. Each brings the references that were asked for, every
        line, closed ones too, and the number of its open disputes.
        """
        references: dict[str, list[int]] = defaultdict(list)
        rows = self._rows_of(DOCUMENTS_OF, sorted({int(key) for key in reference_ids}))
        for row in sound_rows(self.vault, _references, rows):
            references[row.document_id].append(row.id)
        ordered = {key: sorted(ids) for key, ids in references.items()}
        documents = sorted(ordered, key=lambda key: ordered[key][0])
        lines: dict[str, list[LineFact]] = defaultdict(list)
        for row in self._rows_of(_LINES_OF, documents):
            lines[row.document_id].append(
                LineFact(row.id, row.carrier, row.outlet, row.opened_at, row.status)
            )
        disputes = {row.document_id: row.disputes for row in self._rows_of(_DISPUTES_OF, documents)}
        return [
            Identity(key, tuple(ordered[key]), tuple(lines[key]), disputes.get(key, 0))
            for key in documents
        ]

    def crowded_documents(self, most: int, is_each_carrier: bool) -> list[str]:
        """The documents with more than `most` lines in use: over all carriers, or with one."""
        grouped = (
            (_lines.c.document_id, _lines.c.carrier) if is_each_carrier else (_lines.c.document_id,)
        )
        query = (
            select(_lines.c.document_id)
            .where(_lines.c.status != LineStatus.CLOSED.value)
            .group_by(*grouped)
            .having(func.count() > most)
        )
        # It reads every line.
        with reading(self._engine) as connection, long_statements(connection):
            return sorted({row.document_id for row in connection.execute(query)})

    def count_outlet_lines(self, outlets: Sequence[str]) -> dict[str, int]:
        """How many lines each outlet has opened, closed ones too; none of one without lines."""
        query = (
            select(_lines.c.outlet, func.count().label("lines"))
            .where(_lines.c.outlet.in_(sorted(set(outlets))))
            .group_by(_lines.c.outlet)
        )
        with reading(self._engine) as connection, long_statements(connection):
            return {row.outlet: row.lines for row in connection.execute(query)}

    def document_owner_array(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of every live reference: ids int64[n], ascending, and a number of its document int64[n].

        The numbers say no more than which references are of one document. Read in pages, each a
        short transaction: what is added or removed meanwhile may be in it or not.
        """
        pages = list(self._owner_pages())
        removed = np.array([row.id for row in self.rows(_REMOVED)], np.int64)
        if not pages:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ids = np.concatenate([ids for ids, _ in pages])
        # Every page begins with a number of its own, unless it goes on with a document.
        numbers = np.cumsum(np.concatenate([is_other for _, is_other in pages]), dtype=np.int64)
        order = np.argsort(ids)
        order = order[~np.isin(ids[order], removed)]
        return ids[order], numbers[order]

    def opening_arrays(self) -> tuple[NDArray[Any], ...]:
        """Of every line of a live reference: a reference int64[n], a number of its outlet int32[n],
        the minute it was opened in int64[n], and whether it is disputed bool[n].

        Read in pages as `document_owner_array`; a line of several references may be there again.
        """
        outlets: dict[str, int] = {}
        pages: list[NDArray[np.int64]] = [np.empty((0, 4), np.int64)]
        asked = {"last": "", "page": OWNERS_PER_PAGE}
        while rows := self.rows(_OPENINGS, **asked):
            numbers = [
                (
                    row.reference,
                    outlets.setdefault(row.outlet, len(outlets)),
                    int(row.opened_at.timestamp() // 60),
                    row.status == LineStatus.DISPUTED.value,
                )
                for row in rows
            ]
            pages.append(np.array(numbers, np.int64))
            asked["last"] = rows[-1].id
        reference, outlet, minute, is_disputed = np.concatenate(pages).T
        return reference, outlet.astype(np.int32), minute, is_disputed.astype(np.bool_)

    def _owner_pages(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """References by document, and whether each is of another document than the one before."""
        asked = {"document": "", "id": -1, "page": OWNERS_PER_PAGE}
        while True:
            rows = self.rows(_OWNERS, **asked)
            if not rows:
                return
            documents, ids = zip(*rows, strict=True)
            names = np.array((asked["document"], *documents), f"S{_ID_BYTES}")
            yield np.array(ids, np.int64), names[1:] != names[:-1]
            asked |= {"document": documents[-1], "id": ids[-1]}
