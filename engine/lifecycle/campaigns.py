"""Campaigns: many lines whose holders are asked for by one deadline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from engine.errors import EventRefused, NotFound, RequestError
from engine.formatting import require_visible
from engine.lifecycle.reverification import ACTOR, LINES_PER_BATCH, LifeBatch, find_sound
from engine.lifecycle.rules import LineRules
from engine.matching.lines import normalise_line
from engine.registry.audit import AuditEntry
from engine.registry.campaigns import Campaign
from engine.registry.database import is_id, new_id
from engine.registry.lines import LineRecord, Step
from engine.registry.rows import read_apart
from engine.registry.store import Reader, WriterCall, on_writer
from engine.registry.writer import ChangeRunner
from schema import frozen
from schema.lines import CampaignState, LineStatus

LEAST = timedelta(hours=1)
"""So far away a deadline is at least."""
MOST_ALIVE = 20
"""Campaigns of one carrier before their deadlines: each looks through its lines."""
MOST_NAMED = 1_000
"""Lines that one call adds."""
WINDOW, MOST_WINDOWS = 2_000, 25
"""Lines that one read looks through, and reads of one turn."""
TERMS = frozenset({"outlet", "opened_before", "opened_after"})
UNKNOWN = "there is no such campaign: check its id"


@frozen(kw_only=True)
class CampaignTerms:
    """Whom a campaign asks for, until when, and what follows: see `start_campaign`."""

    carrier: str
    name: str
    deadline: datetime
    steps: Sequence[Step] = ()
    chosen: Mapping[str, Any] | None = None


@on_writer
def start_campaign(call: WriterCall, terms: CampaignTerms, actor: str) -> Campaign:
    """Starts a campaign of a carrier: the lines that `chosen` names are added beside all else, all
    of the carrier's where it is empty, none where it is None.

    The holder of a line is asked for until the deadline; then it is overdue, and `steps` follow, as
    `read_steps` has them: the first at the deadline, each other counted from the one before.
    """
    carrier, deadline, chosen = terms.carrier, terms.deadline, terms.chosen
    require_visible("campaign's name", terms.name)
    if unknown := set(chosen or {}) - TERMS:
        known = ", ".join(sorted(TERMS))
        raise RequestError(f"lines are not chosen by {min(unknown)}: take {known}")
    if deadline < call.now + LEAST:
        raise EventRefused("the deadline is less than an hour away: give one that can be met")
    if carrier not in call.registry.carrier_names():
        raise NotFound("there is no such carrier: check its code")
    if call.registry.life.count_alive(carrier, call.now) >= MOST_ALIVE:
        raise EventRefused(
            f"{MOST_ALIVE} campaigns of the carrier are before their deadlines: end one that "
            "has asked for nobody, or wait for a deadline"
        )
    made = Campaign(
        id=new_id(),
        carrier=carrier,
        name=terms.name,
        state=CampaignState.RUNNING if chosen is None else CampaignState.FILLING,
        deadline=deadline,
        steps=tuple(terms.steps),
        chosen=dict(chosen or {}),
        filled_to=None,
        created_at=call.now,
        created_by=actor,
    )
    detail = {"carrier": carrier, "deadline": deadline.isoformat()}
    call.commit(AuditEntry(actor, "campaign.started", made.id, detail), made)
    return made


def find_campaign(registry: Reader, campaign_id: str, carrier: str | None) -> Campaign:
    """A campaign, of a carrier where it is given; `NotFound`."""
    found = registry.life.campaign(campaign_id)
    if found is None or carrier not in (None, found.carrier):
        raise NotFound(UNKNOWN)
    return found


@on_writer
def end_campaign(
    call: WriterCall, campaign_id: str, actor: str, carrier: str | None = None
) -> Campaign:
    """Ends a campaign before its deadline: nobody else is asked for, and who was asked for stays
    so, with all that follows. Ended again, it is the same.

    `NotFound` as `find_campaign`; `EventRefused` after the deadline.
    """
    campaign = find_campaign(call.registry, campaign_id, carrier)
    if campaign.state is CampaignState.ENDED:
        return campaign
    if campaign.deadline <= call.now:
        raise EventRefused("its deadline has passed: nobody else is asked for")
    ended = replace(campaign, state=CampaignState.ENDED)
    call.commit(AuditEntry(actor, "campaign.ended", ended.id, {"carrier": ended.carrier}), ended)
    return ended


def add_lines(
    runner: ChangeRunner,
    registry: Reader,
    rules: LineRules,
    campaign_id: str,
    texts: Sequence[str],
    actor: str,
    carrier: str | None = None,
) -> tuple[int, list[int]]:
    """Adds lines by number or id; how many are new to the campaign, and the places of those that
    are no line in use of its carrier.

    Lines that it has already stay as they are, so it may be asked for again.
    """
    if len(texts) > MOST_NAMED:
        raise RequestError(f"give {MOST_NAMED} lines at most, and the rest in further calls")
    # Here, for no decision is to wait until a thousand numbers are read.
    targets = [_read_line(text) for text in texts]
    return _add_named(runner, registry, rules, campaign_id, targets, actor, carrier)


@on_writer
def _add_named(
    call: WriterCall,
    rules: LineRules,
    campaign_id: str,
    targets: Sequence[str],
    actor: str,
    carrier: str | None,
) -> tuple[int, list[int]]:
    campaign = find_campaign(call.registry, campaign_id, carrier)
    if campaign.deadline <= call.now:
        raise EventRefused("its deadline has passed: start another campaign")
    if campaign.state is CampaignState.ENDED:
        raise EventRefused("it was ended: start another campaign")
    found = _find_lines(call.registry, targets)
    lines = [one if one is not None and one.carrier == campaign.carrier else None for one in found]
    added = _add(call, rules, campaign, [one for one in lines if one], actor)
    return added, [place for place, one in enumerate(lines) if one is None]


def _read_line(text: str) -> str:
    try:
        return normalise_line(text)
    except RequestError:
        # One bad line of a file does not refuse the others.
        return ""


def _find_lines(registry: Reader, targets: Sequence[str]) -> list[LineRecord | None]:
    numbers = [one for one in targets if one and not is_id(one)]
    lookups = {one: registry.vault.look_up("msisdn", one) for one in numbers}
    in_use = read_apart(list(lookups.values()), registry.lines_in_use)
    named = {one: in_use[key].id for one, key in lookups.items() if key in in_use}
    ids = [named.get(one, one) for one in targets]
    found = _find_open(registry, list(filter(is_id, ids)))
    return [found.get(one) for one in ids]


def _find_open(registry: Reader, line_ids: Sequence[str]) -> dict[str, LineRecord]:
    known = find_sound(registry, line_ids)
    return {key: one for key, one in known.items() if one.status is not LineStatus.CLOSED}


def _add(
    call: WriterCall,
    rules: LineRules,
    campaign: Campaign,
    lines: Sequence[LineRecord],
    actor: str,
    *change: Campaign,
) -> int:
    named = call.registry.life.named_in(campaign.id, [one.id for one in lines])
    fresh = {one.id: one for one in lines if one.id not in named}
    batch = LifeBatch(call.registry, rules, fresh.values(), call.now, actor)
    for key in fresh:
        batch.ask_by(key, campaign, call.now)
    writes = batch.writes()
    if writes or change:
        detail = {"lines": len(fresh)}
        entry = AuditEntry(actor, "campaign.filled", campaign.id, detail)
        call.commit(*writes, entry, *change)
    return len(fresh)


def fill_campaigns(runner: ChangeRunner, registry: Reader, rules: LineRules) -> bool:
    """Gives each carrier a turn: a batch of lines is added to its oldest campaign that still waits
    for some. False where none does.

    Lines are looked through beside all else. How far that has come stands in the registry, so it
    may be cut off anywhere.
    """
    known = registry.carrier_names()
    oldest = {one.carrier: one for one in registry.life.filling() if one.carrier in known}
    for campaign in oldest.values():
        found: list[str] = []
        last, is_whole = campaign.filled_to or "", False
        for _ in range(MOST_WINDOWS):
            found, seen = registry.life.choose_lines(
                campaign.carrier, campaign.chosen, last, WINDOW
            )
            is_whole = seen is None
            last = seen or last
            if found or is_whole:
                break
        if len(found) > LINES_PER_BATCH:
            found = found[:LINES_PER_BATCH]
            last = found[-1]
        _keep_filled(runner, registry, rules, campaign.id, found, last, is_whole)
    return bool(oldest)


@on_writer
def _keep_filled(
    call: WriterCall,
    rules: LineRules,
    campaign_id: str,
    found: Sequence[str],
    last: str,
    is_whole: bool,
) -> None:
    current = call.registry.life.campaign(campaign_id)
    if current is None or current.state is not CampaignState.FILLING:
        # Ended meanwhile.
        return
    if is_whole or current.deadline <= call.now:
        change, lines = replace(current, state=CampaignState.RUNNING), []
    else:
        # What has been closed meanwhile is not asked for.
        lines = list(_find_open(call.registry, found).values())
        change = replace(current, filled_to=last)
    _add(call, rules, current, lines, ACTOR, change)
