"""The registrar as a service: opens itself in the background, and carries out calls."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Condition
from time import monotonic
from typing import Any

from structlog.typing import FilteringBoundLogger

from engine.batching import Batch, Batcher, Lane, Pending, Refusals
from engine.errors import DeadlinePassed, GalleryBehind, LeaseLost, RegistryError
from engine.matching.identification import Identification
from engine.matching.requests import Answer
from indexes.errors import IndexFault, ShardLost
from serving.compose import Deployment
from serving.errors import Busy, Interrupted, NotReady, describe
from serving.registrar.client import OPERATIONS
from serving.registrar.lifecycle import Lifecycle
from serving.registrar.operations import GRACE_S, OpenRegistry, Operations, finish_by
from serving.registrar.protocol import CallContext, Reply, Status, presentable
from serving.settings import ServeSettings
from serving.telemetry.metrics import Meter
from serving.telemetry.traces import Attribute, Tracer

READER_THREADS, READS_WAITING = 8, 128
ERASURES_WAITING = 16
SPANS = {"enroll": "judge", "identify": "search", "note": "audit"}
"""How traces name what a call does here, where its own name does not say it."""
_CLOSED = Interrupted("the service stops: ask again")
_REFUSALS = Refusals(
    full=Busy("too many calls of this kind wait: try again in a second"),
    late=DeadlinePassed("the time ran out while the call waited: nothing was stored"),
    closed=_CLOSED,
    ended=_CLOSED,
)

Work = Callable[[], Any]


class RegistrarService:
    """Every call of a client, beside one another; none is answered but from a whole gallery.

    What is lost under way (the lease, a shard, the step with the store) is closed and opened
    again; meanwhile calls are refused with `NotReady`.
    """

    def __init__(
        self,
        open_deployment: Callable[[], Deployment],
        settings: ServeSettings,
        meter: Meter,
        log: FilteringBoundLogger,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._tracer = tracer or Tracer()
        self._readers = open_pool("reader", READER_THREADS, READS_WAITING)
        # One at a time, since each waits for the snapshot of the one before.
        self._erasers = open_pool("eraser", 1, ERASURES_WAITING)
        self._ended = Condition()
        self._ongoing = 0
        self._life = Lifecycle(open_deployment, settings.probes_waiting, meter, log)

    async def status(self) -> Status:
        """How far it is, in every phase; at most a second old."""
        return self._life.status()

    async def perform(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        """Carries out a public method of `Operations`; errors are values."""
        assert method in OPERATIONS, "a caller of ours asks for what it knows"
        opened: OpenRegistry | None = None
        span = self._tracer.span(SPANS.get(method, method), context.traceparent)
        with self._counted(), span as traced:
            try:
                opened = self._life.require()
                value = await self._carry_out(opened, method, arguments, context)
                traced.note(**_describe(value))
                return Reply(value)
            except Exception as raised:  # noqa: BLE001 - errors cross the hop as values
                error = presentable(raised if opened is None else self._judge(opened, raised))
                self._report(method, raised, context)
                traced.fail(error.code)
                return Reply(error=error)

    async def drain(self, timeout_s: float) -> None:
        """Refuses new calls, ends those that go on, and closes the deployment."""
        await asyncio.to_thread(self._drain, timeout_s)

    def close(self) -> None:
        """The same without waiting for calls that do not wait in a queue."""
        self._drain(0)

    def _drain(self, timeout_s: float) -> None:
        self._life.drain()
        with self._ended:
            self._ended.wait_for(lambda: self._ongoing == 0, timeout_s)
        self._life.close()
        for pool in (self._readers, self._erasers):
            pool.fail(_CLOSED)
            pool.close()

    async def _carry_out(
        self, opened: OpenRegistry, method: str, arguments: tuple[Any, ...], context: CallContext
    ) -> Any:
        timeout_s = context.timeout_s
        left_s = self._settings.request_timeout_s if timeout_s is None else timeout_s
        if left_s <= 0:
            raise DeadlinePassed("the time ran out on the way: nothing was stored")
        expires_at = monotonic() + left_s
        call = Operations(opened, context, expires_at, self._log, self._tracer)
        operation = getattr(call, method)
        if inspect.iscoroutinefunction(operation):
            return await operation(*arguments)
        pool = self._erasers if method == "erase" else self._readers
        future = pool.submit(Pending(partial(operation, *arguments), 1, left_s))
        return await finish_by(future, expires_at, give_up=call.give_up, grace_s=GRACE_S)

    def _judge(self, opened: OpenRegistry, error: Exception) -> Exception:
        """Opens the registry again where an error says that it is not whole; what to answer."""
        if opened.failure is not None:
            self._life.lose(opened, opened.failure)
        elif isinstance(error, ShardLost | GalleryBehind):
            self._life.lose(opened, error)
        if self._life.has_lost(opened) and isinstance(error, RegistryError | IndexFault):
            return LeaseLost("the registry was closed under the call")
        return error

    def _report(self, method: str, error: Exception, context: CallContext) -> None:
        fault = describe(error)
        if fault.status >= 500 and not isinstance(error, NotReady | DeadlinePassed):
            # The type and the code alone: a text may hold anything.
            self._log.error(
                "call_failed",
                method=method,
                code=fault.code,
                error=type(error).__name__,
                correlator=context.correlator,
            )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._ended:
            self._ongoing += 1
        try:
            yield
        finally:
            with self._ended:
                self._ongoing -= 1
                self._ended.notify_all()


def open_pool(name: str, threads: int, waiting: int) -> Batcher[Work, Any]:
    """Threads for calls that block, each on its own."""
    return Batcher(_do_one, [Lane(1, waiting)], _REFUSALS, name=name, workers=threads)


def _do_one(batch: Batch[Work, Any]) -> list[Any]:
    (call,) = batch
    try:
        return [call.payload()]
    except Exception:
        raise
    except BaseException as error:
        # Such as the panic of a library: it must not end the thread.
        raise RuntimeError(f"a call ended its thread ({type(error).__name__})") from error


def _describe(value: object) -> Mapping[str, Attribute]:
    """What a span says of a call's value."""
    match value:
        case Answer():
            return {"decision": value.decision.value}
        case [Identification() as first, *others]:
            return {"items": 1 + len(others), "references": first.searched}
    return {}
