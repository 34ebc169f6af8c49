"""`/v1/sweeps`: a search of the whole gallery with itself, how far it is, what it found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import ceil, floor
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from engine.cases.suspects import Precision, measure_at, measure_precision
from engine.registry.records import CaseRecord, JudgedPair
from engine.sweeps.estimate import Expectation
from engine.sweeps.sweep_model import SweepRecord
from serving.access.authorization import Action
from serving.api.dependencies import admit, read_body
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.api.schemas.sweeps import (
    ExpectationAnswer,
    GroupAnswer,
    GroupsAnswer,
    GroupsAsked,
    PrecisionAnswer,
    PrecisionAsked,
    SweepAnswer,
    SweepBody,
    SweepsAnswer,
    SweepsAsked,
)
from serving.parts import Parts
from serving.registrar.protocol import Steering

# How sweeps, and what they found, look in answers.

STEPS = 20
"""Thresholds of a precision, from score 0 to 1."""


def show_sweep(record: SweepRecord) -> dict[str, Any]:
    """A sweep without its summary."""
    progress = record.progress
    return {
        "sweep_id": record.id,
        "state": record.state.value,
        "threshold": record.terms.threshold,
        "scope": record.terms.scope.value,
        "requested_by": record.requested_by,
        "gallery_sequence": record.sequence,
        "progress": {**asdict(progress), "share": progress.share},
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "fault": record.fault,
    }


def show_expectation(found: Expectation) -> dict[str, Any]:
    """What a sweep would cost and bring."""
    return {
        "threshold": found.terms.threshold,
        "scope": found.terms.scope.value,
        "references": found.references,
        "new_references": found.new_references,
        "gallery_sequence": found.sequence,
        "comparisons": found.comparisons,
        "duration_s": found.duration_s,
        "memory_bytes": found.memory_bytes,
        "false_pairs": asdict(found.false_pairs),
        "is_supported": found.is_supported,
        "proposal": {
            "threshold": found.proposal.threshold,
            "fmr": found.proposal.fmr,
            "false_pairs": asdict(found.proposal.false_pairs),
            "budget": found.proposal.budget,
            "is_within_budget": found.proposal.is_within_budget,
        },
    }


def show_group(
    group: Mapping[str, Any], cases: Mapping[str, Sequence[CaseRecord]]
) -> dict[str, Any]:
    """A group as the desk gives it, with the open cases about its documents."""
    return {
        "key": group["key"],
        "kind": group["kind"],
        "risk": group["risk"],
        "terms": group["terms"],
        "weakest": group["weakest"],
        "identities": group["identities"],
        "links": group["links"],
        "severed": group["severed"],
        "left_out": group["left_out"],
        "cases": list(dict.fromkeys(case.id for found in cases.values() for case in found)),
    }


def show_precision(pairs: Sequence[JudgedPair], sweep_id: str | None) -> dict[str, Any]:
    """How many of the judged pairs were fraud, at every twentieth of a score."""
    whole = measure_precision(pairs, sweep_id=sweep_id)
    scores = [pair.score for pair in pairs if pair.sweep_id is not None]
    steps = range(floor(min(scores, default=1) * STEPS), ceil(max(scores, default=0) * STEPS))
    rising = measure_at(pairs, [step / STEPS for step in steps], sweep_id)
    return {
        **_show_rate(whole),
        "thresholds": [{"threshold": one.threshold, **_show_rate(one)} for one in rising],
    }


def _show_rate(found: Precision) -> dict[str, Any]:
    rate = found.rate
    return {
        "judged": found.judged,
        "confirmed": found.confirmed,
        "precision": None if rate is None else rate.value,
        "low": None if rate is None else rate.low,
        "high": None if rate is None else rate.high,
    }


READ_ERRORS = (400, 401, 403, 406, 429, 503)
ONE_ERRORS = (400, 401, 403, 404, 406, 429, 503)
GROUP_ERRORS = (400, 401, 403, 404, 406, 409, 429, 503, 507)
STEER_ERRORS = GROUP_ERRORS
START_ERRORS = (400, 401, 403, 406, 408, 409, 413, 415, 422, 429, 503, 507)

_MEANINGS = {
    Steering.PAUSE: "Stops at the end of the tile that runs; what was compared stays.",
    Steering.RESUME: "Goes on where it was paused.",
    Steering.CANCEL: "Ends it for good; nothing of it is kept but that it was.",
}


def add_sweeps(router: APIRouter, parts: Parts) -> None:
    """Adds the routes about sweeps."""
    _add_start(router, parts)
    _add_reads(router, parts)
    for steering in Steering:
        _add_steering(router, parts, steering)
    _add_groups(router, parts)
    _add_precision(router, parts)


def _add_start(router: APIRouter, parts: Parts) -> None:
    async def start_sweep(request: Request) -> Response:
        """Starts a sweep, or says what to expect of it: comparisons, time, memory, and how many
        pairs of strangers the threshold brings at this size of the gallery. One at a time: a
        second is refused.
        """
        return await _start(parts, call_of(request))

    router.add_api_route(
        "/v1/sweeps",
        start_sweep,
        methods=["POST"],
        **describe(
            "Start a sweep",
            body=SweepBody,
            answers={201: SweepAnswer, 200: ExpectationAnswer},
            errors=START_ERRORS,
        ),
    )


def _add_reads(router: APIRouter, parts: Parts) -> None:
    async def list_sweeps(request: Request, asked: Annotated[SweepsAsked, Query()]) -> Response:
        """The newest sweeps, newest first."""
        call = call_of(request)
        principal = await admit(parts, call, Action.SWEEP)
        found = await parts.registrar.list_sweeps(asked.limit, call.context(principal))
        return call.answer({"sweeps": [show_sweep(record) for record in found]})

    async def read_sweep(request: Request, sweep_id: str) -> Response:
        """A sweep with its progress of this moment, and what it found in counts."""
        call = call_of(request)
        principal = await admit(parts, call, Action.SWEEP)
        found = await parts.registrar.read_sweep(sweep_id, call.context(principal))
        return call.answer({**show_sweep(found), "summary": found.summary})

    _add(router, "", list_sweeps, "List sweeps", SweepsAnswer, READ_ERRORS)
    _add(router, "/{sweep_id}", read_sweep, "Read a sweep", SweepAnswer, ONE_ERRORS)


def _add_steering(router: APIRouter, parts: Parts, steering: Steering) -> None:
    async def steer_sweep(request: Request, sweep_id: str) -> Response:
        call = call_of(request)
        principal = await admit(parts, call, Action.SWEEP)
        found = await parts.registrar.steer_sweep(sweep_id, steering, call.context(principal))
        return call.answer({**show_sweep(found), "summary": found.summary})

    steer_sweep.__name__ = f"{steering.value}_sweep"
    steer_sweep.__doc__ = _MEANINGS[steering]
    router.add_api_route(
        f"/v1/sweeps/{{sweep_id}}/{steering.value}",
        steer_sweep,
        methods=["POST"],
        **describe(
            f"{steering.value.capitalize()} a sweep",
            answers={200: SweepAnswer},
            errors=STEER_ERRORS,
        ),
    )


def _add_groups(router: APIRouter, parts: Parts) -> None:
    async def list_groups(
        request: Request, sweep_id: str, asked: Annotated[GroupsAsked, Query()]
    ) -> Response:
        """A page of a sweep's groups in counts, the riskiest first; audited."""
        call = call_of(request)
        principal = await admit(parts, call, Action.SWEEP)
        page = await parts.registrar.list_groups(
            sweep_id, asked.after, asked.limit, call.context(principal)
        )
        return call.answer(
            {"groups": list(page.groups), "total": page.total, "next": page.next_after}
        )

    async def read_group(request: Request, sweep_id: str, key: str) -> Response:
        """A group with its members, the links between their faces, and the open cases about them;
        audited.
        """
        return await _read_group(parts, call_of(request), sweep_id, key)

    path = "/{sweep_id}/groups"
    _add(router, path, list_groups, "List groups", GroupsAnswer, GROUP_ERRORS)
    _add(router, f"{path}/{{key}}", read_group, "Read a group", GroupAnswer, GROUP_ERRORS)


def _add_precision(router: APIRouter, parts: Parts) -> None:
    async def read_precision(
        request: Request, asked: Annotated[PrecisionAsked, Query()]
    ) -> Response:
        """Of the pairs that sweeps found and people judged, how many were fraud; and how many at
        higher thresholds.
        """
        call = call_of(request)
        await admit(parts, call, Action.SWEEP)
        pairs = await asyncio.to_thread(parts.store.cases.judged_pairs)
        return call.answer(show_precision(pairs, asked.sweep_id))

    router.add_api_route(
        "/v1/precision",
        read_precision,
        methods=["GET"],
        **describe(
            "Measure the precision of sweeps",
            answers={200: PrecisionAnswer},
            errors=READ_ERRORS,
        ),
    )


def _add(
    router: APIRouter,
    path: str,
    read: Callable[..., Any],
    summary: str,
    answer: type[Any],
    errors: tuple[int, ...],
) -> None:
    described = describe(summary, answers={200: answer}, errors=errors)
    router.add_api_route(f"/v1/sweeps{path}", read, methods=["GET"], **described)


async def _start(parts: Parts, call: Call) -> Response:
    principal = await admit(parts, call, Action.SWEEP)
    body = await read_body(call, SweepBody)
    asked, context = body.read(), call.context(principal)
    if body.dry_run:
        return call.answer(show_expectation(await parts.registrar.expect_sweep(asked, context)))
    started = await parts.registrar.start_sweep(asked, context)
    return call.answer({**show_sweep(started), "summary": started.summary}, 201)


async def _read_group(parts: Parts, call: Call, sweep_id: str, key: str) -> Response:
    principal = await admit(parts, call, Action.SWEEP)
    group = await parts.registrar.read_group(sweep_id, key, call.context(principal))
    documents = [one["document_id"] for one in group["identities"]]
    cases = await asyncio.to_thread(parts.store.cases.open_of, documents)
    return call.answer(show_group(group, cases))
