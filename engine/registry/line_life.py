"""The life of lines in the registry: what happened, who is asked for, campaigns, exemptions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from engine.registry import tables
from engine.registry.database import KEYS, UNREADABLE, Moment, Source, chunks
from engine.registry.people import REPLACED
from engine.registry.records import (
    Campaign,
    Changes,
    Exemption,
    LifeChanges,
    LineEvent,
    LineRecord,
    Reverification,
    is_id,
    new_id,
)
from engine.registry.row_macs import open_each, open_some, require_authentic, with_macs
from engine.registry.rows import columns_of, line_of, read_as
from engine.registry.vault import Vault
from schema.cases import CaseState, Outcome
from schema.lines import CampaignLineState, CampaignState, LineEventKind, LineService, LineStatus

_lines, _events, _asked = tables.lines, tables.line_events, tables.reverifications
_campaigns, _chosen, _exempt = tables.campaigns, tables.campaign_lines, tables.limit_exemptions

_SET_SERVICE = (
    update(_lines).where(_lines.c.id == bindparam("key")).values(service=bindparam("new_service"))
)
_EVENTS_OF = select(_events).where(_events.c.line_id == bindparam("line"))
_IN_USE_UNDER = (
    select(_lines.c.id)
    .where(_lines.c.document_id == bindparam("key"), _lines.c.status != LineStatus.CLOSED.value)
    .order_by(_lines.c.id)
)
_IN_ORDER = (_events.c.at, _events.c.recorded_at, _events.c.id)
_NEWEST = (
    select(_events.c.line_id, func.max(_events.c.at).label("at"))
    .where(_events.c.line_id.in_(KEYS), _events.c.kind.in_(bindparam("kinds", expanding=True)))
    .group_by(_events.c.line_id)
)
_ASKED_OF = (
    select(_asked).where(_asked.c.line_id.in_(KEYS)).order_by(_asked.c.asked_at, _asked.c.id)
)
_IS_DUE = and_(
    _asked.c.next_step_at.is_not(None), _asked.c.next_step_at <= bindparam("now", type_=Moment)
)
_DUE = select(_asked).where(_IS_DUE).order_by(_asked.c.next_step_at, _asked.c.id)
_CLOSED_WITH = (
    select(_lines)
    .where(
        _lines.c.msisdn_lookup == bindparam("number"),
        _lines.c.msisdn_lookup.is_not(None),
        _lines.c.status == literal_column("'closed'"),
    )
    .order_by(_lines.c.closed_at.desc(), _lines.c.id)
    .limit(10)
)
_FIRST_DUE = select(func.min(_asked.c.next_step_at)).where(_asked.c.next_step_at.is_not(None))
_CAMPAIGNS = select(_campaigns).order_by(_campaigns.c.created_at.desc(), _campaigns.c.id.desc())
_CAMPAIGN = select(_campaigns).where(_campaigns.c.id == bindparam("id"))
_first_step = (
    select(func.min(_asked.c.next_step_at))
    .where(_asked.c.campaign_id == _campaigns.c.id, _IS_DUE)
    .scalar_subquery()
)
_DUE_CAMPAIGNS = (
    select(_campaigns.c.carrier, _campaigns.c.id, _first_step.label("first"))
    .where(_campaigns.c.deadline <= bindparam("now", type_=Moment))
    .order_by(_first_step, _campaigns.c.id)
)
_ALIVE = (
    select(func.count())
    .select_from(_campaigns)
    .where(
        _campaigns.c.carrier == bindparam("carrier"),
        _campaigns.c.deadline > bindparam("now", type_=Moment),
        or_(
            _campaigns.c.state != CampaignState.ENDED.value,
            # Its lines wait on, and each event of a line reads all that it waits in.
            exists().where(_chosen.c.campaign_id == _campaigns.c.id),
        ),
    )
)
_FILLING = _CAMPAIGNS.where(_campaigns.c.state == CampaignState.FILLING.value)
# A line that is closed before its holder has come has left, whatever closed it; the overdue that a
# rule has closed stay overdue.
_STATE = case(
    (
        and_(
            _chosen.c.state == CampaignLineState.ASKED.value,
            _lines.c.status == LineStatus.CLOSED.value,
        ),
        CampaignLineState.LEFT.value,
    ),
    else_=_chosen.c.state,
).label("state")
_NAMED_LINE = "named_"
_OF_CAMPAIGN = (
    select(
        _chosen.c.line_id,
        _STATE,
        _chosen.c.at,
        *(one.label(f"{_NAMED_LINE}{one.name}") for one in _chosen.columns),
    )
    .join(_lines, _lines.c.id == _chosen.c.line_id)
    .where(_chosen.c.campaign_id == bindparam("campaign"))
)
_NAMED = select(_chosen.c.line_id).where(
    _chosen.c.campaign_id == bindparam("campaign"), _chosen.c.line_id.in_(KEYS)
)
_cases, _documents = tables.cases, tables.case_documents
# Of a document that a case names and does not suspect, a victim's, only what the case is about.
_IS_FRAUD_IN_USE = and_(
    _cases.c.outcome == Outcome.FRAUD.value,
    _documents.c.case_id == _cases.c.id,
    _documents.c.document_id == _lines.c.document_id,
    _lines.c.status != LineStatus.CLOSED.value,
    or_(
        cast(_cases.c.suspect_ids, Text).contains(_lines.c.document_id),
        cast(_cases.c.line_ids, Text).contains(_lines.c.id),
    ),
)
# From each case of fraud, which are few, to its lines: a join would begin with all lines in use.
HAS_FRAUD_IN_USE = and_(
    _cases.c.state == CaseState.CLOSED.value,
    _cases.c.outcome == Outcome.FRAUD.value,
    exists().where(_IS_FRAUD_IN_USE).correlate(_cases),
)
"""Of a case: it was decided to be fraud, and lines of it are in use."""
_FRAUD_IN_USE = select(func.count()).select_from(_cases).where(HAS_FRAUD_IN_USE)
_FRAUD_OF_CASES = select(_documents.c.case_id, _lines.c.id.label("line_id")).where(
    _documents.c.case_id.in_(KEYS), _IS_FRAUD_IN_USE
)
_FRAUD_UNDER = select(_lines.c.document_id, _lines.c.id.label("line_id")).where(
    _lines.c.document_id.in_(KEYS), exists().where(_IS_FRAUD_IN_USE).correlate(_lines)
)
_pairs = tables.judged_pairs
_FRAUDS = tuple(
    select(_pairs).where(one.in_(KEYS), _pairs.c.outcome == Outcome.FRAUD.value)
    for one in (_pairs.c.left_document, _pairs.c.right_document)
)
_EXEMPT = select(_exempt).where(_exempt.c.document_id.in_(KEYS))
_TOTALS = (
    select(_lines.c.document_id, func.count().label("lines"))
    .where(_lines.c.document_id.in_(KEYS), _lines.c.status != LineStatus.CLOSED.value)
    .group_by(_lines.c.document_id)
)


def add_events_of_people(connection: Connection, changes: Changes, at: datetime) -> Changes:
    """The changes with an event of each line that people close, dispute or restore; those of rules
    and reports are in them already. To be called before anything is written."""
    life = changes.life or LifeChanges()
    told = {one.line_id for one in life.events if one.kind is LineEventKind.CLOSED}
    closed = [key for key in changes.closed_lines if key not in told]
    happened = [
        (LineEventKind.DISPUTED, changes.disputed_lines, changes.cause),
        (LineEventKind.RESTORED, changes.restored_lines, changes.cause),
        (LineEventKind.CLOSED, closed, changes.cause),
    ]
    for document_id in changes.erased_documents:
        under = connection.scalars(_IN_USE_UNDER, {"key": document_id}).all()
        happened.append((LineEventKind.CLOSED, under, "erasure"))
    events = [
        LineEvent(
            id=new_id(),
            line_id=key,
            kind=kind,
            at=at,
            recorded_at=at,
            cause=cause,
            by=changes.audit[0].actor,
        )
        for kind, keys, cause in happened
        for key in keys
    ]
    if not events:
        return changes
    return replace(changes, life=replace(life, events=(*life.events, *events)))


def set_services(connection: Connection, services: Mapping[str, LineService | None]) -> None:
    """Sets what of their service lines lack; their codes are the caller's to renew."""
    if services:
        rows = [{"key": key, "new_service": service} for key, service in services.items()]
        connection.execute(_SET_SERVICE, rows)


def end_waiting(connection: Connection, line_ids: Sequence[str]) -> None:
    """Nobody is asked for any more who had one of these lines: it has ended."""
    for part in chunks(list(line_ids)):
        connection.execute(delete(_asked).where(_asked.c.line_id.in_(part)))


def write_life(connection: Connection, vault: Vault, life: LifeChanges) -> None:
    """Writes all but what stands in the lines' own rows."""
    for row in with_macs(vault, _campaigns, [_campaign_row(one) for one in life.campaigns]):
        # In its place, for its lines refer to it.
        changed = update(_campaigns).where(_campaigns.c.id == row["id"]).values(**row)
        if not connection.execute(changed).rowcount:
            connection.execute(insert(_campaigns), row)
    if life.campaign_lines:
        rows = [columns_of(one, state=one.state.value) for one in life.campaign_lines]
        for campaign_id in {one.campaign_id for one in life.campaign_lines}:
            ids = [one.line_id for one in life.campaign_lines if one.campaign_id == campaign_id]
            for part in chunks(ids):
                is_there = _chosen.c.campaign_id == campaign_id
                connection.execute(delete(_chosen).where(is_there, _chosen.c.line_id.in_(part)))
        connection.execute(insert(_chosen), with_macs(vault, _chosen, rows))
    for part in chunks(list(life.ended)):
        connection.execute(delete(_asked).where(_asked.c.id.in_(part)))
    asked = [
        columns_of(one, steps=[list(step) for step in one.steps]) for one in life.reverifications
    ]
    for part in chunks([row["id"] for row in asked]):
        connection.execute(delete(_asked).where(_asked.c.id.in_(part)))
    if asked:
        connection.execute(insert(_asked), with_macs(vault, _asked, asked))
    if life.events:
        events = [columns_of(one, kind=one.kind.value) for one in life.events]
        connection.execute(insert(_events), with_macs(vault, _events, events))
    for part in chunks([*life.unexempted, *(one.document_id for one in life.exempted)]):
        connection.execute(delete(_exempt).where(_exempt.c.document_id.in_(part)))
    if life.exempted:
        exempted = [columns_of(one) for one in life.exempted]
        connection.execute(insert(_exempt), with_macs(vault, _exempt, exempted))


def _campaign_row(campaign: Campaign) -> Mapping[str, Any]:
    return columns_of(
        campaign,
        state=campaign.state.value,
        steps=[list(step) for step in campaign.steps],
        chosen=dict(campaign.chosen),
    )


class LifeReader(Source):
    """Reader of what `write_life` has written."""

    def events_of(self, line_id: str, most: int = 500) -> list[LineEvent]:
        """The newest `most` events of a line, in the order in which they happened."""
        query = _EVENTS_OF.order_by(*(one.desc() for one in _IN_ORDER)).limit(most)
        return [self._event(row) for row in reversed(self.rows(query, line=line_id))]

    def find_event(self, line_id: str, kind: LineEventKind, at: datetime) -> LineEvent | None:
        """The event of this kind that happened to a line at this moment, where there is one."""
        query = _EVENTS_OF.where(_events.c.kind == kind.value, _events.c.at == at)
        row = self._first(query, line=line_id)
        return None if row is None else self._event(row)

    def closed_with(self, number: bytes) -> list[LineRecord]:
        """The lines that a number was on last, newest first, where it has not left since."""
        return [line_of(self.vault, row) for row in self.rows(_CLOSED_WITH, number=number)]

    def newest_of(
        self, line_ids: Sequence[str], kinds: Sequence[LineEventKind]
    ) -> dict[str, datetime]:
        """When the newest event of these kinds happened to each line; none of one without any."""
        given = [one.value for one in kinds]
        return {row.line_id: row.at for row in self._rows_of(_NEWEST, line_ids, kinds=given)}

    def asked_of(self, line_ids: Sequence[str]) -> dict[str, list[Reverification]]:
        """The re-verifications that each line waits for, oldest first; no line is left out."""
        found: dict[str, list[Reverification]] = {key: [] for key in line_ids}
        for row in self._rows_of(_ASKED_OF, line_ids):
            found[row.line_id].append(self._asked(row))
        return found

    def due(self, now: datetime, most: int, campaign_id: str | None) -> list[Reverification]:
        """Those of a campaign, or with None those of rules, whose next step is due, the longest due
        first."""
        query = _DUE.where(_asked.c.campaign_id == campaign_id)
        return open_some(self, query, most, self._asked, now=now)

    def due_campaigns(self, now: datetime) -> list[str]:
        """For each carrier one campaign with steps that are due: whose are due longest."""
        found: dict[str, str] = {}
        for row in self.rows(_DUE_CAMPAIGNS, now=now):
            if row.first is not None:
                found.setdefault(row.carrier, row.id)
        return list(found.values())

    def next_step_at(self) -> datetime | None:
        """When the next step of any line is due."""
        found = self.rows(_FIRST_DUE)[0][0]
        # Of a damaged row the others are looked at: they may be due.
        return datetime.fromtimestamp(0, UTC) if found is UNREADABLE else found

    def campaign(self, campaign_id: str) -> Campaign | None:
        row = self._first(_CAMPAIGN, id=campaign_id) if is_id(campaign_id) else None
        return None if row is None else self._campaign(row)

    def campaigns(self, carrier: str | None, most: int = 100) -> list[Campaign]:
        """The newest campaigns, of one carrier where it is given."""
        query = _CAMPAIGNS
        if carrier is not None:
            query = query.where(_campaigns.c.carrier == carrier)
        return open_some(self, query, most, self._campaign)

    def count_alive(self, carrier: str, now: datetime) -> int:
        """A carrier's campaigns before their deadlines that ask, or whose lines wait for them."""
        return int(self.rows(_ALIVE, carrier=carrier, now=now)[0][0])

    def filling(self) -> list[Campaign]:
        """Campaigns whose lines are still being added, newest first."""
        return list(open_each(self.rows(_FILLING), self._campaign))

    def count_lines(self, campaign_id: str) -> dict[CampaignLineState, int]:
        """How many lines of a campaign are how far."""
        found = _OF_CAMPAIGN.subquery()
        query = select(found.c.state, func.count().label("lines")).group_by(found.c.state)
        counted = {row.state: row.lines for row in self.rows(query, campaign=campaign_id)}
        return {state: counted.get(state.value, 0) for state in CampaignLineState}

    def list_lines(
        self, campaign_id: str, state: CampaignLineState, after: str, most: int
    ) -> list[Row[Any]]:
        """Lines of a campaign in one state, by id, beyond the id `after`: `line_id` and `at`."""
        query = _OF_CAMPAIGN.where(_chosen.c.line_id > after, _STATE.in_([state.value]))
        query = query.order_by(_chosen.c.line_id)
        return open_some(self, query, most, self._named_line, campaign=campaign_id)

    def _named_line(self, row: Row[Any]) -> Row[Any]:
        return require_authentic(self.vault, _chosen, row, _NAMED_LINE)

    def named_in(self, campaign_id: str, line_ids: Sequence[str]) -> set[str]:
        """Those of these lines that a campaign has already."""
        return {row.line_id for row in self._rows_of(_NAMED, line_ids, campaign=campaign_id)}

    def choose_lines(
        self, carrier: str, chosen: Mapping[str, Any], after: str, window: int
    ) -> tuple[list[str], str | None]:
        """Of the next `window` lines beyond the id `after`, by id: those in use of a carrier that
        the terms of a campaign choose, and the last id that was looked at; None at the end."""
        some = select(_lines).where(_lines.c.id > after).order_by(_lines.c.id).limit(window)
        seen = some.subquery()
        last = self.rows(select(func.max(seen.c.id)))[0][0]
        if last is UNREADABLE:
            known = [row.id for row in self.rows(some) if row.id is not UNREADABLE]
            last = known[-1] if known else None
        query = select(seen.c.id).where(
            seen.c.carrier == carrier, seen.c.status != LineStatus.CLOSED.value
        )
        if "outlet" in chosen:
            query = query.where(seen.c.outlet == chosen["outlet"])
        if "opened_before" in chosen:
            moment = datetime.fromisoformat(chosen["opened_before"])
            query = query.where(seen.c.opened_at < moment)
        if "opened_after" in chosen:
            moment = datetime.fromisoformat(chosen["opened_after"])
            query = query.where(seen.c.opened_at >= moment)
        ids = [row.id for row in self.rows(query.order_by(seen.c.id))]
        return [one for one in ids if one is not UNREADABLE], last

    def exemptions(self, document_ids: Sequence[str]) -> dict[str, Exemption]:
        """Those of these documents that no limit holds for."""
        return {
            row.document_id: read_as(Exemption, require_authentic(self.vault, _exempt, row))
            for row in self._rows_of(_EXEMPT, document_ids)
        }

    def same_person(self, document_ids: Sequence[str]) -> dict[str, frozenset[str]]:
        """Each document with all that people have decided to be the same person's, and those that
        it replaced or that replaced it, over any number of steps."""
        near: defaultdict[str, set[str]] = defaultdict(set)
        seen: set[str] = set()
        fresh = set(document_ids)
        while fresh:
            seen |= fresh
            for query in _FRAUDS:
                for found in self._rows_of(query, sorted(fresh)):
                    row = require_authentic(self.vault, tables.judged_pairs, found)
                    near[row.left_document].add(row.right_document)
                    near[row.right_document].add(row.left_document)
            for found in self._rows_of(REPLACED, sorted(fresh)):
                row = require_authentic(self.vault, tables.replacements, found)
                near[row.document_id].add(row.successor_id)
                near[row.successor_id].add(row.document_id)
            fresh = near.keys() - seen
        return {key: frozenset(_reach(near, key)) for key in document_ids}

    def count_in_use(self, document_ids: Sequence[str]) -> dict[str, int]:
        """How many lines in use each document has over all carriers; none is left out."""
        found = dict.fromkeys(document_ids, 0)
        for row in self._rows_of(_TOTALS, document_ids):
            found[row.document_id] = row.lines
        return found

    def count_fraud(self) -> int:
        """How many cases were decided to be fraud and have lines in use."""
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

    def _event(self, row: Row[Any]) -> LineEvent:
        require_authentic(self.vault, _events, row)
        return read_as(LineEvent, row, kind=LineEventKind(row.kind))

    def _asked(self, row: Row[Any]) -> Reverification:
        require_authentic(self.vault, _asked, row)
        steps = tuple((int(seconds), str(state)) for seconds, state in row.steps)
        return read_as(Reverification, row, steps=steps)

    def _campaign(self, row: Row[Any]) -> Campaign:
        require_authentic(self.vault, _campaigns, row)
        steps = tuple((int(seconds), str(state)) for seconds, state in row.steps)
        return read_as(Campaign, row, steps=steps, state=CampaignState(row.state))


def _reach(near: Mapping[str, set[str]], start: str) -> set[str]:
    found, left = {start}, [start]
    while left:
        for other in near.get(left.pop(), set()) - found:
            found.add(other)
            left.append(other)
    return found
