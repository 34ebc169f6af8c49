"""`/v1/sweeps`: duplicate searches of the whole gallery, their progress and their findings."""

import asyncio

import msgspec

from engine.sweeps.estimate import SweepOrder
from serving.api import serializers
from serving.api.request import Answer, Request
from serving.ingress.parts import Parts
from serving.wire import sweeps as wire


async def start_sweep(_: Parts, request: Request, body: wire.SweepRequest) -> Answer:
    """Starts a sweep, or says what to expect of it: comparisons, time, memory, and how many pairs
    of strangers the threshold brings at this size of the gallery. One at a time: a second is
    refused.
    """
    asked = SweepOrder(
        threshold=body.threshold,
        fmr=body.fmr,
        scope=body.scope,
        is_unsupported_allowed=body.allow_unsupported,
        budget=body.budget,
    )
    if body.dry_run:
        expected = await request.registrar.expect_sweep(asked)
        return Answer(serializers.sweep_expectation(expected))
    started = await request.registrar.start_sweep(asked)
    return Answer(serializers.sweep_report(started), 201)


async def list_sweeps(_: Parts, request: Request, query: wire.SweepsQuery) -> wire.Sweeps:
    """The newest sweeps, newest first."""
    found = await request.registrar.list_sweeps(query.limit)
    return wire.Sweeps(tuple(map(serializers.sweep, found)))


async def read_sweep(_: Parts, request: Request, sweep_id: str) -> wire.SweepReport:
    """A sweep with its progress of this moment, and what it found in counts."""
    return serializers.sweep_report(await request.registrar.read_sweep(sweep_id))


async def pause_sweep(_: Parts, request: Request, sweep_id: str) -> wire.SweepReport:
    """Stops at the end of the tile that runs; what was compared stays."""
    return serializers.sweep_report(await request.registrar.pause_sweep(sweep_id))


async def resume_sweep(_: Parts, request: Request, sweep_id: str) -> wire.SweepReport:
    """Goes on where it was paused."""
    return serializers.sweep_report(await request.registrar.resume_sweep(sweep_id))


async def cancel_sweep(_: Parts, request: Request, sweep_id: str) -> wire.SweepReport:
    """Ends it for good; nothing of it is kept but that it was."""
    return serializers.sweep_report(await request.registrar.cancel_sweep(sweep_id))


async def list_groups(
    _: Parts, request: Request, query: wire.GroupsQuery, sweep_id: str
) -> wire.GroupPage:
    """A page of a sweep's groups in counts, the riskiest first; audited."""
    return await request.registrar.list_groups(sweep_id, query.after, query.limit)


async def read_group(parts: Parts, request: Request, sweep_id: str, key: str) -> wire.Group:
    """A group with its members, the links between their faces, and the open cases about them;
    audited.
    """
    found = await request.registrar.read_group(sweep_id, key)
    documents = [one.document_id for one in found.identities]
    cases = await asyncio.to_thread(parts.store.cases.open_of, documents)
    ids = dict.fromkeys(case.id for some in cases.values() for case in some)
    return msgspec.structs.replace(found, cases=tuple(ids))


def read_precision(parts: Parts, _: Request, query: wire.PrecisionQuery) -> wire.Precision:
    """Of the pairs that sweeps found and people judged, how many were fraud, and how many at
    higher thresholds; how closed cases ended, by kind and by month; and the threshold for the next
    sweep that all of it speaks for.
    """
    return serializers.sweep_precision(parts.decisions.read(), query.sweep_id, query.wanted)
