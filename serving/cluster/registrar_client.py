"""The registrar as an ingress reaches it over Ray: calls that travel to its replica."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from structlog.typing import FilteringBoundLogger

from engine.errors import RequestError
from serving.errors import Busy, Interrupted, NotReady
from serving.registrar.protocol import CallContext, Phase, RegistrarClient, Reply, Status
from serving.telemetry.metrics import STAGE_SECONDS, Meter
from serving.telemetry.traces import Tracer

STATUS_TIMEOUT_S = 1.0
LOOK_AGAIN_S = 0.1
HOP_TIMEOUT_S = 1.0
"""The time of a call beyond its own deadline, which the registrar enforces."""

LOST = "the registrar was lost meanwhile: ask again with the same Idempotency-Key"
OVERSIZED = "the answer is larger than one message may be: ask for less at once"
ABSENT = "the registrar is being started: ask again"


class RayRegistrar(RegistrarClient):
    """Calls `perform` of the registrar's deployment; nothing of Ray reaches its callers.

    At most `capacity` calls are under way. Once one was lost, calls are refused with `NotReady`
    until the registrar answers again, so that no caller waits for it. `timeout_s` is
    for calls that bring no deadline.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        *,
        capacity: int,
        timeout_s: float,
        meter: Meter,
        log: FilteringBoundLogger,
        tracer: Tracer | None = None,
    ) -> None:
        self._handle = handle
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._meter = meter
        self._log = log
        self._tracer = tracer or Tracer()
        self._ongoing = 0
        self._watching: asyncio.Task[None] | None = None

    async def status(self) -> Status:
        """The registrar's status; `STARTING` where it does not answer."""
        try:
            found = await _await(self._handle.status.remote(), STATUS_TIMEOUT_S)
        except Exception:  # noqa: BLE001 - on any error, the registrar did not answer
            return Status(Phase.STARTING, ABSENT, boot_id="")
        assert isinstance(found, Status)
        return found

    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        if self._watching is not None:
            return Reply(error=NotReady(ABSENT))
        if self._ongoing >= self._capacity:
            return Reply(error=Busy("too many calls wait for the registrar: ask again later"))
        self._ongoing += 1
        start = time.perf_counter()
        try:
            with self._tracer.span("hop") as hop:
                if hop.traceparent is not None:
                    # The registrar's spans are children of the hop.
                    context = replace(context, traceparent=hop.traceparent)
                reply = await self._send(method, arguments, context)
                if reply.error is not None:
                    hop.fail(reply.error.code)
                return reply
        finally:
            self._ongoing -= 1
            self._meter.observe(STAGE_SECONDS, time.perf_counter() - start, "hop")

    async def _send(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        timeout_s = context.timeout_s
        wait_s = (self._timeout_s if timeout_s is None else timeout_s) + HOP_TIMEOUT_S
        try:
            reply = await _await(self._handle.perform.remote(method, arguments, context), wait_s)
        except BackPressureError:
            return Reply(error=Busy("too many calls wait for the registrar: ask again later"))
        except Exception as error:  # noqa: BLE001 - Ray, Serve and gRPC each bring their own
            if _is_oversized(error):
                # The registrar works: only this answer is too large.
                self._log.error("reply_too_large", method=method)
                return Reply(error=RequestError(OVERSIZED))
            self._suspect(error, method, context)
            return Reply(error=Interrupted(LOST))
        assert isinstance(reply, Reply)
        return reply

    def _suspect(self, error: Exception, method: str, context: CallContext) -> None:
        # The type alone: a text of Ray's may quote what was sent.
        self._log.warning(
            "registrar_lost",
            method=method,
            error=type(error).__name__,
            correlator=context.correlator,
        )
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Waits until the registrar answers, in any phase."""
        try:
            while not (await self.status()).boot_id:
                await asyncio.sleep(LOOK_AGAIN_S)
        finally:
            self._watching = None

    async def close(self) -> None:
        """Stops waiting for a lost registrar."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching


async def _await(response: DeploymentResponse[Any], timeout_s: float) -> Any:
    """The value of the response; cancellation or a timeout of the caller cancels the call."""
    try:
        async with asyncio.timeout(timeout_s):
            return await response
    except (asyncio.CancelledError, TimeoutError):
        response.cancel()
        raise


def _is_oversized(error: Exception) -> bool:
    # gRPC has no error types; the status is on the error of the call.
    code = getattr(error, "code", None)
    return callable(code) and getattr(code(), "name", "") == "RESOURCE_EXHAUSTED"
