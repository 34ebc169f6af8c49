"""`/camara/sim-swap/v2`: when a number got the SIM that it has, as CAMARA has it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from engine.errors import NotFound, RequestError
from engine.lifecycle.sim_changes import SimChange
from engine.matching.lines import LINE_UNKNOWN
from engine.matching.requests import normalise_msisdn
from engine.registry.records import utc_now
from serving.access.authorization import scope_of
from serving.api.request import Request, note
from serving.errors import IdentifierMissing, OutOfRange
from serving.ingress.parts import Parts
from serving.wire import lines as wire
from serving.wire.fields import Moment


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
        given = (parts.store, normalise(number), scope_of(request.caller), now)
        found = await asyncio.to_thread(parts.sim_changes.find, *given)
        line_id = found.line_id
    finally:
        # Whoever tries numbers out is in the chain too.
        await note(parts, request, "sim_change.read", line_id, operation=operation)
    return found, now


def normalise(number: str) -> str:
    """The number as lines have it; one that no line can have is as unknown as any."""
    try:
        return normalise_msisdn(number)
    except RequestError:
        raise NotFound(LINE_UNKNOWN) from None
