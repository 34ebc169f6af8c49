"""Lines whose holders are asked for: re-verifications and campaigns."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from sqlalchemy import String, and_, bindparam, case, exists, func, or_, select

from engine.registry.accounts import CARRIERS
from engine.registry.columns import KEY, ActorName, CarrierCode, Id, LineId, Of, table_of
from engine.registry.database import KEYS, UNREADABLE, AnyRow, Json, Moment, is_id
from engine.registry.lines import LINES, REVERIFICATIONS, Reverification, Step
from engine.registry.rows import (
    NewEvent,
    Put,
    RecordSource,
    Single,
    Transaction,
    open_some,
    require_authentic,
)
from schema import frozen
from schema.events import EventType
from schema.lines import CampaignLineState, CampaignState, LineStatus


@frozen(kw_only=True)
class Campaign(Single):
    """Lines of a carrier whose holders are asked for by a deadline, and what follows it.

    `chosen` are the terms by which lines are chosen, up to the line `filled_to` so far; empty where
    they are given one by one.
    """

    id: Annotated[Id, KEY]
    carrier: CarrierCode
    name: Annotated[str, String(200)]
    state: Annotated[CampaignState, String(16)]
    deadline: datetime
    steps: tuple[Step, ...]
    chosen: Json
    filled_to: Id | None
    created_at: datetime
    created_by: ActorName

    def follow(self, to: Transaction) -> None:
        # In its place, for its lines refer to it.
        to.put(CAMPAIGNS, self.row(to))
        # Written as ended once.
        if self.state is CampaignState.ENDED:
            to.events.append(NewEvent(EventType.CAMPAIGN_ENDED, self.id, self.carrier, {}))


CAMPAIGNS = table_of("campaigns", Campaign)


@frozen
class ListedLine(Put):
    """The progress of a line of a campaign, from now on."""

    campaign_id: Annotated[Id, Of("campaigns.id"), KEY]
    line_id: Annotated[LineId, KEY]
    state: Annotated[CampaignLineState, String(16)]
    at: datetime


CAMPAIGN_LINES = table_of("campaign_lines", ListedLine)
_ASKED_OF = (
    select(REVERIFICATIONS)
    .where(REVERIFICATIONS.c.line_id.in_(KEYS))
    .order_by(REVERIFICATIONS.c.asked_at, REVERIFICATIONS.c.id)
)
_IS_DUE = and_(
    REVERIFICATIONS.c.next_step_at.is_not(None),
    REVERIFICATIONS.c.next_step_at <= bindparam("now", type_=Moment),
)
_DUE = (
    select(REVERIFICATIONS)
    .where(_IS_DUE)
    # A carrier whose row has lost its code can be told nothing.
    .where(
        ~exists().where(
            LINES.c.id == REVERIFICATIONS.c.line_id, LINES.c.carrier.not_in(select(CARRIERS.c.code))
        )
    )
    .order_by(REVERIFICATIONS.c.next_step_at, REVERIFICATIONS.c.id)
)
_FIRST_DUE = select(func.min(REVERIFICATIONS.c.next_step_at)).where(
    REVERIFICATIONS.c.next_step_at.is_not(None)
)
_first_step = (
    select(func.min(REVERIFICATIONS.c.next_step_at))
    .where(REVERIFICATIONS.c.campaign_id == CAMPAIGNS.c.id, _IS_DUE)
    .scalar_subquery()
)
_DUE_CAMPAIGNS = (
    select(CAMPAIGNS.c.carrier, CAMPAIGNS.c.id, _first_step.label("first"))
    .where(CAMPAIGNS.c.deadline <= bindparam("now", type_=Moment))
    .order_by(_first_step, CAMPAIGNS.c.id)
)
_ALIVE = (
    select(func.count())
    .select_from(CAMPAIGNS)
    .where(
        CAMPAIGNS.c.carrier == bindparam("carrier"),
        CAMPAIGNS.c.deadline > bindparam("now", type_=Moment),
        or_(
            CAMPAIGNS.c.state != CampaignState.ENDED.value,
            # Its lines wait on, and each event of a line reads all that it waits in.
            exists().where(CAMPAIGN_LINES.c.campaign_id == CAMPAIGNS.c.id),
        ),
    )
)
_CAMPAIGNS = select(CAMPAIGNS).order_by(CAMPAIGNS.c.created_at.desc(), CAMPAIGNS.c.id.desc())
_FILLING = _CAMPAIGNS.where(CAMPAIGNS.c.state == CampaignState.FILLING.value)
# A line that is closed before its holder has come has left, whatever closed it; the overdue that a
# rule has closed stay overdue.
_STATE = case(
    (
        and_(
            CAMPAIGN_LINES.c.state == CampaignLineState.ASKED.value,
            LINES.c.status == LineStatus.CLOSED.value,
        ),
        CampaignLineState.LEFT.value,
    ),
    else_=CAMPAIGN_LINES.c.state,
).label("state")
_NAMED_LINE = "named_"
_OF_CAMPAIGN = (
    select(
        CAMPAIGN_LINES.c.line_id,
        _STATE,
        CAMPAIGN_LINES.c.at,
        *(one.label(f"{_NAMED_LINE}{one.name}") for one in CAMPAIGN_LINES.columns),
    )
    .join(LINES, LINES.c.id == CAMPAIGN_LINES.c.line_id)
    .where(CAMPAIGN_LINES.c.campaign_id == bindparam("campaign"))
)
_NAMED = select(CAMPAIGN_LINES.c.line_id).where(
    CAMPAIGN_LINES.c.campaign_id == bindparam("campaign"), CAMPAIGN_LINES.c.line_id.in_(KEYS)
)


class LifeReader(RecordSource):
    """Reader of re-verifications and campaigns."""

    def asked_of(self, line_ids: Sequence[str]) -> dict[str, list[Reverification]]:
        """The re-verifications that each line waits for, oldest first; no line is left out."""
        found: dict[str, list[Reverification]] = {key: [] for key in line_ids}
        for row in self._rows_of(_ASKED_OF, line_ids):
            found[row.line_id].append(self._read(Reverification, row))
        return found

    def due(self, now: datetime, most: int, campaign_id: str | None) -> list[Reverification]:
        """The lines of a campaign, or with None those of rules, whose next step is due, the longest
        due first."""
        query = _DUE.where(REVERIFICATIONS.c.campaign_id == campaign_id)
        return open_some(self, query, most, partial(self._read, Reverification), now=now)

    def due_campaigns(self, now: datetime) -> dict[str, str]:
        """By carrier one campaign with steps that are due: whose are due longest."""
        found: dict[str, str] = {}
        for row in self.rows(_DUE_CAMPAIGNS, now=now):
            if row.first is not None:
                found.setdefault(row.carrier, row.id)
        return found

    def next_step_at(self) -> datetime | None:
        """When the next step of any line is due."""
        found = self.rows(_FIRST_DUE)[0][0]
        # Of a damaged row the others are looked at: they may be due.
        return datetime.fromtimestamp(0, UTC) if found is UNREADABLE else found

    def campaign(self, campaign_id: str) -> Campaign | None:
        return self._one(CAMPAIGNS.c.id, Campaign, campaign_id) if is_id(campaign_id) else None

    def campaigns(self, carrier: str | None, most: int = 100) -> list[Campaign]:
        """The newest campaigns, of one carrier where it is given."""
        query = _CAMPAIGNS
        if carrier is not None:
            query = query.where(CAMPAIGNS.c.carrier == carrier)
        return open_some(self, query, most, partial(self._read, Campaign))

    def count_alive(self, carrier: str, now: datetime) -> int:
        """A carrier's campaigns before their deadlines that ask, or whose lines wait for them."""
        return int(self.rows(_ALIVE, carrier=carrier, now=now)[0][0])

    def filling(self) -> list[Campaign]:
        """Campaigns whose lines are still being added, newest first."""
        return self._sound(Campaign, _FILLING)

    def count_lines(self, campaign_id: str) -> dict[CampaignLineState, int]:
        """Counts the lines of a campaign by their progress."""
        found = _OF_CAMPAIGN.subquery()
        query = select(found.c.state, func.count().label("lines")).group_by(found.c.state)
        counted = {row.state: row.lines for row in self.rows(query, campaign=campaign_id)}
        return {state: counted.get(state.value, 0) for state in CampaignLineState}

    def list_lines(
        self, campaign_id: str, state: CampaignLineState, after: str, most: int
    ) -> list[AnyRow]:
        """Lines of a campaign in one state, by id, beyond the id `after`: `line_id` and `at`."""
        query = _OF_CAMPAIGN.where(CAMPAIGN_LINES.c.line_id > after, _STATE.in_([state.value]))
        query = query.order_by(CAMPAIGN_LINES.c.line_id)
        open_line = partial(require_authentic, self.vault, CAMPAIGN_LINES, prefix=_NAMED_LINE)
        return open_some(self, query, most, open_line, campaign=campaign_id)

    def named_in(self, campaign_id: str, line_ids: Sequence[str]) -> set[str]:
        """The lines among these that a campaign has already."""
        return {row.line_id for row in self._rows_of(_NAMED, line_ids, campaign=campaign_id)}

    def choose_lines(
        self, carrier: str, chosen: Mapping[str, Any], after: str, window: int
    ) -> tuple[list[str], str | None]:
        """Chooses of the next `window` lines beyond the id `after`, by id: those in use of a
        carrier that the terms of a campaign choose, and the last id that was looked at; None at the
        end."""
        some = select(LINES).where(LINES.c.id > after).order_by(LINES.c.id).limit(window)
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
