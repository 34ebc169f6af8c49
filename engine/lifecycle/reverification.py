"""Events of lines: as carriers report them, as rules bring them about, as holders come or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, date, datetime, time, timedelta
from math import ceil

from engine.errors import EventRefused, NotFound, NotReported
from engine.lifecycle.rules import ENDING, SIM_CHANGES, LineRules, Rule
from engine.matching.holders import NOBODY
from engine.matching.lines import LINE_UNKNOWN, find_line, normalise_line
from engine.registry.audit import AuditEntry
from engine.registry.campaigns import Campaign, ListedLine
from engine.registry.database import is_id, new_id
from engine.registry.documents import EndedExemption, ExemptDocument
from engine.registry.lines import (
    EndedReverification,
    LineEvent,
    LineRecord,
    Reverification,
    ServiceChange,
    Step,
)
from engine.registry.rows import Write, choose, read_apart
from engine.registry.store import Reader, WriterCall, on_writer
from engine.registry.writer import ChangeRunner
from schema import frozen
from schema.lines import (
    CampaignLineState,
    ExemptionCause,
    LineEventKind,
    LineService,
    LineStatus,
    ReportedKind,
)
from schema.people import ProofLevel

AHEAD = timedelta(minutes=1)
"""So much later than ours a carrier's clock may be."""
LATE = timedelta(hours=1)
"""A step that is done so late was missed: the next one gives its whole time from then on."""
LINES_PER_BATCH = 200
"""So many delay decisions by a tenth of a second at most."""
ACTOR = "sosie:lines"
"""Who carries out rules."""
_STRICTER = (None, *LineService)


class LifeBatch:
    """Collects what happens to lines in one transaction, on the writer's thread.

    What happens is followed: rules that wait for it ask for the holder, and what was asked for
    ends with its line.
    """

    def __init__(
        self,
        registry: Reader,
        rules: LineRules,
        lines: Iterable[LineRecord],
        now: datetime,
        actor: str,
    ) -> None:
        self._registry, self._rules = registry, rules
        self._now, self._actor = now, actor
        self._lines = {line.id: line for line in lines}
        self._asked = {
            key: {one.rule: one for one in found}
            for key, found in registry.life.asked_of(list(self._lines)).items()
        }
        self._services: dict[str, LineService | None] = {}
        self._written: dict[str, Reverification] = {}
        self._ended: dict[str, None] = {}
        self._closed: dict[str, None] = {}
        self._campaign_lines: dict[tuple[str, str], ListedLine] = {}
        self._events: list[LineEvent] = []
        self._entries: list[AuditEntry] = []

    def happen(
        self, line_id: str, kind: LineEventKind, at: datetime, cause: str | None = None
    ) -> LineEvent:
        """Notes an event, and does what the carrier's rules say to it."""
        made = LineEvent(
            id=new_id(),
            line_id=line_id,
            kind=kind,
            at=at,
            # So that those of one moment keep their order.
            recorded_at=self._now + timedelta(microseconds=len(self._events)),
            cause=cause,
            by=self._actor,
        )
        self._events.append(made)
        detail = {"at": at.isoformat()} | ({} if cause is None else {"cause": cause})
        self._entries.append(AuditEntry(self._actor, f"line.{kind}", line_id, detail))
        rule = self._rules.find(self._lines[line_id].carrier, kind)
        if kind in ENDING:
            self.restrict(line_id, LineStatus.CLOSED.value, at, kind.value)
        elif rule is not None and not self._is_closed(line_id):
            self._follow(line_id, rule, at)
        return made

    def ask(
        self,
        line_id: str,
        rule: str,
        steps: Sequence[Step],
        at: datetime,
        campaign_id: str | None = None,
    ) -> None:
        """Asks for a line's holder, where that rule does not wait for one already: what happens
        again gives nobody more time."""
        if rule in self._asked[line_id]:
            return
        asked = Reverification(
            id=new_id(),
            line_id=line_id,
            rule=rule,
            asked_at=at,
            next_step_at=at + timedelta(seconds=steps[0][0]),
            steps=tuple(steps),
            campaign_id=campaign_id,
        )
        self._asked[line_id][rule] = self._written[asked.id] = asked
        self.happen(line_id, LineEventKind.REVERIFY_ASKED, at, rule)

    def ask_by(self, line_id: str, campaign: Campaign, at: datetime) -> None:
        """Asks for a line's holder until a campaign's deadline, as one of its lines."""
        self._list_line(campaign.id, line_id, CampaignLineState.ASKED, self._now)
        until = ceil((campaign.deadline - at).total_seconds())
        # At the deadline it is overdue, whatever follows.
        first = campaign.steps[0][1] if campaign.steps else ""
        steps: list[Step] = [(until, first), *campaign.steps[1:]]
        self.ask(line_id, f"campaign:{campaign.id}", steps, at, campaign.id)

    def restrict(self, line_id: str, state: str, at: datetime, cause: str) -> None:
        """Puts a line into a stricter state; one that is as strict stays as it is."""
        if self._is_closed(line_id):
            return
        if state == LineStatus.CLOSED:
            self._closed[line_id] = None
            self._end(line_id, None)
            self.happen(line_id, LineEventKind.CLOSED, at, cause)
            return
        service = LineService(state)
        if _STRICTER.index(service) > _STRICTER.index(self._service(line_id)):
            self._services[line_id] = service
            self.happen(line_id, LineEventKind(state), at, cause)

    def step(self, asked: Reverification) -> None:
        """Does the step that is due."""
        if self._is_closed(asked.line_id):
            self._end(asked.line_id, None)
            return
        due, ((_, state), *rest) = asked.next_step_at, asked.steps
        assert due is not None, "it is due"
        # Whoever was cut off late has the time of the next step whole.
        since = due if self._now - due <= LATE else self._now
        after = replace(
            asked,
            steps=tuple(rest),
            next_step_at=since + timedelta(seconds=rest[0][0]) if rest else None,
            overdue_at=asked.overdue_at or due,
        )
        self._asked[asked.line_id][asked.rule] = self._written[asked.id] = after
        if asked.overdue_at is None:
            self._note_campaign(after, CampaignLineState.OVERDUE, due)
            self.happen(asked.line_id, LineEventKind.OVERDUE, due, asked.rule)
        if state:
            self.restrict(asked.line_id, state, due, asked.rule)

    def come(self, line_id: str) -> bool:
        """The holder has come: whatever waited for that ends, and any suspension. False where
        nothing did."""
        service = self._service(line_id)
        if self._is_closed(line_id) or not (self._asked[line_id] or service is not None):
            return False
        self._end(line_id, CampaignLineState.VERIFIED)
        if service is not None:
            self._services[line_id] = None
        self.happen(line_id, LineEventKind.REVERIFIED, self._now)
        if service is not None:
            self.happen(line_id, LineEventKind.UNSUSPENDED, self._now, LineEventKind.REVERIFIED)
        return True

    def writes(self) -> list[Write]:
        """All that, and an audit entry of each event."""
        return [
            *self._entries,
            *self._events,
            *(ServiceChange(*one) for one in self._services.items()),
            *map(EndedReverification, self._ended),
            *(one for key, one in self._written.items() if key not in self._ended),
            *self._campaign_lines.values(),
        ]

    def _follow(self, line_id: str, rule: Rule, at: datetime) -> None:
        if rule.unless_proof is not None and self._is_proven(line_id, rule.unless_proof):
            return
        if rule.at_once is not None:
            self.restrict(line_id, rule.at_once, at, rule.name)
        self.ask(line_id, rule.name, rule.steps, at)

    def _is_proven(self, line_id: str, least: ProofLevel) -> bool:
        """True where a proof of this level, or of a higher one, opened a line."""
        opened = self._lines[line_id].enrollment_id
        found = self._registry.enrollments([] if opened is None else [opened])
        proofs = [one.evidence.proof for one in found if one.evidence.proof is not None]
        return any(one.level is not None and ProofLevel(one.level).reaches(least) for one in proofs)

    def _end(self, line_id: str, told: CampaignLineState | None) -> None:
        """Ends what a line waits for; of one that has left its campaigns know by its closing."""
        for asked in self._asked[line_id].values():
            self._ended[asked.id] = None
            if told is not None:
                self._note_campaign(asked, told, self._now)
        self._asked[line_id] = {}

    def _note_campaign(self, asked: Reverification, state: CampaignLineState, at: datetime) -> None:
        if asked.campaign_id is not None:
            self._list_line(asked.campaign_id, asked.line_id, state, at)

    def _list_line(
        self, campaign_id: str, line_id: str, state: CampaignLineState, at: datetime
    ) -> None:
        self._campaign_lines[campaign_id, line_id] = ListedLine(campaign_id, line_id, state, at)

    def _service(self, line_id: str) -> LineService | None:
        return self._services.get(line_id, self._lines[line_id].service)

    def _is_closed(self, line_id: str) -> bool:
        return line_id in self._closed or self._lines[line_id].status is LineStatus.CLOSED


def find_sound(registry: Reader, line_ids: Sequence[str]) -> dict[str, LineRecord]:
    """The known ones of these lines, without those of which a row is damaged, or of what they wait
    for: nothing happens to these before that is mended."""
    lines = read_apart(line_ids, registry.lines_by_id)
    asked = read_apart(list(lines), registry.life.asked_of)
    return {key: lines[key] for key in asked}


@on_writer
def report_event(
    call: WriterCall,
    rules: LineRules,
    line_text: str,
    kind: LineEventKind,
    at: datetime,
    actor: str,
    carrier: str | None = None,
) -> LineEvent:
    """Notes what a carrier says has happened to a line in use, by number or id; reported again, it
    is the same event.

    `NotFound` for no such line, or another carrier's; `EventRefused` for a moment that is in the
    future, before the line was opened, or before what is known of this kind.
    """
    registry, target = call.registry, normalise_line(line_text)
    if str(kind) not in list(ReportedKind):
        raise EventRefused(f"{kind} is not reported: report {', '.join(ReportedKind)}")
    line = find_line(registry, target, carrier)
    if line is None:
        return _find_told(registry, target, kind, at, carrier)
    known = registry.find_line_event(line.id, kind, at)
    if known is not None:
        return known
    if at > call.now + AHEAD:
        raise EventRefused("it lies in the future: report what has happened, by the right clock")
    if at < line.opened_at:
        raise EventRefused("it lies before the line was opened: give its moment, not its day")
    newest = registry.newest_line_events([line.id], [kind]).get(line.id)
    if newest is not None and at < newest.at:
        raise EventRefused(
            f"a later {kind} of this line is known: report those of a kind in their order"
        )
    batch = LifeBatch(registry, rules, [line], call.now, actor)
    made = batch.happen(line.id, kind, at)
    call.commit(*batch.writes())
    return made


def _find_told(
    registry: Reader, target: str, kind: LineEventKind, at: datetime, carrier: str | None
) -> LineEvent:
    """The event where it was told of a line that has been closed since, as by it; `NotFound`."""
    if is_id(target):
        closed = list(registry.lines_by_id([target]).values())
    else:
        closed = registry.lines_closed_with(registry.vault.look_up("msisdn", target))
    for line in closed:
        known = registry.find_line_event(line.id, kind, at)
        if known is not None and carrier in (None, line.carrier):
            return known
    raise NotFound(LINE_UNKNOWN)


def carry_out(
    runner: ChangeRunner,
    registry: Reader,
    rules: LineRules,
    *,
    now: datetime | None = None,
    most: int = LINES_PER_BATCH,
) -> int:
    """Does steps that are due, each once; how many: `most` of rules and then `most` of the
    campaigns of each carrier, in a transaction each, so nobody waits behind another's million.

    A line has one step at a time: after a long silence nobody is suspended and closed at once.
    `now` instead of the runner's clock, where that was checked.
    """
    at = runner.run(lambda _, moment: moment) if now is None else now
    due = registry.life.due_campaigns(at)
    # One whose row is damaged is set aside by that.
    turns = [None, *(due[code] for code in registry.carrier_names() if code in due)]
    return sum(_take_turn(runner, registry, rules, at, most, one) for one in turns)


@on_writer
def _take_turn(
    call: WriterCall, rules: LineRules, at: datetime, most: int, campaign_id: str | None
) -> int:
    due = call.registry.life.due(at, most, campaign_id)
    lines = find_sound(call.registry, [one.line_id for one in due])
    due = [one for one in due if one.line_id in lines]
    if not due:
        return 0
    batch = LifeBatch(call.registry, rules, lines.values(), at, ACTOR)
    for one in due:
        batch.step(one)
    writes = batch.writes()
    if not choose(writes, AuditEntry):
        writes.append(AuditEntry(ACTOR, "lines.left", "lines", {"lines": len(due)}))
    call.commit(*writes)
    return len(due)


@on_writer
def exempt(call: WriterCall, document_id: str, cause: ExemptionCause, actor: str) -> ExemptDocument:
    """Exempts a document from the limits of carriers and persons; `NotFound` for none."""
    record = call.registry.document(document_id)
    if record.is_erased:
        raise NotFound(NOBODY)
    made = ExemptDocument(document_id=record.id, cause=cause, at=call.now, by=actor)
    call.commit(AuditEntry(actor, "document.exempted", record.id, {"cause": cause}), made)
    return made


@on_writer
def end_exemption(call: WriterCall, document_id: str, actor: str) -> None:
    """The limits hold for the document again; `NotFound` where they did."""
    if not (is_id(document_id) and call.registry.exemptions([document_id])):
        raise NotFound("this document is not exempt")
    entry = AuditEntry(actor, "document.exemption_ended", document_id)
    call.commit(entry, EndedExemption(document_id))


@frozen
class SimChangeTerms:
    """`since`: the carriers that report every change, by code, and from which day on; `kept`: how
    long events stay, None for good."""

    since: Mapping[str, date] = field(default_factory=dict)
    kept: timedelta | None = None

    def monitored(self, carrier: str, now: datetime) -> timedelta | None:
        """The time back to which all changes of a carrier's lines are known; None where they are
        not."""
        first = self.since.get(carrier)
        if first is None:
            return None
        known = max(now - datetime.combine(first, time(), UTC), timedelta())
        return known if self.kept is None else min(known, self.kept)

    def find(self, registry: Reader, number: str, carrier: str | None, now: datetime) -> SimChange:
        """The last change of SIM of the line in use with this number, of a carrier where it is
        given.

        `NotFound` for no such line, and for another carrier's; `NotReported` where its carrier does
        not report them: nothing known is not that nothing happened.
        """
        line = find_line(registry, number, carrier)
        if line is None:
            raise NotFound(LINE_UNKNOWN)
        monitored = self.monitored(line.carrier, now)
        if monitored is None:
            raise NotReported("the carrier of this number does not report changes of SIM here")
        changed = registry.newest_line_events([line.id], SIM_CHANGES).get(line.id)
        at = line.opened_at if changed is None else max(changed.at, line.opened_at)
        return SimChange(line.id, at if at >= now - monitored else None, monitored)


@frozen
class SimChange:
    """The last change of a line's SIM, its opening included; None: none within what is known."""

    line_id: str
    at: datetime | None
    monitored: timedelta
