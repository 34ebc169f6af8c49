"""The registrar as an ingress reaches it over Ray: calls that travel to its replica."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import Any

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from structlog.typing import FilteringBoundLogger

from engine.errors import RequestError, SosieError, copy_for_one
from schema.phases import Phase
from serving.errors import Busy, Interrupted, NotReady, ServiceRefusal
from serving.registrar.protocol import CallContext, RegistrarClient, Reply, Status
from serving.telemetry.metrics import STAGE_SECONDS, Meter
from serving.telemetry.traces import Tracer

STATUS_TIMEOUT_S = 1.0
LOOK_AGAIN_S = 0.1
HOP_TIMEOUT_S = 1.0
"""The time of a call beyond its own deadline, which the registrar enforces."""

JOINED, MOST_JOINED = "enroll", 16
"""The method whose calls travel together, and how many at most: they wait for one commit anyway."""
JOINED_WITHIN_S = 1.0
"""How far apart the time limits of such calls may be: their replies come together."""

LOST = "the registrar was lost meanwhile: ask again with the same Idempotency-Key"
OVERSIZED = "the answer is larger than one message may be: ask for less at once"
ABSENT = "the registrar is being started: ask again"


_Call = tuple[str, tuple[Any, ...], CallContext]


class _Message:
    """Calls of one turn of the event loop, which are one message there and one back; how long
    their replies are waited for, and by how many."""

    task: asyncio.Task[Sequence[Reply]]

    def __init__(self, wait_s: float) -> None:
        self.calls: list[_Call] = []
        self.wait_s = wait_s
        self.waiting = 0

    def takes(self, wait_s: float) -> bool:
        """True where there is room, and nobody would wait much longer than they give it."""
        return len(self.calls) < MOST_JOINED and abs(self.wait_s - wait_s) < JOINED_WITHIN_S


class RayRegistrar(RegistrarClient):
    """Calls `perform` of the registrar's deployment; nothing of Ray reaches its callers.
    Enrollments that were extracted together go in one message, which costs more than its content;
    it is cancelled when nobody waits for it. At most `capacity` calls are under way; once one was
    lost, calls are `NotReady` until the registrar answers. `timeout_s` is for calls without a
    deadline."""

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
        self._message: _Message | None = None
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
        call = (method, arguments, context)
        if method == JOINED:
            message = self._message
            if message is None or not message.takes(wait_s):
                message = self._message = _Message(wait_s)
                # Without the context of the first of them: Serve would end it with that request.
                message.task = asyncio.get_running_loop().create_task(
                    self._exchange_joined(message), context=Context()
                )
            place = len(message.calls)
            message.calls.append(call)
            message.waiting += 1
            try:
                return (await asyncio.shield(message.task))[place]
            finally:
                message.waiting -= 1
                if not message.waiting:
                    message.task.cancel()
        return (await self._exchange([call], wait_s))[0]

    async def _exchange_joined(self, message: _Message) -> Sequence[Reply]:
        # Begins in the next turn of the loop: until then others join.
        if self._message is message:
            self._message = None
        return await self._exchange(message.calls, message.wait_s)

    async def _exchange(self, calls: Sequence[_Call], wait_s: float) -> Sequence[Reply]:
        """The replies to calls that are one message."""
        method, _, context = calls[0]
        error: SosieError | ServiceRefusal
        try:
            if len(calls) == 1:
                return [await _await(self._handle.perform.remote(*calls[0]), wait_s)]
            replies: list[Reply] = await _await(self._handle.perform_all.remote(calls), wait_s)
            return replies
        except BackPressureError:
            error = Busy("too many calls wait for the registrar: ask again later")
        except Exception as raised:  # noqa: BLE001 - Ray, Serve and gRPC each bring their own
            # gRPC has no error types; the status is on the error of the call.
            code = getattr(raised, "code", None)
            if callable(code) and getattr(code(), "name", "") == "RESOURCE_EXHAUSTED":
                # The registrar works: only this answer is too large.
                self._log.error("reply_too_large", method=method)
                error = RequestError(OVERSIZED)
            else:
                # The type alone: a text of Ray's may quote what was sent.
                self._log.warning(
                    "registrar_lost",
                    method=method,
                    error=type(raised).__name__,
                    correlator=context.correlator,
                )
                if self._watching is None:
                    self._watching = asyncio.get_running_loop().create_task(self._watch())
                error = Interrupted(LOST)
        return [Reply(error=copy_for_one(error)) for _ in calls]

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
