"""Health, version, metrics, and what a key stands for."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.access.tenancy import Action
from serving.api.call import call_of
from serving.api.openapi import describe
from serving.api.readiness import Readiness
from serving.api.reception import admit, identify_caller
from serving.api.schemas.health import KeyAnswer, LiveAnswer, ReadyAnswer, VersionAnswer
from serving.parts import Parts
from serving.refusals import RouteUnknown
from serving.telemetry.metrics import PrometheusMeter

RETRY_AFTER = {"Retry-After": "2"}


def add_operations(router: APIRouter, parts: Parts) -> None:
    """Adds the routes that operators and consoles ask."""
    _add_health(router, parts)
    _add_facts(router, parts)
    _add_metrics(router, parts)


def _add_facts(router: APIRouter, parts: Parts) -> None:
    async def tell_version(request: Request) -> Response:
        """Which version runs, and which model."""
        return call_of(request).answer(
            {"version": parts.version, "api": "v1", "model_digest": parts.model_digest}
        )

    async def show_key(request: Request) -> Response:
        """What the key stands for."""
        call = call_of(request)
        principal = await identify_caller(parts, call)
        return call.answer(
            {
                "key_id": principal.key_id,
                "role": principal.role.value,
                "carrier": principal.carrier,
                "outlet": principal.outlet,
            }
        )

    router.add_api_route(
        "/version",
        tell_version,
        methods=["GET"],
        **describe(
            "Version", answers={200: VersionAnswer}, errors=(400, 429, 503), needs_key=False
        ),
    )
    router.add_api_route(
        "/v1/me",
        show_key,
        methods=["GET"],
        **describe("Whose key", answers={200: KeyAnswer}, errors=(400, 401, 406, 429, 503)),
    )


def _add_metrics(router: APIRouter, parts: Parts) -> None:
    async def show_metrics(request: Request) -> Response:
        """The node's metrics as Prometheus reads them."""
        await admit(parts, call_of(request), Action.READ_METRICS)
        if not isinstance(parts.meter, PrometheusMeter):
            raise RouteUnknown("this process keeps no metrics")
        body, content_type = await asyncio.to_thread(parts.meter.render)
        return Response(body, headers={"content-type": content_type})

    router.add_api_route(
        "/metrics",
        show_metrics,
        methods=["GET"],
        **describe("Metrics", text_answer=True, errors=(400, 401, 403, 404, 429, 503)),
    )


def _add_health(router: APIRouter, parts: Parts) -> None:
    readiness = Readiness(parts)

    async def tell_live(request: Request) -> Response:
        """This process answers."""
        return call_of(request).answer({"status": "live"})

    async def tell_ready(request: Request) -> Response:
        """Whether it decides and searches now: store, models, registrar, gallery at the store's
        watermark. False while it starts, replays and stops.
        """
        shown = await readiness.check()
        if shown["is_ready"]:
            return call_of(request).answer(shown)
        return call_of(request).answer(shown, 503, RETRY_AFTER)

    router.add_api_route(
        "/health/live",
        tell_live,
        methods=["GET"],
        **describe("Live", answers={200: LiveAnswer}, errors=(400, 429, 503), needs_key=False),
    )
    router.add_api_route(
        "/health/ready",
        tell_ready,
        methods=["GET"],
        **describe(
            "Ready",
            answers={200: ReadyAnswer, 503: ReadyAnswer},
            errors=(400, 429),
            needs_key=False,
        ),
    )
