"""Lines in use: the number that is asked for, and how many one person may have."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from engine.matching.checks.face import FacePart
from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Evidence, EvidencePart
from engine.matching.requests import Attempt
from engine.registry.database import AHEAD, new_id
from engine.registry.documents import DocumentRecord
from engine.registry.lines import LineRecord
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from schema import frozen
from schema.decisions import Finding
from schema.lines import LineEventKind, LineStatus
from schema.options import LineLimits
from schema.reasons import Decision, Reason

LATELY = timedelta(days=1)


@frozen(kw_only=True)
class LinePart(EvidencePart):
    """Lines in use: `open_lines` with the carrier, `person_lines` over all carriers, under every
    document of the person; `day_lines` of these were opened of late. A limit of 0 is none, as in
    decisions from before there was one."""

    is_number_in_use: bool = False
    open_lines: int = 0
    line_limit: int = 5
    person_lines: int = 0
    person_limit: int = 0
    channel_limit: int = 0
    day_lines: int = 0
    day_limit: int = 0
    approval_h: int = 0
    is_approved: bool = False
    is_exempt: bool = False
    """Whether no limit holds for the document; asked only where one is reached."""
    is_holder_unseen: bool = False
    """Whether the person has lines elsewhere, and the face that is shown was compared with none of
    the holder's."""

    @property
    def reached(self) -> list[Reason]:
        """The limits of the document with the carrier, and of the person, that are reached."""
        found = {
            Reason.LINE_LIMIT_REACHED: self.open_lines >= self.line_limit,
            Reason.PERSON_LIMIT_REACHED: 0 < self.person_limit <= self.person_lines,
            Reason.CHANNEL_LIMIT_REACHED: 0 < self.channel_limit <= self.person_lines,
            Reason.DAY_LIMIT_REACHED: 0 < self.day_limit <= self.day_lines,
            Reason.APPROVAL_MISSING: self.approval_h > 0 and not self.is_approved,
        }
        return [reason for reason, is_reached in found.items() if is_reached]

    def find(self, _evidence: Evidence, _version: str) -> Iterator[Finding]:
        if self.is_number_in_use:
            yield Finding.of(Reason.LINE_IN_USE)
        for reason in () if self.is_exempt else self.reached:
            yield Finding.of(reason)


class LineOpenings:
    """When the lines of some documents were opened, and what was approved over the first ones."""

    def __init__(
        self, registry: Reader, document_ids: Sequence[str], now: datetime, hours: int
    ) -> None:
        """`hours`: the most that an approval holds; with 0 none is read."""
        self._now = now
        self._opened = defaultdict[str, list[tuple[datetime, str]]](list)
        self._firsts: dict[str, tuple[datetime, str]] = {}
        for one in registry.openings(document_ids, now) if document_ids else ():
            # Those of a clock that was ahead are not of this day.
            if one.opened_at <= now + AHEAD:
                self._opened[one.document_id].append((one.opened_at, one.carrier))
            if hours and one.status is not LineStatus.CLOSED:
                self._note_first(one.document_id, (one.opened_at, one.id))
        firsts = [line_id for _, line_id in self._firsts.values()]
        read = partial(registry.newest_line_events, kinds=[LineEventKind.OPENING_APPROVED])
        approvals = read_apart(firsts, read).items() if firsts else ()
        # By a carrier's clock that is ahead it would come after the line that it was used for.
        self._approved = {key: min(one.at, one.recorded_at) for key, one in approvals}

    def add(self, document_id: str, line_id: str, carrier: str) -> None:
        """A line is opened."""
        self._opened[document_id].append((self._now, carrier))
        self._note_first(document_id, (self._now, line_id))

    def move(self, old: str, document_id: str) -> None:
        """A document has taken the place of another."""
        self._opened[document_id] += self._opened.pop(old, [])
        if first := self._firsts.pop(old, None):
            self._note_first(document_id, first)

    def count_lately(self, own: Collection[str]) -> Counter[str]:
        """The number under these documents within a day, by carrier."""
        every = (one for key in own for one in self._opened.get(key, ()))
        return Counter(carrier for at, carrier in every if at > self._now - LATELY)

    def are_approved(self, own: Collection[str], hours: int) -> bool:
        """True where whoever has these documents may open one more: there is none yet, or that was
        approved over the first, so many hours ago at most, and since the newest was opened."""
        first = min((self._firsts[key] for key in own if key in self._firsts), default=None)
        if first is None:
            return True
        opened = [at for key in own for at, _ in self._opened.get(key, ())]
        since, at = self._now - timedelta(hours=hours), self._approved.get(first[1])
        return at is not None and max(since, *opened) < at <= self._now

    def _note_first(self, document_id: str, line: tuple[datetime, str]) -> None:
        self._firsts[document_id] = min(line, self._firsts.get(document_id, line))


class LineCheck(DecisionCheck):
    """Counts lines as the registry and this batch have them, and opens them."""

    part = LinePart

    def __init__(self, batch: AttemptBatch, terms: LineLimits) -> None:
        super().__init__(batch, terms)
        registry, known = batch.registry, [one.id for one in batch.documents]
        in_use = registry.lines_in_use([attempt.msisdn_lookup for attempt in batch.attempts])
        self._numbers: dict[bytes, LineRecord | None] = {**in_use}
        """By number the line that it is on; None for one of this batch."""
        # Of a person who has several documents, since people decided that they are one.
        self._persons = registry.people.same_person(known) if terms != LineLimits() else {}
        every = sorted({*known, *(key for some in self._persons.values() for key in some)})
        self._open_lines = registry.open_line_counts(every)
        self._totals = Counter[str]()
        for (document_id, _), count in self._open_lines.items():
            self._totals[document_id] += count
        each = (terms, *terms.own.values())
        is_dated = any(one.day_limit or one.approval_h for one in each)
        hours = max(one.approval_h for one in each)
        exempt = registry.exemptions(every) if is_dated else {}
        # A firm's lines without limits are many, and would be read for nothing.
        dated = [key for key in every if is_dated and {*self._documents_of(key)} - exempt.keys()]
        self._openings = LineOpenings(registry, dated, batch.now, hours)
        self.changed_documents: set[str] = set()
        """Documents that this batch has opened lines under."""
        self._moved_exemptions: set[str] = set()

    def weigh(self, _place: int, attempt: Attempt, evidence: Evidence) -> Sequence[EvidencePart]:
        record = self._batch.document(attempt.document_lookup)
        held = self._batch.held(attempt.document_lookup)
        lines = LinePart(
            is_number_in_use=attempt.msisdn_lookup in self._numbers,
            open_lines=self.count(held.id, attempt.outlet.carrier) if held else 0,
            line_limit=attempt.outlet.line_limit,
        )
        lines = self._weigh_person(lines, attempt, record)
        if lines.reached and record is not None:
            lines = replace(lines, is_exempt=self._is_exempt(record.id))
        if record is None or attempt.request.is_faceless:
            return [lines]
        # What a carrier's own lines reach tells it of no other.
        carrier, own = attempt.outlet.carrier, self._documents_of(record.id)
        mine = sum(self.count(key, carrier) for key in own)
        is_elsewhere = (
            lines.person_lines > mine or lines.day_lines > self._openings.count_lately(own)[carrier]
        )
        is_unseen = is_elsewhere and evidence.of(FacePart).holder_score is None
        return [replace(lines, is_holder_unseen=is_unseen)]

    def add_replaced(self, lines: LinePart, attempt: Attempt, old: DocumentRecord) -> LinePart:
        """The lines of the document that is replaced count; its number may come along."""
        moves = self._find_moved(attempt, old) is not None
        lines = replace(
            lines,
            is_number_in_use=lines.is_number_in_use and not moves,
            open_lines=lines.open_lines + self.count(old.id, attempt.outlet.carrier) - moves,
        )
        lines = self._weigh_person(
            lines, attempt, self._batch.document(attempt.document_lookup), old
        )
        if moves:
            total = lines.person_lines - 1
            lines = replace(lines, person_lines=total, channel_limit=0, day_limit=0, approval_h=0)
        is_exempt = lines.is_exempt or (bool(lines.reached) and self._is_exempt(old.id))
        return replace(lines, is_exempt=is_exempt)

    def write(self, made: DecidedAttempt) -> None:
        """An approval opens a line, but for a number that comes along with a replaced document."""
        attempt = made.attempt
        if made.verdict.decision is Decision.APPROVED:
            old = attempt.replaced_lookup and self._batch.document(attempt.replaced_lookup)
            moved = self._find_moved(attempt, old) if old else None
            made.decided.line_id = self._open(made) if moved is None else moved.id
        lines = made.evidence.of(LinePart)
        made.decided.is_own_holder = lines.open_lines > 0
        made.decided.is_holder_unseen = lines.is_holder_unseen

    def _open(self, made: DecidedAttempt) -> str:
        attempt, document_id = made.attempt, made.decided.document_id
        assert document_id is not None
        row = LineRecord(
            id=new_id(),
            msisdn_lookup=attempt.msisdn_lookup,
            msisdn=attempt.msisdn,
            document_id=document_id,
            carrier=attempt.outlet.carrier,
            outlet=attempt.outlet.code,
            enrollment_id=made.decided.enrollment_id,
            opened_at=self._batch.now,
        )
        self._batch.writes.append(row)
        self._numbers[attempt.msisdn_lookup] = None
        self.changed_documents.add(document_id)
        self._open_lines[document_id, attempt.outlet.carrier] += 1
        self._totals[document_id] += 1
        self._openings.add(document_id, row.id, attempt.outlet.carrier)
        return row.id

    def move(self, old: str, document_id: str, carrier: str, *, is_exempt: bool) -> None:
        """A document has taken the place of another, with all its lines, and with its exemption."""
        if is_exempt:
            self._moved_exemptions.add(document_id)
        self._open_lines[document_id, carrier] += self._open_lines.pop((old, carrier), 0)
        self._totals[document_id] += self._totals.pop(old, 0)
        self._openings.move(old, document_id)
        self.changed_documents |= {old, document_id}

    def count(self, document_id: str, carrier: str) -> int:
        """How many a document has with a carrier."""
        return self._open_lines[document_id, carrier]

    def _weigh_person(
        self, lines: LinePart, attempt: Attempt, *records: DocumentRecord | None
    ) -> LinePart:
        """With all that whoever has these documents has over all carriers."""
        limits = self._terms.own.get(attempt.outlet.carrier, self._terms)
        known = [one.id for one in records if one is not None]
        own = {key for one in known for key in self._documents_of(one)}
        return replace(
            lines,
            person_lines=sum(self._totals[key] for key in own),
            person_limit=limits.person_limit,
            channel_limit=limits.outlets.get(attempt.outlet.code, 0),
            day_lines=self._openings.count_lately(own).total(),
            day_limit=limits.day_limit,
            approval_h=limits.approval_h,
            is_approved=self._openings.are_approved(own, limits.approval_h),
        )

    def _documents_of(self, document_id: str) -> Collection[str]:
        """All of the person who has this one."""
        return self._persons.get(document_id, (document_id,))

    def _is_exempt(self, document_id: str) -> bool:
        is_moved = document_id in self._moved_exemptions
        return is_moved or document_id in self._batch.registry.exemptions([document_id])

    def _find_moved(self, attempt: Attempt, old: DocumentRecord) -> LineRecord | None:
        """The line of the attempt's number, where it is the replaced document's."""
        line = self._numbers.get(attempt.msisdn_lookup)
        own = (old.id, attempt.outlet.carrier)
        return line if line and (line.document_id, line.carrier) == own else None
