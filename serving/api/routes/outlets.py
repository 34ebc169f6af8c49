"""`/v1/outlets`: suspended, barred and lifted, and what was enrolled at one before."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from msgspec.structs import replace

from engine.cases.outlets import find_outlet, with_reasons
from engine.errors import NotFound
from engine.registry.database import utc_now
from engine.registry.queues import AttemptFilter, CaseFilter
from schema.cases import ALIVE, CaseState
from serving.api import serializers
from serving.api.request import Request, next_page, note
from serving.api.routes.cases import name_assignees
from serving.errors import Malformed
from serving.ingress.parts import Parts
from serving.registrar.protocol import Bar, Lift, OutletStep, Suspend
from serving.wire import outlets as wire
from serving.wire.fields import of_record


async def list_outlets(parts: Parts, _: Request, query: wire.OutletsQuery) -> wire.OutletList:
    """The outlets that may enroll nobody, those with most refused attempts first."""
    store = parts.store
    found = await asyncio.to_thread(lambda: with_reasons(store, store.restricted_outlets()))
    listed = serializers.outlet_list(found, query.carrier, query.restriction)
    # One that was lifted since the page before is in no list: then from the first again.
    places = [place for place, one in enumerate(listed) if one.outlet == query.after]
    start = places[0] + 1 if places else 0
    page = listed[start : start + query.limit]
    codes = [one.outlet for one in page]
    told = await asyncio.to_thread(serializers.outlet_liveness, store, codes)
    return wire.OutletList(
        tuple(replace(one, liveness=told[one.outlet]) for one in page),
        next_page(page, query.limit, lambda one: one.outlet),
    )


async def count_exceptions(
    parts: Parts, _: Request, query: wire.ExceptionsQuery
) -> wire.ExceptionCounts:
    """The outlets that have asked for exceptions of late, those with most first."""
    since = utc_now() - timedelta(days=query.days)
    found = await asyncio.to_thread(parts.store.people.count_by_outlet, since)
    wanted = [one for one in found if query.carrier in (None, one.carrier)]
    return wire.ExceptionCounts(tuple(of_record(wire.OutletExceptions, one) for one in wanted))


async def read_outlet(parts: Parts, _: Request, outlet: str) -> wire.OutletState:
    """Whether an outlet may enroll, why not, and what liveness checks brought there."""
    store = parts.store
    return await asyncio.to_thread(lambda: serializers.outlet(store, find_outlet(store, outlet)))


async def suspend_outlet(
    parts: Parts, request: Request, body: wire.RestrictRequest, outlet: str
) -> wire.OutletState:
    """Lets the outlet enroll nobody, at once; one person may. Attempts are refused (403
    `REQUEST.OUTLET_RESTRICTED`), audited and counted.
    """
    return await _step(parts, request, outlet, Suspend(body.case_id, body.reason))


async def bar_outlet(
    parts: Parts, request: Request, body: wire.RestrictRequest, outlet: str
) -> wire.OutletState:
    """Bars an outlet that another person has suspended."""
    return await _step(parts, request, outlet, Bar(body.case_id, body.reason))


async def lift_restriction(
    parts: Parts, request: Request, body: wire.LiftRequest, outlet: str
) -> wire.OutletState:
    """Lets the outlet enroll again. Its case keeps the history."""
    return await _step(parts, request, outlet, Lift(body.restriction, body.reason))


async def list_past_enrollments(
    parts: Parts, request: Request, query: wire.PastQuery, outlet: str
) -> wire.PastEnrollments:
    """What was attempted at an outlet, for a look; names and numbers masked, audited."""
    shown = await asyncio.to_thread(_find, parts, request, query, outlet)
    ids = [one.enrollment_id for one in shown]
    await note(parts, request, "enrollments.read", outlet, enrollments=ids)
    following = next_page(shown, query.limit, lambda one: one.enrollment_id)
    return wire.PastEnrollments(enrollments=shown, next=following)


async def _step(parts: Parts, request: Request, outlet: str, step: OutletStep) -> wire.OutletState:
    found = await parts.registrar.step_outlet(outlet, step, request.context())
    return await asyncio.to_thread(serializers.outlet, parts.store, found)


def _find(
    parts: Parts, request: Request, query: wire.PastQuery, outlet: str
) -> tuple[wire.PastEnrollment, ...]:
    find_outlet(parts.store, outlet)
    state = query.state
    wanted = AttemptFilter(
        outlet=outlet,
        decision=query.decision,
        id_end=query.id_end,
        oldest_first=query.sort == "oldest",
        case=CaseFilter(
            state=None if state is None else ALIVE if state == "alive" else CaseState(state),
            kind=query.kind,
            assignees=name_assignees(query.assignee, request.caller),
            overdue_at=utc_now() if query.overdue else None,
        ),
    )
    read = parts.store.cases.attempts
    try:
        found = read(wanted, due=parts.due, limit=query.limit, after=query.after)
    except NotFound:
        raise Malformed("after: no enrollment, so no `next` of a page") from None
    return serializers.past_enrollments(parts.store, found)
