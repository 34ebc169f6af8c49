"""Health, version, metrics, and what a key stands for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import SosieError
from serving.access.authorization import Action, Role
from serving.api.dependencies import admit, identify_caller
from serving.api.fields import Shown
from serving.api.openapi import describe
from serving.api.request import call_of
from serving.errors import ServiceRefusal
from serving.parts import Parts
from serving.registrar.protocol import Phase, Status

# What the service says of itself, and of a key.


class LiveAnswer(Shown):
    status: Literal["live"]


class Check(Shown):
    """One condition of being ready."""

    is_ok: bool
    detail: str


class ReadyAnswer(Shown):
    """Ready where every check is; the phase is null where the registrar cannot be reached."""

    is_ready: bool
    phase: Phase | None
    checks: dict[str, Check] = Field(description="store, models, registrar, gallery")


class VersionAnswer(Shown):
    version: str
    api: Literal["v1"]
    model_digest: str


class KeyAnswer(Shown):
    """What the key that was sent stands for."""

    key_id: str
    role: Role
    carrier: str | None
    outlet: str | None


# Whether an ingress can serve: one check for all who ask at a time.

CHECK_TIMEOUT_S = 2.0
READY_KEPT_S, UNREADY_KEPT_S = 0.5, 0.1
"""How long an answer serves for those who ask next: nobody needs a key to ask."""


class Readiness:
    """The checks behind `/health/ready`; for one event loop.

    However many ask, one check runs at a time, and one read of the store, in a thread of its own:
    a store that hangs takes no thread from the calls.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reader = ThreadPoolExecutor(1, "readiness")
        self._reading: asyncio.Future[int] | None = None
        self._checking: asyncio.Task[dict[str, Any]] | None = None
        self._kept: tuple[float, dict[str, Any]] | None = None

    async def check(self) -> dict[str, Any]:
        """What the checks found, half a second ago at most."""
        now = asyncio.get_running_loop().time()
        if self._kept is not None and now < self._kept[0]:
            return self._kept[1]
        if self._checking is None:
            self._checking = asyncio.create_task(self._check_all())
        # A caller who leaves does not end the check of the others.
        return await asyncio.shield(self._checking)

    async def _check_all(self) -> dict[str, Any]:
        try:
            store, (status, registrar) = await asyncio.gather(
                self._check_store(), self._ask_status()
            )
            checks = {
                "store": store,
                "models": self._check_models(),
                "registrar": registrar,
                "gallery": _check_gallery(status),
            }
            is_ready = all(check["is_ok"] for check in checks.values())
            found = {
                "is_ready": is_ready,
                "phase": None if status is None else status.phase.value,
                "checks": checks,
            }
            kept_s = READY_KEPT_S if is_ready else UNREADY_KEPT_S
            self._kept = (asyncio.get_running_loop().time() + kept_s, found)
            return found
        finally:
            self._checking = None

    async def _check_store(self) -> dict[str, Any]:
        if self._reading is None or self._reading.done():
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._reader, self._parts.store.sequence)
            # Nobody may be left to ask a slow read for its error.
            self._reading.add_done_callback(_hear)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await asyncio.shield(self._reading)
        except TimeoutError:
            return _check(False, f"the store did not answer within {CHECK_TIMEOUT_S:g} s")
        except SosieError as error:
            return _check(False, str(error))
        return _check(True, "the store answers")

    def _check_models(self) -> dict[str, Any]:
        if not self._parts.faces.is_alive:
            return _check(False, "no photographs are turned into faces here")
        return _check(True, f"model {self._parts.model_digest[:12]} is loaded")

    async def _ask_status(self) -> tuple[Status | None, dict[str, Any]]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                status = await self._parts.registrar.status()
        except TimeoutError:
            return None, _check(False, f"the registrar did not answer within {CHECK_TIMEOUT_S:g} s")
        except (SosieError, ServiceRefusal) as error:
            return None, _check(False, str(error))
        return status, _check(status.is_ready, status.detail)


def _hear(read: asyncio.Future[int]) -> None:
    if not read.cancelled():
        read.exception()


def _check_gallery(status: Status | None) -> dict[str, Any]:
    if status is None or status.sequence is None or status.store_sequence is None:
        return _check(False, "the gallery's watermark is not known")
    behind = status.store_sequence - status.sequence
    if behind:
        return _check(False, f"the gallery is {behind} changes behind the store")
    return _check(True, f"the gallery is at the store's watermark, {status.sequence}")


def _check(is_ok: bool, detail: str) -> dict[str, Any]:
    return {"is_ok": is_ok, "detail": detail}


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
