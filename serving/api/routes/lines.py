"""`/v1/lines`: the lines of a holder, disputes of them, their closing, and what happens to them;
`/v1/campaigns`: holders of many lines asked for by a deadline; `/camara/sim-swap/v2`: when a number
got the SIM that it has."""

import asyncio
from datetime import datetime, timedelta

from engine.errors import NotFound, RequestError
from engine.lifecycle.campaigns import CampaignTerms, find_campaign
from engine.lifecycle.reverification import SimChange
from engine.lifecycle.rules import check_steps, read_duration
from engine.matching.lines import LINE_UNKNOWN, read_line
from engine.matching.requests import name_document, normalise_msisdn
from engine.registry.database import is_id, utc_now
from engine.registry.lines import Step
from engine.registry.store import Reader
from schema.lines import CampaignLineState, LineEventKind
from serving.access.authorization import scope_of
from serving.api import people
from serving.api.request import (
    Request,
    counting_liveness,
    known_document,
    next_page,
    note,
    take_holder_face,
)
from serving.errors import IdentifierMissing, Malformed, OutOfRange
from serving.ingress.parts import Parts
from serving.registrar.protocol import LineTarget
from serving.wire import lines as wire
from serving.wire.fields import Moment, of_record, plain


async def query_lines(parts: Parts, request: Request, body: wire.HolderRequest) -> wire.HolderLines:
    """The numbers under a document over all carriers, masked, to its holder's face; audited.

    Any other face gets one answer, whether or not somebody holds the document.
    """
    document = known_document(body.document)
    subject = name_document(document)
    shown = await take_holder_face(parts, request, body.probe, body.liveness, subject)
    with counting_liveness(parts, shown.liveness):
        found = await request.registrar.read_lines(document, shown)
    return people.holder_lines(found)


async def dispute_line(
    parts: Parts, request: Request, body: wire.HolderRequest, line: str
) -> wire.Dispute:
    """Opens a case over a line that its holder did not open; the face must be the holder's. To
    another, or where nobody holds the document, it is REQUEST.HOLDER_MISMATCH.

    `line` is the number (+8613…) or the id that a list of lines shows.
    """
    document = known_document(body.document)
    subject = name_document(document)
    shown = await take_holder_face(parts, request, body.probe, body.liveness, subject)
    with counting_liveness(parts, shown.liveness):
        opened = await request.registrar.dispute_line(LineTarget(line), document, shown)
    return of_record(wire.Dispute, opened)


async def close_line(_: Parts, request: Request, line: str) -> wire.ClosedLine:
    """Closes a line: its number may be given to somebody else. `line` is its number or id."""
    line_id = await request.registrar.close_line(LineTarget(line))
    return wire.ClosedLine(line_id, "closed")


async def report_event(
    _: Parts, request: Request, body: wire.EventReport, line: str
) -> wire.LineEvent:
    """Notes what has happened to a line in use, and does what the carrier's rules say to it, such
    as to ask for its holder. Sent again, with the same moment, it is the same event.

    `line` is its number or id. A moment in the future, before the line was opened or before what is
    known of the same kind is LINE.EVENT.
    """
    made = await request.registrar.report_event(LineTarget(line), LineEventKind(body.kind), body.at)
    return people.line_event(made, is_tenant=True)


async def read_history(parts: Parts, request: Request, line: str) -> wire.LineHistory:
    """What happened to a line, why, and what it waits for; by its number in use, or its id also
    once it is closed. Audited."""
    carrier = scope_of(request.caller)
    shown = await asyncio.to_thread(_find_history, parts.store, line, carrier)
    await note(request, "line.read", shown.line_id)
    return shown


def _find_history(store: Reader, text: str, carrier: str | None) -> wire.LineHistory:
    found = read_line(store, text, carrier=carrier)
    return people.line_history(store, found, is_tenant=carrier is not None)


async def exempt_document(
    _: Parts, request: Request, body: wire.ExemptionRequest, document_id: str
) -> wire.Exemption:
    """No limit on lines, of a carrier or of a person, holds for a document any more, as for that of
    a firm. Audited."""
    made = await request.registrar.exempt(document_id, body.cause)
    return of_record(wire.Exemption, made, is_exempt=True)


async def end_exemption(_: Parts, request: Request, document_id: str) -> wire.Exemption:
    """The limits hold for a document again."""
    await request.registrar.end_exemption(document_id)
    return wire.Exemption(document_id, is_exempt=False)


def read_exemption(parts: Parts, _: Request, document_id: str) -> wire.Exemption:
    """Whether the limits hold for a document."""
    known = [document_id] if is_id(document_id) else []
    found = parts.store.exemptions(known)
    if document_id not in found:
        return wire.Exemption(document_id, is_exempt=False)
    return of_record(wire.Exemption, found[document_id], is_exempt=True)


CAMPAIGN = "the campaign"
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
    steps = () if body.then is None else _read_steps(body.then, body)
    chosen = None
    if body.chosen is not None:
        chosen = {name: one for name, one in plain(body.chosen).items() if one is not None}
    terms = CampaignTerms(
        carrier=own or body.carrier or "",
        name=body.name,
        deadline=body.deadline,
        steps=steps,
        chosen=chosen,
    )
    made = await request.registrar.start_campaign(terms)
    return await asyncio.to_thread(people.campaign, parts.store, made)


def _read_steps(then: str, body: wire.CampaignRequest) -> tuple[Step, ...]:
    if body.then2 is not None:
        later = [(body.after, body.then2), (body.after2, body.last)]
    else:
        later = [(body.after, body.last), (body.after2, None)]
    if any((when is None) is not (state is None) for when, state in later):
        raise RequestError("the campaign is not whole: after has then2 or last, and after2 last")
    given = [(read_duration(when, CAMPAIGN), state) for when, state in later if when and state]
    return check_steps([(0, then), *given], CAMPAIGN)


async def add_to_campaign(
    _: Parts, request: Request, body: wire.CampaignLinesRequest, campaign_id: str
) -> wire.AddedLines:
    """Adds lines to a campaign, by number or id; sent again it changes nothing. One that is no line
    in use of the campaign's carrier is told by its place, and the others are added."""
    added, unknown = await request.registrar.add_to_campaign(campaign_id, list(body.lines))
    return wire.AddedLines(added, tuple(unknown))


async def end_campaign(parts: Parts, request: Request, campaign_id: str) -> wire.Campaign:
    """Ends a campaign before its deadline: no other line is asked for. Those that were stay asked
    for, with all that follows at the deadline. Sent again it changes nothing."""
    ended = await request.registrar.end_campaign(campaign_id)
    return await asyncio.to_thread(people.campaign, parts.store, ended)


def list_campaigns(parts: Parts, request: Request) -> wire.Campaigns:
    """The newest campaigns, to a carrier its own."""
    found = parts.store.life.campaigns(scope_of(request.caller), MOST_LISTED)
    return wire.Campaigns(tuple(people.campaign(parts.store, one) for one in found))


def read_campaign(parts: Parts, request: Request, campaign_id: str) -> wire.Campaign:
    """A campaign, and how far it is."""
    carrier = scope_of(request.caller)
    return people.campaign(parts.store, find_campaign(parts.store, campaign_id, carrier))


def list_campaign_lines(
    parts: Parts, request: Request, query: wire.CampaignLinesQuery, campaign_id: str
) -> wire.CampaignLines:
    """Lines of a campaign in one state, as the overdue, a page at a time; ids alone."""
    campaign = find_campaign(parts.store, campaign_id, scope_of(request.caller))
    state, after = CampaignLineState(query.state), query.after or ""
    rows = parts.store.life.list_lines(campaign.id, state, after, query.limit)
    found = [of_record(wire.CampaignLine, row) for row in rows]
    return wire.CampaignLines(tuple(found), next_page(found, query.limit, lambda one: one.line_id))


async def retrieve_sim_swap_date(
    parts: Parts, request: Request, body: wire.SimSwapDateRequest
) -> wire.SimSwapDate:
    """When a carrier's number got the SIM that it has: by a new SIM, an eSIM, a port or its
    opening. Another carrier's number is as unknown as none. Audited."""
    found, _ = await _find(parts, request, body.phoneNumber, "retrieve-date")
    if found.at is None:
        return wire.SimSwapDate(None, found.monitored.days)
    return wire.SimSwapDate(Moment.of(found.at))


async def check_sim_swap(
    parts: Parts, request: Request, body: wire.SimSwapCheckRequest
) -> wire.SimSwapCheck:
    """Whether it got it within the last `maxAge` hours. Audited."""
    if not 1 <= body.maxAge <= wire.MOST_HOURS:
        raise OutOfRange(f"maxAge is 1 to {wire.MOST_HOURS} hours")
    found, now = await _find(parts, request, body.phoneNumber, "check")
    age = timedelta(hours=body.maxAge)
    if age > found.monitored:
        hours = int(found.monitored / timedelta(hours=1))
        raise OutOfRange(f"changes are known of the last {hours} hours: give a maxAge within them")
    return wire.SimSwapCheck(found.at is not None and now - found.at <= age)


async def _find(
    parts: Parts, request: Request, number: str | None, operation: str
) -> tuple[SimChange, datetime]:
    if number is None:
        raise IdentifierMissing("give a phoneNumber: no key stands for one")
    now = utc_now()
    line_id = "unknown"
    try:
        found = await asyncio.to_thread(
            parts.deployment.sim_changes.find,
            parts.store,
            normalise(number),
            scope_of(request.caller),
            now,
        )
        line_id = found.line_id
    finally:
        # Whoever tries numbers out is in the chain too.
        await note(request, "sim_change.read", line_id, operation=operation)
    return found, now


def normalise(number: str) -> str:
    """The number as lines have it; one that no line can have is as unknown as any."""
    try:
        return normalise_msisdn(number)
    except RequestError:
        raise NotFound(LINE_UNKNOWN) from None
