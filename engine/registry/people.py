"""Rows about people whom rules treat apart: guardians, exceptions, the dead, replaced documents;
and the end of a holder's face."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import UTC, date, datetime
from typing import Annotated

import msgspec
from sqlalchemy import (
    Index,
    String,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    text,
    union_all,
    update,
)

from engine.registry.cases import CROPS
from engine.registry.columns import (
    INDEXED,
    KEY,
    ActorName,
    CarrierCode,
    CaseId,
    DocumentId,
    EnrollmentId,
    LineId,
    OutletCode,
    sealed_column,
    table_of,
)
from engine.registry.database import KEYS, AnyRow, Moment
from engine.registry.documents import DOCUMENTS
from engine.registry.enrollments import ENROLLMENTS, LIVENESS, TAKEN_PROOFS
from engine.registry.lines import IS_IN_USE, LINES
from engine.registry.queues import erase_crops
from engine.registry.references import ATTEMPT_TEMPLATES, IS_LIVE, REFERENCES
from engine.registry.rows import (
    Change,
    Put,
    RecordSource,
    RowValues,
    Single,
    Transaction,
    Write,
    authentic_rows,
    read_as,
    update_one,
)
from engine.registry.sweeps import JUDGED_PAIRS
from schema import frozen
from schema.cases import Outcome
from schema.decoding import prepare
from schema.people import ExceptionCause, ExceptionTally


@frozen
class Guardianship(Put):
    """Who answers for a minor's line, by ids, until the end of the year `ends_in`. A line that goes
    along with a minor's renewed document has the guardian of before."""

    line_id: Annotated[LineId, KEY]
    document_id: Annotated[DocumentId, INDEXED]
    guardian_id: Annotated[DocumentId, INDEXED]
    enrollment_id: EnrollmentId
    ends_in: int
    created_at: datetime


GUARDIANSHIPS = table_of("guardianships", Guardianship)


@frozen
class AskedLine:
    """The line that an exception asks for: a number, under a document as the attempt had it. The
    name is None where it was asked for before names were kept."""

    msisdn: str = field(repr=False)
    name: str | None = field(default=None, repr=False)
    expires_on: date | None = None


@frozen
class ExceptionRecord(Write):
    """An enrollment (its `id`) without a usable face or portrait, and why. `line` is sealed, and
    leaves once two people have decided; with a `line_id` they granted it."""

    id: Annotated[EnrollmentId, KEY]
    carrier: CarrierCode
    outlet: OutletCode
    document_id: Annotated[DocumentId, INDEXED]
    cause: Annotated[str, String(32)]
    line: AskedLine | None
    asked_at: Annotated[datetime, INDEXED]
    case_id: Annotated[CaseId, INDEXED]
    decided_at: datetime | None = None
    line_id: Annotated[LineId | None, INDEXED] = None

    @property
    def state(self) -> str:
        if self.decided_at is None:
            return "asked"
        return "refused" if self.line_id is None else "granted"

    def row(self, to: Transaction) -> RowValues:
        assert self.line is not None, "what is asked for is a line"
        sealed = to.vault.seal(_NUMBER, self.id, msgspec.json.encode(self.line))
        return self.columns(msisdn=sealed)


EXCEPTIONS = table_of("exceptions", ExceptionRecord, line=sealed_column("msisdn"))
Index("ix_exceptions_outlet", EXCEPTIONS.c.outlet, EXCEPTIONS.c.asked_at)


@frozen
class DecidedException(Change):
    """An enrollment whose exception was decided, and the line that it was granted."""

    table = EXCEPTIONS
    update = update_one(EXCEPTIONS, EXCEPTIONS.c.decided_at.is_(None)).values(
        msisdn=None, decided_at=bindparam("at"), line_id=bindparam("line")
    )

    enrollment_id: str
    line_id: str | None

    def row(self, to: Transaction) -> RowValues:
        return {"key": self.enrollment_id, "at": to.at, "line": self.line_id}


@frozen(kw_only=True)
class DeathRecord(Put):
    """A holder who was reported dead, as it is from now on; it holds until it is lifted, and the
    row stays then."""

    document_id: Annotated[DocumentId, KEY]
    source: Annotated[str, String(32)]
    reported_at: datetime
    reported_by: ActorName
    reported_person: ActorName
    disputed_lines: tuple[str, ...] = ()
    confirmed_at: datetime | None = None
    confirmed_by: ActorName | None = None
    contested_at: datetime | None = None
    contested_by: ActorName | None = None
    contested_person: ActorName | None = None
    lifted_at: datetime | None = None
    lifted_by: ActorName | None = None

    @property
    def state(self) -> str:
        if self.lifted_at is not None:
            return "lifted"
        return "reported" if self.confirmed_at is None else "confirmed"


DEATHS = table_of("deaths", DeathRecord)


@frozen
class Replacement(Write):
    """A document that enrolls nobody any more: another of the same person, its successor, has
    replaced it; `score` is that of the face that was shown with the successor."""

    step = 1

    document_id: Annotated[DocumentId, KEY]
    successor_id: Annotated[DocumentId, INDEXED]
    enrollment_id: EnrollmentId
    score: float
    replaced_at: datetime

    def follow(self, to: Transaction) -> None:
        """Puts the successor into the guardianships of the document, on either side."""
        for column in _OF_GUARDIANSHIP:
            is_old = column == self.document_id
            found = to.connection.scalars(select(GUARDIANSHIPS.c.line_id).where(is_old)).all()
            if found:
                with to.changing(GUARDIANSHIPS, found):
                    moved = update(GUARDIANSHIPS).where(is_old)
                    to.connection.execute(moved.values({column.name: self.successor_id}))


REPLACEMENTS = table_of("replacements", Replacement)


def _reach(near: Mapping[str, set[str]], start: str) -> set[str]:
    found, left = {start}, [start]
    while left:
        for other in near.get(left.pop(), set()) - found:
            found.add(other)
            left.append(other)
    return found


_NUMBER = "exceptions.msisdn"
_REPLACED = select(REPLACEMENTS).where(
    or_(REPLACEMENTS.c.document_id.in_(KEYS), REPLACEMENTS.c.successor_id.in_(KEYS))
)
_ASKED = (
    select(EXCEPTIONS.c.outlet, func.count().label("asked"))
    .where(EXCEPTIONS.c.outlet.in_(KEYS), EXCEPTIONS.c.asked_at > bindparam("since"))
    # Proofs that two people decide have a count of their own.
    .where(EXCEPTIONS.c.cause.in_([one.value for one in ExceptionCause]))
    .group_by(EXCEPTIONS.c.outlet)
)
_PROOFS = (
    select(LIVENESS.c.outlet, func.count().label("proofs"))
    .where(text(TAKEN_PROOFS), LIVENESS.c.outlet.in_(KEYS))
    .where(LIVENESS.c.received_at > bindparam("since"))
    .group_by(LIVENESS.c.outlet)
)
_COUNTS = (
    select(
        *EXCEPTIONS.c["outlet", "carrier"],
        func.count().label("asked"),
        func.count(EXCEPTIONS.c.decided_at).label("decided"),
        func.count(EXCEPTIONS.c.line_id).label("granted"),
        func.max(EXCEPTIONS.c.asked_at).label("last_at"),
    )
    .where(EXCEPTIONS.c.asked_at > bindparam("since"))
    .group_by(EXCEPTIONS.c.outlet, EXCEPTIONS.c.carrier)
)
_GUARDED_LINES = (
    select(GUARDIANSHIPS.c.guardian_id, func.count().label("lines"))
    .join(LINES, LINES.c.id == GUARDIANSHIPS.c.line_id)
    .where(
        GUARDIANSHIPS.c.guardian_id.in_(KEYS),
        LINES.c.carrier == bindparam("carrier"),
        LINES.c.status != "closed",
    )
    .group_by(GUARDIANSHIPS.c.guardian_id)
)
_OF_GUARDIANSHIP = (GUARDIANSHIPS.c.document_id, GUARDIANSHIPS.c.guardian_id)
# A document, and those that have taken its place over any number of steps.
_FIRST = select(DOCUMENTS.c.id).correlate(DOCUMENTS).cte("newer", recursive=True, nesting=True)
_NEWER = _FIRST.union(
    select(REPLACEMENTS.c.successor_id).where(REPLACEMENTS.c.document_id == _FIRST.c.id)
)
_NEVER = literal(datetime.max.replace(tzinfo=UTC), Moment)
_CLOSED_AT = func.coalesce(case((~IS_IN_USE, LINES.c.closed_at)), _NEVER).label("at")
_ANSWERED_FOR = select(_CLOSED_AT).join(GUARDIANSHIPS, GUARDIANSHIPS.c.line_id == LINES.c.id)
_USES = union_all(
    *(
        uses.where(column == _NEWER.c.id).correlate(_NEWER)
        for uses, column in (
            (select(_CLOSED_AT), LINES.c.document_id),
            (_ANSWERED_FOR, GUARDIANSHIPS.c.guardian_id),
            # The lines of a document that was replaced have gone to its successor.
            (select(REPLACEMENTS.c.replaced_at), REPLACEMENTS.c.document_id),
        )
    )
).subquery()
_LAST_OF_EACH = select(func.max(_USES.c.at)).scalar_subquery()
LAST_USE = select(func.max(_LAST_OF_EACH)).select_from(_NEWER).scalar_subquery()
"""The close of the last line of a document's holder with any carrier, or of a minor whom the holder
answers for; in the far future while one is in use, NULL where there was none."""
IS_LAST_FACE = and_(
    exists().where(REFERENCES.c.document_id == DOCUMENTS.c.id, IS_LIVE),
    ~exists().where(
        REFERENCES.c.document_id == _NEWER.c.id, _NEWER.c.id != DOCUMENTS.c.id, IS_LIVE
    ),
)
"""True of a document with a face, where no document that has taken its place has one."""


@frozen
class FaceErasure(Single):
    """The faces that attempts under a document left, its references apart: of one carrier's; or of
    all, and then nothing of its face is left, and what waited for that is done."""

    table = DOCUMENTS
    step = 2

    document_id: str
    carrier: str | None

    def follow(self, to: Transaction) -> None:
        to.is_erasing = True
        key, of = self.document_id, ATTEMPT_TEMPLATES.c
        if self.carrier is None:
            erase_crops(to.connection, [key])
            # By document: an attempt may have left its guardian's, too.
            to.delete(of.document_id, [key])
            to.change(DOCUMENTS, _FACE_ERASED, [{"key": key, "number": to.audit_number}])
            return
        own = select(ENROLLMENTS.c.id).where(ENROLLMENTS.c.carrier == self.carrier)
        under = own.where(ENROLLMENTS.c.document_id == key)
        to.connection.execute(delete(CROPS).where(CROPS.c.enrollment_id.in_(under)))
        to.connection.execute(delete(of.id.table).where(of.document_id == key, of.id.in_(own)))


_FACE_ERASED = update_one(DOCUMENTS).values(
    erasure_number=bindparam("number"),
    **dict.fromkeys(("erasure_due_at", "erasure_asked_by", "erasure_scope")),
)


@frozen
class Standing:
    """The standing of some documents: whose holders are dead, which were replaced, and which are
    one person's by replacement."""

    deceased: frozenset[str] = frozenset()
    replaced: Mapping[str, str] = field(default_factory=dict)

    def newest(self, document_id: str) -> str:
        """The document that has taken the place of this one, over any number of steps; or it."""
        while document_id in self.replaced:
            document_id = self.replaced[document_id]
        return document_id

    def kin(self, document_id: str) -> frozenset[str]:
        """The documents of one person with this, itself too, as far as replacements tell."""
        near: defaultdict[str, set[str]] = defaultdict(set)
        for old, new in self.replaced.items():
            near[old].add(new)
            near[new].add(old)
        return frozenset(_reach(near, document_id))


def _read_line(opened: bytes) -> AskedLine:
    # A number alone was sealed before names were.
    if opened.startswith(b"+"):
        return AskedLine(opened.decode())
    return msgspec.json.decode(opened, type=prepare(AskedLine))


def forget_people(to: Transaction, document_id: str) -> None:
    """Wipes what was asked for under an erased document, and its ties to people."""
    is_asked = (EXCEPTIONS.c.document_id == document_id) & EXCEPTIONS.c.decided_at.is_(None)
    asked = to.connection.scalars(select(EXCEPTIONS.c.id).where(is_asked)).all()
    DecidedException.store(to, [DecidedException(key, None) for key in asked])
    for column in (*_OF_GUARDIANSHIP, REPLACEMENTS.c.document_id):
        to.delete(column, [document_id])


class PeopleReader(RecordSource):
    """Reader of these rows."""

    def same_person(self, document_ids: Sequence[str]) -> dict[str, frozenset[str]]:
        """Each document with all that people have decided to be the same person's, and those that
        it replaced or that replaced it, over any number of steps."""
        near: defaultdict[str, set[str]] = defaultdict(set)
        seen: set[str] = set()
        fresh = set(document_ids)
        while fresh:
            seen |= fresh
            ties = [(row.document_id, row.successor_id) for row in self._replacements(fresh)]
            for column in (JUDGED_PAIRS.c.left_document, JUDGED_PAIRS.c.right_document):
                ties += [
                    (row.left_document, row.right_document)
                    for row in self._found(column, sorted(fresh))
                    if row.outcome == Outcome.FRAUD
                ]
            for one, other in ties:
                near[one].add(other)
                near[other].add(one)
            fresh = near.keys() - seen
        return {key: frozenset(_reach(near, key)) for key in document_ids}

    def standing(self, document_ids: Sequence[str]) -> Standing:
        """The standing of these documents, and of those that they replaced."""
        replaced: dict[str, str] = {}
        seen: set[str] = set()
        asked = set(document_ids)
        while asked:
            seen |= asked
            replaced |= {row.document_id: row.successor_id for row in self._replacements(asked)}
            asked = {key for pair in replaced.items() for key in pair} - seen
        dead = self._found(DEATHS.c.document_id, document_ids)
        return Standing(
            frozenset(row.document_id for row in dead if row.lifted_at is None), replaced
        )

    def _replacements(self, document_ids: Collection[str]) -> Iterator[AnyRow]:
        rows = self._rows_of(_REPLACED, sorted(document_ids))
        return authentic_rows(self.vault, REPLACEMENTS, rows)

    def replacements(self) -> list[Replacement]:
        """Every document that was replaced."""
        return self._sound(Replacement, select(REPLACEMENTS))

    def replaced_by(self, document_id: str) -> list[str]:
        """The documents that this one has replaced, without what those have replaced."""
        replaced = self.standing([document_id]).replaced
        return [old for old, new in replaced.items() if new == document_id]

    def death(self, document_id: str) -> DeathRecord | None:
        """The report of a holder's death, lifted or not."""
        return self._one(DEATHS.c.document_id, DeathRecord, document_id)

    def count_guarded(self, guardian_ids: Sequence[str], carrier: str) -> dict[str, int]:
        """The number of lines in use with a carrier that each of these documents answers for."""
        rows = self._rows_of(_GUARDED_LINES, guardian_ids, carrier=carrier)
        return {row.guardian_id: row.lines for row in rows}

    def guarded_by(self, guardian_id: str) -> list[str]:
        """The lines of minors that the holder of this document answers for, closed ones too."""
        return [row.line_id for row in self._found(GUARDIANSHIPS.c.guardian_id, [guardian_id])]

    def guardians_of(self, document_id: str) -> set[str]:
        """The documents of those who answer for lines under a minor's document."""
        rows = self._found(GUARDIANSHIPS.c.document_id, [document_id])
        return {row.guardian_id for row in rows}

    def bound_by(self, document_id: str) -> set[str]:
        """The carriers whose enrollments have made a face this document's, an erased one's too."""
        found = self._found(REFERENCES.c.document_id, [document_id])
        ids = [row.enrollment_id for row in found if row.enrollment_id is not None]
        return {row.carrier for row in self._found(ENROLLMENTS.c.id, ids)}

    def exceptions(self, enrollment_ids: Sequence[str]) -> dict[str, ExceptionRecord]:
        """The exceptions that these enrollments asked for."""
        return self._by(EXCEPTIONS.c.id, ExceptionRecord, enrollment_ids, line=None)

    def exceptions_of_lines(self, line_ids: Sequence[str]) -> dict[str, ExceptionRecord]:
        """The exceptions by which lines were opened, by line."""
        return self._by(EXCEPTIONS.c.line_id, ExceptionRecord, line_ids, line=None)

    def exception_of_case(self, case_id: str) -> ExceptionRecord | None:
        """The exception that a case decides, with what it asks for while that is undecided."""
        for row in self._found(EXCEPTIONS.c.case_id, [case_id]):
            sealed = row.msisdn
            line = None if sealed is None else _read_line(self.vault.open(_NUMBER, row.id, sealed))
            return read_as(ExceptionRecord, row, line=line)
        return None

    def count_asked(self, outlets: Sequence[str], since: datetime) -> dict[str, int]:
        """How many exceptions each of these outlets has asked for since; none of one without."""
        return {row.outlet: row.asked for row in self._rows_of(_ASKED, outlets, since=since)}

    def count_proofs(self, outlets: Sequence[str], since: datetime) -> dict[str, int]:
        """How many proofs in place of a face were taken of each of these outlets since."""
        return {row.outlet: row.proofs for row in self._rows_of(_PROOFS, outlets, since=since)}

    def count_by_outlet(self, since: datetime) -> list[ExceptionTally]:
        """The outlets that have asked for exceptions since, those with most first."""
        found = [read_as(ExceptionTally, row) for row in self.rows(_COUNTS, since=since)]
        return sorted(found, key=lambda one: (-one.asked, one.outlet))

    def guardians(self, line_ids: Sequence[str]) -> dict[str, Guardianship]:
        """The guardians of lines of minors, by line."""
        return self._by(GUARDIANSHIPS.c.line_id, Guardianship, line_ids)
