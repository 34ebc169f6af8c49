"""Cases and their histories."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    String,
    Table,
    bindparam,
    exists,
    func,
    or_,
    select,
    text,
    update,
)

from engine.errors import NotFound, StorageFailed
from engine.registry.columns import (
    INDEXED,
    KEY,
    SEALED,
    ActorName,
    CaseId,
    Code,
    DocumentId,
    EnrollmentId,
    Id,
    LineId,
    RowNumber,
    SweepId,
    UuidText,
    mac_column,
    metadata,
    one_of,
    partial_index,
    required,
    sealed_column,
    table_of,
)
from engine.registry.database import KEYS, AnyRow, Moment, chunks, is_id
from engine.registry.documents import DOCUMENTS
from engine.registry.rows import (
    Change,
    NewEvent,
    RecordSource,
    RowValues,
    Transaction,
    Write,
    authentic_rows,
    sound_rows,
    with_macs,
)
from schema import frozen
from schema.actors import fold_person
from schema.cases import ALIVE, CaseNote, CaseOrigin, CaseState, NoteKind, Outcome, Proposal
from schema.documents import DocumentStatus
from schema.events import EventType
from schema.reasons import Photograph

ALIVE_STATES = sorted(one.value for one in ALIVE)
IS_ALIVE = one_of("state", (one for one in CaseState if one in ALIVE))
"""As the index below says it: only a query with these very words can use that."""
_IS_ALIVE_OF_LINE = f"line_id IS NOT NULL AND {IS_ALIVE}"

# An index of `cases.document_ids`: every decision that opens a case asks which others share a
# document with it. No foreign key on the document, as the list has none.
CASE_DOCUMENTS = Table(
    "case_documents",
    metadata,
    Column("document_id", UuidText, primary_key=True),
    Column("case_id", UuidText, ForeignKey("cases.id"), primary_key=True, index=True),
    mac_column(),
)

CASE_NOTES = Table(
    "case_notes",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    required("case_id", UuidText, ForeignKey("cases.id"), index=True),
    required("at", Moment),
    required("actor", String(200)),
    required("kind", String(16)),
    sealed_column("text"),
    mac_column(),
)


@frozen(kw_only=True)
class CaseRecord(Write):
    """A case. `suspect_ids`: its documents that seem to be one person's, not one that was only
    misused. `line_id`: the line that it is about, if any. `score` and `weakest`: of its
    best and its weakest link; `weakest` is None where only one is known.
    """

    id: Annotated[Id, KEY]
    kind: Annotated[str, Code]
    origin: Annotated[CaseOrigin, String(16)]
    state: Annotated[CaseState, String(16), INDEXED]
    enrollment_id: Annotated[EnrollmentId | None, INDEXED] = None
    document_ids: tuple[str, ...]
    suspect_ids: tuple[str, ...] = ()
    line_id: LineId | None = None
    line_ids: tuple[str, ...] = ()
    score: float | None = None
    risk: float | None = None
    sweep_id: SweepId | None = None
    group_key: Annotated[str | None, String(128), INDEXED] = None
    assignee: ActorName | None = None
    proposal: Proposal | None = None
    outcome: Annotated[Outcome | None, String(16)] = None
    merged_into: Annotated[CaseId | None, INDEXED] = None
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None
    weakest: float | None = None

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        # One that is merged at once comes after the one that it went into.
        ordered = sorted(written, key=lambda case: case.merged_into is not None)
        to.add(ordered)
        for case in written:
            # One that is merged as it is made was never open.
            if case.state in ALIVE:
                case.tell(to, EventType.CASE_OPENED, {})
        _link(to, [(case.id, key) for case in written for key in dict.fromkeys(case.document_ids)])

    def tell(self, to: Transaction, kind: EventType, data: dict[str, Any]) -> None:
        to.events.append(NewEvent(kind, self.id, None, {"kind": str(self.kind), **data}))


CASES = table_of(
    "cases",
    CaseRecord,
    CheckConstraint(one_of("origin", CaseOrigin), name="origin"),
    CheckConstraint(one_of("state", CaseState), name="state"),
    CheckConstraint(
        f"outcome IS NULL OR ({one_of('outcome', Outcome)} AND state = 'closed')", name="outcome"
    ),
    CheckConstraint("(state = 'merged') = (merged_into IS NOT NULL)", name="merged"),
)
Index("ix_cases_opened", CASES.c.opened_at, CASES.c.id)
# One at a time: who disputes a line again is shown the case that people have.
partial_index(
    "uq_cases_open_of_line", CASES.c.line_id, CASES.c.kind, unique=True, where=_IS_ALIVE_OF_LINE
)


@frozen
class CaseChange(Change):
    """A case that is there, as it is from now on; its documents are only added to."""

    table = CASES

    case: CaseRecord

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        # A closed one is written again when something else is noted of it.
        keys = [one.case.id for one in written]
        alive = set(to.connection.scalars(_STILL_ALIVE, {"keys": keys}))
        for one in written:
            one.replace(to)
            if (one.case.id in alive) is not (one.case.state in ALIVE):
                one.tell(to)

    def replace(self, to: Transaction) -> None:
        case = self.case
        (row,) = with_macs(to.vault, CASES, [case.row(to)])
        changed = update(CASES).where(CASES.c.id == case.id).values(row)
        if to.connection.execute(changed).rowcount != 1:
            raise StorageFailed(
                "a case to be changed is not there; nothing was kept: read it again"
            )
        if case.merged_into is not None:
            # Merges never form a chain.
            went = CASES.c.merged_into == case.id
            with to.changing(CASES, to.connection.scalars(select(CASES.c.id).where(went)).all()):
                follow = update(CASES).where(went).values(merged_into=case.merged_into)
                to.connection.execute(follow)
        linked = set(to.connection.scalars(_LINKED, {"id": case.id}))
        fresh = [key for key in dict.fromkeys(case.document_ids) if key not in linked]
        _link(to, [(case.id, key) for key in fresh])

    def tell(self, to: Transaction) -> None:
        case = self.case
        if case.state is CaseState.MERGED:
            case.tell(to, EventType.CASE_MERGED, {"into": case.merged_into})
        elif case.outcome is not None:
            case.tell(to, EventType.CASE_CLOSED, {"outcome": case.outcome.value})
        else:
            case.tell(to, EventType.CASE_REOPENED, {})


@frozen
class AddedNote(Change):
    """An entry that is added to the history of a case."""

    table = CASE_NOTES

    case_id: str
    note: CaseNote

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        # Under the writer's fence nothing else numbers them.
        first = (to.connection.scalar(_LAST_NOTE) or 0) + 1
        rows = [
            {
                "id": key,
                "case_id": one.case_id,
                "at": one.note.at,
                "actor": one.note.actor,
                "kind": one.note.kind.value,
                "text": to.vault.seal(CASE_NOTE, key, text.encode()) if text else None,
            }
            for key, one in enumerate(written, first)
            for text in (one.note.text,)
        ]
        to.insert(CASE_NOTES, rows)


@frozen(kw_only=True)
class CropRecord(Write):
    """An aligned face with its image as a JPEG or PNG file, which is sealed; `photograph` is `live`
    or `portrait`.

    It is of an attempt, which may have no well-formed document, or of an imported reference, which
    has a document alone. One that `is_held` is shown to nobody until a case names its document, or
    where an open case does already; from then on it is kept for `case_days`. `received_at` is when
    the photograph passed through.
    """

    id: Annotated[Id, KEY]
    enrollment_id: Annotated[EnrollmentId | None, INDEXED]
    photograph: Annotated[str, String(16)]
    image: Annotated[bytes, SEALED] = field(repr=False)
    kept_until: Annotated[datetime, INDEXED]
    document_id: Annotated[DocumentId | None, INDEXED] = None
    received_at: datetime | None = None
    quality: Mapping[str, float] | None = None
    is_held: bool | None = None
    case_days: int | None = None

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        to.add(written)
        held = [one.document_id for one in written if one.is_held]
        is_in_case = STATE_OF_NAMED.in_(ALIVE_STATES)
        named = select(CASE_DOCUMENTS.c.document_id).where(
            CASE_DOCUMENTS.c.document_id.in_(KEYS), is_in_case
        )
        found = [
            key for part in chunks(held) for key in to.connection.scalars(named, {"keys": part})
        ]
        keep_crops(to, found)

    def row(self, to: Transaction) -> RowValues:
        return self.columns(image=to.vault.seal(CROP_IMAGE, self.id, self.image))


CROP_IMAGE = "crops.image"
CROPS = table_of(
    "crops",
    CropRecord,
    CheckConstraint(one_of("photograph", Photograph), name="photograph"),
    CheckConstraint("enrollment_id IS NOT NULL OR document_id IS NOT NULL", name="owner"),
)

# A subquery and no join: SQLite would go through every case of the states first.
STATE_OF_NAMED = (
    select(CASES.c.state).where(CASES.c.id == CASE_DOCUMENTS.c.case_id).scalar_subquery()
)
_NAMED_CROPS = select(*CROPS.c["id", "kept_until", "case_days"]).where(
    CROPS.c.document_id.in_(KEYS), CROPS.c.case_days.is_not(None)
)
_KEEP_CROP = (
    update(CROPS)
    .where(CROPS.c.id == bindparam("key"))
    .values(kept_until=bindparam("until", type_=Moment), is_held=None)
)


def keep_crops(to: Transaction, document_ids: Sequence[str]) -> None:
    """Keeps the faces of these documents for a case: those that were held are shown from now on."""
    kept = [
        {"key": row.id, "until": max(row.kept_until, to.at + timedelta(days=row.case_days))}
        for part in chunks(list(dict.fromkeys(document_ids)))
        for row in to.connection.execute(_NAMED_CROPS, {"keys": part})
        # Its time is over, and only the daily job has not come to it yet.
        if row.kept_until > to.at
    ]
    if kept:
        with to.changing(CROPS, [one["key"] for one in kept]):
            to.connection.execute(_KEEP_CROP, kept)


CASE_NOTE = "case_notes.text"
_LINKED = select(CASE_DOCUMENTS.c.document_id).where(CASE_DOCUMENTS.c.case_id == bindparam("id"))
_OF_DOCUMENTS = select(CASE_DOCUMENTS.c.case_id).where(CASE_DOCUMENTS.c.document_id.in_(KEYS))
_IS_NAMED = exists().where(
    CASE_DOCUMENTS.c.case_id == CASE_NOTES.c.case_id,
    DOCUMENTS.c.id == CASE_DOCUMENTS.c.document_id,
    DOCUMENTS.c.status != DocumentStatus.ERASED.value,
)
_ERASE_TEXTS = update(CASE_NOTES).where(CASE_NOTES.c.id.in_(KEYS)).values(text=None)
_NOTES_TO_ERASE = select(CASE_NOTES.c.id).where(
    CASE_NOTES.c.case_id.in_(_OF_DOCUMENTS), CASE_NOTES.c.text.is_not(None), ~_IS_NAMED
)
_STILL_ALIVE = select(CASES.c.id).where(CASES.c.id.in_(KEYS), CASES.c.state.in_(ALIVE_STATES))
_LAST_NOTE = select(func.max(CASE_NOTES.c.id))


def erase_notes(to: Transaction, document_ids: Sequence[str]) -> None:
    """Wipes the note texts of cases that name these documents and no document still held."""
    erased = to.connection.scalars(_NOTES_TO_ERASE, {"keys": list(document_ids)}).all()
    with to.changing(CASE_NOTES, erased):
        for part in chunks(erased):
            to.connection.execute(_ERASE_TEXTS, {"keys": part})


def _link(to: Transaction, links: Sequence[tuple[str, str]]) -> None:
    """Names documents of cases, for which their faces are kept."""
    if links:
        to.insert(CASE_DOCUMENTS, [{"case_id": one, "document_id": key} for one, key in links])
        keep_crops(to, [key for _, key in links])


_OPEN_OF_LINE = select(CASES).where(
    CASES.c.line_id == bindparam("line"), CASES.c.kind == bindparam("kind"), text(IS_ALIVE)
)
_NAMING = select(CASE_DOCUMENTS.c.document_id, CASE_DOCUMENTS.c.case_id).where(
    CASE_DOCUMENTS.c.document_id.in_(KEYS), STATE_OF_NAMED.in_(bindparam("states", expanding=True))
)
_MERGED_INTO = (
    select(CASES)
    .where(CASES.c.merged_into == bindparam("id"))
    .order_by(CASES.c.opened_at, CASES.c.id)
)
_standing = CASES.alias("standing")
_STANDING = (
    select(_standing, CASES.c.group_key.label("named_key"), CASES.c.enrollment_id.label("attempt"))
    .join(_standing, _standing.c.id == func.coalesce(CASES.c.merged_into, CASES.c.id))
    .order_by(_standing.c.opened_at, _standing.c.id)
)
_OF_GROUPS = _STANDING.where(CASES.c.group_key.in_(KEYS))
_OF_ATTEMPTS = _STANDING.where(CASES.c.enrollment_id.in_(KEYS))
_WENT_INTO = select(CASES.c.id).where(CASES.c.merged_into == bindparam("id"))
_NOTES = (
    select(CASE_NOTES)
    .where(or_(CASE_NOTES.c.case_id == bindparam("id"), CASE_NOTES.c.case_id.in_(_WENT_INTO)))
    .order_by(CASE_NOTES.c.id)
)
_RESTRICTIONS = (
    select(CASE_NOTES)
    .where(CASE_NOTES.c.case_id.in_(KEYS), CASE_NOTES.c.kind == NoteKind.RESTRICTED.value)
    .order_by(CASE_NOTES.c.id)
)

_PROPOSERS = (
    select(CASES.c.proposal["person"].as_string().label("person"))
    .where(CASES.c.state == CaseState.PROPOSED.value)
    .distinct()
)
_CLOSED = [func.count().label("cases"), func.max(CASES.c.closed_at).label("newest")]
_CLOSINGS = select(*_CLOSED).where(CASES.c.state == CaseState.CLOSED.value)


class CaseReader(RecordSource):
    """Reader of cases and their histories."""

    def attempts_in(self, case_id: str) -> list[str]:
        """The enrollments that opened a case or went into it; none of one that is not there."""
        found = (*self.by_id([case_id]).values(), *self.merged_into(case_id))
        ids = (one.enrollment_id for one in found if one.enrollment_id is not None)
        return list(dict.fromkeys(ids))

    def get(self, case_id: str) -> CaseRecord:
        """One case; `NotFound` if there is none."""
        found = self.by_id([case_id]) if is_id(case_id) else {}
        if case_id not in found:
            raise NotFound("no case has this id: see `sosie cases`")
        return found[case_id]

    def by_id(self, ids: Sequence[str]) -> dict[str, CaseRecord]:
        """The known ones of these cases."""
        return self._by(CASES.c.id, CaseRecord, ids)

    def of_attempts(self, enrollment_ids: Sequence[str]) -> dict[str, CaseRecord]:
        """The newest case that each of these attempts opened or went into."""
        return {
            row.attempt: self._read(CaseRecord, row)
            for row in sound_rows(self.vault, CASES, self._rows_of(_OF_ATTEMPTS, enrollment_ids))
        }

    def notes(self, case_id: str) -> list[CaseNote]:
        """The history of a case and of those that went into it, oldest first; a text that was
        erased is empty.
        """
        return [
            CaseNote(at=row.at, actor=row.actor, kind=NoteKind(row.kind), text=self._text(row))
            for row in authentic_rows(self.vault, CASE_NOTES, self.rows(_NOTES, id=case_id))
        ]

    def restrictions(self, case_ids: Sequence[str]) -> dict[str, list[str]]:
        """The restrictions of outlets in the histories of these cases, oldest first; nothing of
        what was erased."""
        found: dict[str, list[str]] = {}
        rows = self._rows_of(_RESTRICTIONS, sorted(set(case_ids)))
        for row in sound_rows(self.vault, CASE_NOTES, rows):
            found.setdefault(row.case_id, []).append(self._text(row))
        return found

    def merged_into(self, case_id: str) -> list[CaseRecord]:
        """The cases that went into this one, oldest first: each with its own enrollment."""
        return [self._read(CaseRecord, row) for row in self.rows(_MERGED_INTO, id=case_id)]

    def open_of_line(self, line_id: str, kind: str) -> CaseRecord | None:
        """The case of one kind about a line that is alive; `None` where there is none."""
        row = self._first(_OPEN_OF_LINE, line=line_id, kind=kind)
        return None if row is None else self._read(CaseRecord, row)

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
            row.named_key: self._read(CaseRecord, row)
            for row in sound_rows(self.vault, CASES, newest.values())
        }

    def spellings(self, names: Collection[str]) -> list[str]:
        """The person of these names as open proposals write them: no database folds a name."""
        own = set(map(fold_person, names))
        known = [row.person for row in self.rows(_PROPOSERS)]
        return [one for one in known if one is not None and fold_person(one) in own]

    def closings(self) -> tuple[int, datetime | None]:
        """The number of closed cases, and when the last was closed: other closings, other
        figures."""
        (found,) = self.rows(_CLOSINGS)
        return found.cases, found.newest

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

    def _text(self, row: AnyRow) -> str:
        return "" if row.text is None else self.vault.open(CASE_NOTE, row.id, row.text).decode()
