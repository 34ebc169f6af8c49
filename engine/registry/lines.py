"""Lines, what happened to them, and whose holders are asked for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import field
from datetime import datetime
from typing import Annotated, Any, Self

from sqlalchemy import (
    CheckConstraint,
    Connection,
    Index,
    String,
    bindparam,
    func,
    literal_column,
    select,
)

from engine.errors import SealBroken
from engine.registry.columns import (
    INDEXED,
    KEY,
    ActorName,
    CarrierCode,
    Code,
    DocumentId,
    EnrollmentId,
    Id,
    LineId,
    Of,
    OutletCode,
    SealedText,
    one_of,
    partial_index,
    table_of,
)
from engine.registry.database import KEYS, AnyRow, Query, chunks, new_id
from engine.registry.rows import (
    Change,
    Deleted,
    NewEvent,
    Put,
    RecordSource,
    RowValues,
    Transaction,
    Write,
    columns_of,
    open_each,
    read_as,
    require_authentic,
    update_one,
)
from engine.registry.vault import Vault
from schema import frozen
from schema.events import EventType
from schema.lines import LineEventKind, LineService, LineState, LineStatus

_CLOSED = "status = 'closed' AND msisdn IS NOT NULL"


@frozen(kw_only=True)
class LineRecord(Write):
    """A line; `msisdn_lookup` comes from `Vault.look_up`. Its number is sealed, and only of a line
    to be opened it is here: else `Reader.numbers` opens it."""

    id: Annotated[Id, KEY]
    msisdn_lookup: bytes | None
    msisdn: SealedText | None = field(default=None, repr=False)
    document_id: Annotated[DocumentId, INDEXED]
    carrier: CarrierCode
    outlet: OutletCode
    enrollment_id: EnrollmentId | None
    status: Annotated[LineStatus, String(16)] = LineStatus.ACTIVE
    opened_at: datetime
    closed_at: datetime | None = None
    service: Annotated[LineService | None, String(24)] = None
    """What it lacks; beside the status, so that neither a dispute nor its end changes it."""

    @property
    def state(self) -> LineState:
        if self.status is LineStatus.ACTIVE and self.service is not None:
            return LineState(self.service)
        return LineState(self.status)

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        to.add(written)
        decided = {
            one.subject: one for one in to.events if one.type is EventType.ENROLLMENT_DECIDED
        }
        for line in written:
            # An imported base is the carrier's own: it is told of nothing that it does not know.
            if (attempt := line.enrollment_id) is None:
                continue
            if attempt in decided:
                decided[attempt].line_id = decided[attempt].data["line_id"] = line.id
            else:
                data = {"enrollment_id": attempt, "outlet": line.outlet}
                opened = (EventType.LINE_OPENED, line.id, line.carrier, data)
                to.events.append(NewEvent(*opened, line.document_id))

    def row(self, to: Transaction) -> RowValues:
        assert self.msisdn is not None, "a line is opened with its number"
        return self.columns(msisdn=to.vault.seal("lines.msisdn", self.id, self.msisdn.encode()))


LINES = table_of("lines", LineRecord, CheckConstraint(one_of("status", LineStatus), name="status"))
partial_index(
    "uq_lines_number_in_use", LINES.c.msisdn_lookup, unique=True, where="status <> 'closed'"
)
partial_index("ix_lines_closed", LINES.c.closed_at, LINES.c.id, where=_CLOSED)
# An event that ended a line is reported again by its number.
partial_index(
    "ix_lines_closed_number",
    LINES.c.msisdn_lookup,
    where="status = 'closed' AND msisdn_lookup IS NOT NULL",
)

# Written out, as in the index: else SQLite has to plan anew for each value.
IS_IN_USE = LINES.c.status != literal_column(f"'{LineStatus.CLOSED.value}'")


@frozen
class LineEvent(Write):
    """An event of a line, `at` a moment; it was written down at `recorded_at`. A line that is
    closed, disputed or restored changes with it.

    `cause` is the rule or the campaign that brought it, the case that it opened, or why people did
    it: then a case is `case:` with its id.
    """

    id: Annotated[Id, KEY]
    line_id: LineId
    kind: Annotated[LineEventKind, String(32)]
    at: datetime
    recorded_at: Annotated[datetime, INDEXED]
    cause: Annotated[str | None, Code]
    by: ActorName

    @classmethod
    def note(cls, to: Transaction, written: Sequence[Self]) -> None:
        """Writes and tells them; the lines stay as they are."""
        lines = find_lines(to.connection, [one.line_id for one in written])
        to.insert(LINE_EVENTS, [columns_of(one) for one in written])
        for one in written:
            # One of a line that is not there is refused by the database.
            if (line := lines.get(one.line_id)) is not None:
                tell_of_line(to, EventType(f"line.{one.kind}"), line, one.describe())

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        cls.note(to, written)
        for kind, change in _CHANGES_OF.items():
            moment = {"at": to.at} if kind is LineEventKind.CLOSED else {}
            keys = [one.line_id for one in written if one.kind is kind]
            to.change(LINES, change, [{"key": key, **moment} for key in keys])
            if kind is LineEventKind.CLOSED:
                # Nobody is asked for any more who had one of these.
                to.delete(REVERIFICATIONS.c.line_id, keys)

    def describe(self) -> dict[str, Any]:
        """As carriers and fraud teams are told it."""
        # Of a holder who has not come the case stays, for those who read the whole feed.
        is_whole = self.kind is LineEventKind.REVERIFY_FAILED
        return {"at": self.at.isoformat(), "cause": self.cause if is_whole else tell_cause(self)}


LINE_EVENTS = table_of("line_events", LineEvent)
Index("ix_line_events_line", LINE_EVENTS.c.line_id, LINE_EVENTS.c.at)
# They change lines, and are written with these.
LineEvent.table = LINES


def tell_cause(event: LineEvent) -> str | None:
    """The cause as a carrier is told it: of a case no id, which would say whose other lines are in
    it, and which is for fraud teams."""
    is_case = event.kind is LineEventKind.REVERIFY_FAILED or (event.cause or "").startswith("case:")
    return "case" if is_case else event.cause


@frozen
class LineChange(Write):
    """Lines that people close, dispute or restore, and why; they may be none."""

    table = LINES

    line_ids: Sequence[str]
    kind: LineEventKind
    cause: str
    by: str

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        if events := [event for one in written for event in one.events(to.at)]:
            LineEvent.store(to, events)

    def events(self, at: datetime) -> list[LineEvent]:
        """One for each line."""
        said = (self.kind, at, at, self.cause, self.by)
        return [LineEvent(new_id(), key, *said) for key in self.line_ids]


@frozen
class ServiceChange(Change):
    """The service that a line lacks from now on."""

    table = LINES

    line_id: str
    service: LineService | None

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        rows = [{"key": one.line_id, "new_service": one.service} for one in written]
        with to.changing(LINES, [one.line_id for one in written]):
            to.connection.execute(_SET_SERVICE, rows)


@frozen
class MovedLine(Change):
    """A line, and the document that it is under from now on."""

    table = LINES
    update = update_one(LINES, IS_IN_USE).values(document_id=bindparam("new"))

    line_id: str
    document_id: str

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        lines = find_lines(to.connection, [one.line_id for one in written])
        for line in (lines[one.line_id] for one in written if one.line_id in lines):
            tell_of_line(to, EventType.LINE_MOVED, line, {})
        moved = [{"key": one.line_id, "new": one.document_id} for one in written]
        to.change(LINES, cls.update, moved)


Step = tuple[int, str]
"""Seconds, and the state that a line is in after them."""


@frozen(kw_only=True)
class Reverification(Put):
    """A line whose holder is asked for; one of a rule at a time. It replaces one of the same id.

    `steps` are those still to come, each counted from the one before. With none left it waits for
    the holder without a time. `overdue_at`: the first step's moment, once that was done.
    """

    id: Annotated[Id, KEY]
    line_id: LineId
    rule: Annotated[str, Code]
    asked_at: datetime
    next_step_at: datetime | None
    steps: tuple[Step, ...]
    """As they were when it was asked for: what a holder was told stays so."""
    overdue_at: datetime | None = None
    campaign_id: Annotated[Id | None, Of("campaigns.id")] = None


REVERIFICATIONS = table_of("reverifications", Reverification)
Index("uq_reverifications_line", REVERIFICATIONS.c.line_id, REVERIFICATIONS.c.rule, unique=True)
partial_index(
    "ix_reverifications_due",
    *REVERIFICATIONS.c["next_step_at", "id"],
    where="next_step_at IS NOT NULL",
)
# Of each campaign, and of rules, by themselves: so none has to wait behind another's.
partial_index(
    "ix_reverifications_campaign",
    *REVERIFICATIONS.c["campaign_id", "next_step_at", "id"],
    where="next_step_at IS NOT NULL",
)


@frozen
class EndedReverification(Deleted):
    """A re-verification that waits no more."""

    table = REVERIFICATIONS

    id: str


def find_lines(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    """The known ones of these lines, each as `tell_of_line` needs it."""
    return {
        row.id: row
        for part in chunks(ids)
        for row in connection.execute(_PLACES_OF, {"keys": part})
    }


def tell_of_line(to: Transaction, kind: EventType, line: Any, data: dict[str, Any]) -> None:
    """Adds an event of a line, in the queue of its document."""
    to.events.append(NewEvent(kind, line.id, line.carrier, data, line.document_id))


def line_of(vault: Vault, row: AnyRow) -> LineRecord:
    return read_as(LineRecord, require_authentic(vault, LINES, row), msisdn=None)


_PLACES = select(*LINES.c["id", "carrier", "document_id"])
_PLACES_OF = _PLACES.where(LINES.c.id.in_(KEYS))
IN_USE_UNDER = _PLACES.where(LINES.c.document_id == bindparam("key"), IS_IN_USE).order_by(
    LINES.c.id
)
"""The lines in use under a document, each as `tell_of_line` needs it."""
_CHANGES_OF = {
    LineEventKind.DISPUTED: update_one(LINES, LINES.c.status == LineStatus.ACTIVE.value).values(
        status=LineStatus.DISPUTED.value
    ),
    LineEventKind.RESTORED: update_one(LINES, LINES.c.status == LineStatus.DISPUTED.value).values(
        status=LineStatus.ACTIVE.value
    ),
    LineEventKind.CLOSED: update_one(LINES, IS_IN_USE).values(
        status=LineStatus.CLOSED.value, closed_at=bindparam("at")
    ),
}
_SET_SERVICE = update_one(LINES).values(service=bindparam("new_service"))

_LINES_IN_USE = select(LINES).where(LINES.c.msisdn_lookup.in_(KEYS), IS_IN_USE)
_COUNTS = (
    select(LINES.c.document_id, LINES.c.carrier, func.count().label("lines"))
    .where(LINES.c.document_id.in_(KEYS), IS_IN_USE)
    .group_by(LINES.c.document_id, LINES.c.carrier)
)
_LINES_OF_EACH = (
    select(LINES).where(LINES.c.document_id.in_(KEYS)).order_by(LINES.c.opened_at, LINES.c.id)
)
_LINES_IN_USE_OF = _LINES_OF_EACH.where(IS_IN_USE)
_CLOSED_BY = _LINES_OF_EACH.join(LINE_EVENTS, LINE_EVENTS.c.line_id == LINES.c.id).where(
    LINE_EVENTS.c.kind == LineEventKind.CLOSED.value, LINE_EVENTS.c.cause == bindparam("cause")
)
_NUMBERS = select(LINES.c.id, LINES.c.msisdn).where(LINES.c.id.in_(KEYS))

_EVENTS_OF = select(LINE_EVENTS).where(LINE_EVENTS.c.line_id == bindparam("line"))
_IN_ORDER = tuple(LINE_EVENTS.c["at", "recorded_at", "id"])
_newest_first = func.row_number().over(
    partition_by=LINE_EVENTS.c.line_id, order_by=[one.desc() for one in _IN_ORDER]
)
_ranked = (
    select(LINE_EVENTS, _newest_first.label("place"))
    .where(
        LINE_EVENTS.c.line_id.in_(KEYS), LINE_EVENTS.c.kind.in_(bindparam("kinds", expanding=True))
    )
    .subquery()
)
_NEWEST = select(_ranked).where(_ranked.c.place == 1)
_CLOSED_WITH = (
    select(LINES)
    .where(
        LINES.c.msisdn_lookup == bindparam("number"),
        LINES.c.msisdn_lookup.is_not(None),
        LINES.c.status == literal_column("'closed'"),
    )
    .order_by(LINES.c.closed_at.desc(), LINES.c.id)
    .limit(10)
)


class LineReader(RecordSource):
    """Reader of lines and of what happened to them."""

    def lines_in_use(self, msisdn_lookups: Sequence[bytes]) -> dict[bytes, LineRecord]:
        """The lines, not closed, that these numbers are on."""
        found = (line_of(self.vault, row) for row in self._rows_of(_LINES_IN_USE, msisdn_lookups))
        return {line.msisdn_lookup: line for line in found if line.msisdn_lookup is not None}

    def lines_by_id(self, ids: Sequence[str]) -> dict[str, LineRecord]:
        """The known ones of these lines, closed ones too."""
        return self._by(LINES.c.id, LineRecord, ids, msisdn=None)

    def open_line_counts(self, document_ids: Sequence[str]) -> Counter[tuple[str, str]]:
        """The number of lines, not closed, of each of these documents with each carrier."""
        rows = self._rows_of(_COUNTS, document_ids)
        return Counter({(row.document_id, row.carrier): row.lines for row in rows})

    def openings(self, document_ids: Sequence[str], now: datetime) -> list[LineRecord]:
        """All lines of these documents, closed ones too. Of a damaged one only the document is
        believed: it is in use, at no carrier, and was opened just now."""
        # All, whatever their moment: a query by an altered one would not find it.
        return [self._opening(row, now) for row in self._rows_of(_LINES_OF_EACH, document_ids)]

    def _opening(self, row: AnyRow, now: datetime) -> LineRecord:
        try:
            return line_of(self.vault, row)
        except SealBroken:
            return LineRecord(
                id="",
                msisdn_lookup=None,
                document_id=row.document_id,
                carrier="",
                outlet="",
                enrollment_id=None,
                opened_at=now,
            )

    def lines_of(self, document_id: str) -> list[LineRecord]:
        """Every line of a document, closed ones too, oldest first."""
        return self.lines_of_each([document_id])[document_id]

    def lines_in_use_of(self, document_ids: Sequence[str]) -> dict[str, list[LineRecord]]:
        """The lines, not closed, of each document, oldest first; no document is left out."""
        return self._lines_by_document(_LINES_IN_USE_OF, document_ids)

    def lines_closed_by(self, case_id: str, document_ids: Sequence[str]) -> list[LineRecord]:
        """The lines of these documents that decisions of a case have closed, oldest first."""
        rows = self._rows_of(_CLOSED_BY, document_ids, cause=f"case:{case_id}")
        return [line_of(self.vault, row) for row in rows]

    def lines_of_each(self, document_ids: Sequence[str]) -> dict[str, list[LineRecord]]:
        """The same with closed lines."""
        return self._lines_by_document(_LINES_OF_EACH, document_ids)

    def _lines_by_document(
        self, query: Query, document_ids: Sequence[str]
    ) -> dict[str, list[LineRecord]]:
        found: dict[str, list[LineRecord]] = {key: [] for key in document_ids}
        for row in self._rows_of(query, document_ids):
            found[row.document_id].append(line_of(self.vault, row))
        return found

    def numbers(self, line_ids: Sequence[str]) -> dict[str, str]:
        """Opens the numbers of these lines; an erased or damaged one is left out."""
        rows = self._rows_of(_NUMBERS, line_ids)
        return dict(open_each((row for row in rows if row.msisdn is not None), self._number))

    def _number(self, row: AnyRow) -> tuple[str, str]:
        return row.id, self.vault.open("lines.msisdn", row.id, row.msisdn).decode()

    def events_of_line(self, line_id: str, most: int = 500) -> list[LineEvent]:
        """The newest `most` events of a line, in the order in which they happened."""
        query = _EVENTS_OF.order_by(*(one.desc() for one in _IN_ORDER)).limit(most)
        return [self._event(row) for row in reversed(self.rows(query, line=line_id))]

    def find_line_event(self, line_id: str, kind: LineEventKind, at: datetime) -> LineEvent | None:
        """The event of this kind that happened to a line at this moment, where there is one."""
        query = _EVENTS_OF.where(LINE_EVENTS.c.kind == kind.value, LINE_EVENTS.c.at == at)
        row = self._first(query, line=line_id)
        return None if row is None else self._event(row)

    def lines_closed_with(self, number: bytes) -> list[LineRecord]:
        """The lines that a number was on last, newest first, where it has not left since."""
        return [line_of(self.vault, row) for row in self.rows(_CLOSED_WITH, number=number)]

    def newest_line_events(
        self, line_ids: Sequence[str], kinds: Sequence[LineEventKind]
    ) -> dict[str, LineEvent]:
        """The newest event of these kinds of each line that has one."""
        given = [one.value for one in kinds]
        return {
            row.line_id: self._event(row) for row in self._rows_of(_NEWEST, line_ids, kinds=given)
        }

    def _event(self, row: AnyRow) -> LineEvent:
        return read_as(LineEvent, require_authentic(self.vault, LINE_EVENTS, row))
