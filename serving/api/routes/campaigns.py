"""`/v1/campaigns`: holders of many lines asked for by a deadline."""

from __future__ import annotations

import asyncio

from engine.lifecycle.campaigns import find_campaign
from engine.lifecycle.rules import read_steps
from engine.registry.reader import Reader
from engine.registry.records import Campaign
from schema.lines import CampaignLineState
from serving.access.authorization import scope_of
from serving.api.request import Request, next_page
from serving.errors import Malformed
from serving.ingress.parts import Parts
from serving.registrar.protocol import CampaignTerms
from serving.wire import lines as wire
from serving.wire.fields import Moment, of_record

MOST_LISTED = 20
"""Of each the lines are counted."""


async def start_campaign(
    parts: Parts, request: Request, body: wire.CampaignRequest
) -> wire.Campaign:
    """Asks for the holders of many lines of a carrier by a deadline. Whoever is verified against a
    line has come; what follows for the others is the campaign's own. Lines that `chosen` names are
    added beside all else, those that come to match later are not."""
    own = scope_of(request.caller)
    if own is None and body.carrier is None:
        raise Malformed("carrier: missing: say whose lines the campaign is about")
    if own is not None and body.carrier not in (None, own):
        raise Malformed("carrier: a carrier's key asks for its own lines: leave it out")
    if body.then is None and (body.after, body.then2, body.after2, body.last) != (None,) * 4:
        raise Malformed("then: missing: nothing comes after a deadline that nothing follows")
    steps = () if body.then is None else read_steps((0, body.then), body, "the campaign")
    chosen = None
    if body.chosen is not None:
        given = {name: getattr(body.chosen, name) for name in body.chosen.__struct_fields__}
        chosen = {
            name: value.isoformat() if isinstance(value, Moment) else value
            for name, value in given.items()
            if value is not None
        }
    terms = CampaignTerms(
        carrier=own or body.carrier or "",
        name=body.name,
        deadline=body.deadline,
        steps=steps,
        chosen=chosen,
    )
    made = await parts.registrar.start_campaign(terms, request.context())
    return await asyncio.to_thread(_show, parts.store, made)


async def add_to_campaign(
    parts: Parts, request: Request, body: wire.CampaignLinesRequest, campaign_id: str
) -> wire.AddedLines:
    """Adds lines to a campaign, by number or id; sent again it changes nothing. One that is no line
    in use of the campaign's carrier is told by its place, and the others are added."""
    given = (campaign_id, list(body.lines), request.context())
    added, unknown = await parts.registrar.add_to_campaign(*given)
    return wire.AddedLines(added, tuple(unknown))


async def end_campaign(parts: Parts, request: Request, campaign_id: str) -> wire.Campaign:
    """Ends a campaign before its deadline: no other line is asked for. Those that were stay asked
    for, with all that follows at the deadline. Sent again it changes nothing."""
    ended = await parts.registrar.end_campaign(campaign_id, request.context())
    return await asyncio.to_thread(_show, parts.store, ended)


async def list_campaigns(parts: Parts, request: Request) -> wire.Campaigns:
    """The newest campaigns, to a carrier its own."""
    carrier = scope_of(request.caller)

    def find() -> tuple[wire.Campaign, ...]:
        found = parts.store.life.campaigns(carrier, MOST_LISTED)
        return tuple(_show(parts.store, one) for one in found)

    return wire.Campaigns(await asyncio.to_thread(find))


async def read_campaign(parts: Parts, request: Request, campaign_id: str) -> wire.Campaign:
    """A campaign, and how far it is."""
    carrier = scope_of(request.caller)

    def find() -> wire.Campaign:
        return _show(parts.store, find_campaign(parts.store, campaign_id, carrier))

    return await asyncio.to_thread(find)


async def list_campaign_lines(
    parts: Parts, request: Request, query: wire.CampaignLinesQuery, campaign_id: str
) -> wire.CampaignLines:
    """Lines of a campaign in one state, as the overdue, a page at a time; ids alone."""
    carrier = scope_of(request.caller)

    def find() -> wire.CampaignLines:
        campaign = find_campaign(parts.store, campaign_id, carrier)
        state, after = CampaignLineState(query.state), query.after or ""
        rows = parts.store.life.list_lines(campaign.id, state, after, query.limit)
        found = [wire.CampaignLine(row.line_id, Moment.of(row.at)) for row in rows]
        return wire.CampaignLines(
            tuple(found), next_page(found, query.limit, lambda one: one.line_id)
        )

    return await asyncio.to_thread(find)


def _show(store: Reader, campaign: Campaign) -> wire.Campaign:
    counts = store.life.count_lines(campaign.id)
    progress = wire.CampaignProgress(**{state.value: lines for state, lines in counts.items()})
    return of_record(wire.Campaign, campaign, campaign_id=campaign.id, progress=progress)
