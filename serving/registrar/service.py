"""The registrar as a service: opens itself in the background, and carries out the desk's calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Condition, Lock
from time import monotonic
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from engine.errors import DeadlinePassed, GalleryBehind, LeaseLost, RegistryError, SosieError
from engine.matching.identification import Identification
from engine.matching.registrar import BoundedRunner
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.write_queue import Outcome
from engine.registry.records import AuditEntry
from indexes.errors import IndexFault, ShardLost
from serving.compose import Deployment
from serving.errors import Busy, Interrupted, NotReady, describe
from serving.registrar.lifecycle import Lifecycle
from serving.registrar.operations import OpenRegistry
from serving.registrar.protocol import (
    ABOUT_FRAUD,
    OPERATIONS,
    QUEUED,
    CallContext,
    Probes,
    Reply,
    Status,
    Turn,
    find_context,
    presentable,
)
from serving.settings import ServeSettings
from serving.telemetry.metrics import Meter
from serving.telemetry.traces import Attribute, Tracer

# How a coroutine waits for work in a thread: until its deadline, and not a moment for a leaver.

T = TypeVar("T")

GRACE_S = 2.0
"""How much longer work may take that had begun when its time ran out."""


async def finish_by(
    future: Future[T],
    expires_at: float,
    *,
    give_up: Callable[[], object] | None = None,
    tell: Callable[[T], object] | None = None,
    grace_s: float = 0.0,
) -> T:
    """The future's result. `expires_at` is by the monotonic clock.

    A caller that is cancelled, or out of time, cancels work that has not begun, and calls
    `give_up`: then it is `DeadlinePassed`. What has begun is waited for `grace_s` longer, and is
    `Interrupted` then: it goes on, and may take effect. `tell` hears the result all the same.
    """
    wrapped = asyncio.wrap_future(future)

    def hear(ended: asyncio.Future[T]) -> None:
        # Asks for the error in any case, since whoever has left does not.
        if not ended.cancelled() and ended.exception() is None and tell is not None:
            tell(ended.result())

    wrapped.add_done_callback(hear)
    try:
        await asyncio.wait((wrapped,), timeout=max(0.0, expires_at - monotonic()))
        if not wrapped.done():
            if future.cancel():
                raise DeadlinePassed("the time ran out while the call waited: nothing was stored")
            if give_up is not None:
                give_up()
            await asyncio.wait((wrapped,), timeout=grace_s)
    except asyncio.CancelledError:
        future.cancel()
        if give_up is not None:
            give_up()
        raise
    return _read_result(wrapped)


def _read_result(wrapped: asyncio.Future[T]) -> T:
    if wrapped.cancelled():
        raise Interrupted("the service stops: ask again")
    if not wrapped.done():
        raise Interrupted(
            "the time ran out while the call was carried out: "
            "ask again, with the same Idempotency-Key if it has one"
        )
    return wrapped.result()


# Threads that carry out calls, and a bound on how many calls wait for one.


class Clerks:
    """A pool of threads that refuses, with `Busy`, what would wait behind too many others."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._places = threads + waiting
        self._lock = Lock()
        self._taken = 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Until it begins the work may be cancelled."""
        with self._lock:
            if self._taken >= self._places:
                raise Busy("too many calls of this kind wait: try again in a second")
            self._taken += 1
        try:
            future = self._pool.submit(work)
        except BaseException:
            self._leave()
            raise
        future.add_done_callback(self._leave)
        return future

    def close(self) -> None:
        """Ends the threads after the work that runs; what waits is cancelled."""
        self._pool.shutdown(cancel_futures=True)

    def _leave(self, _done: Future[Any] | None = None) -> None:
        with self._lock:
            self._taken -= 1


READER_THREADS, READS_WAITING = 8, 128
ERASURES_WAITING = 16
SPANS = {"enroll": "judge", "identify": "search", "note": "audit"}
"""How traces name what a call does here, where its own name does not say it."""


class MatchService:
    """Every call of a `Desk`, beside one another; none is answered but from a whole gallery.

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
        self._readers = Clerks("reader", READER_THREADS, READS_WAITING)
        # One at a time, since each waits for the snapshot of the one before.
        self._erasers = Clerks("eraser", 1, ERASURES_WAITING)
        self._ended = Condition()
        self._ongoing = 0
        self._life = Lifecycle(open_deployment, settings.probes_waiting, meter, log)

    async def status(self) -> Status:
        """How far it is, in every phase; at most a second old."""
        return self._life.status()

    async def perform(self, method: str, arguments: tuple[Any, ...]) -> Reply:
        """`method` is one of `replies.OPERATIONS`, `arguments` are those of the `Desk`."""
        assert method in OPERATIONS, "a caller of ours asks for what it knows"
        opened: OpenRegistry | None = None
        context = find_context(arguments)
        traceparent = None if context is None else context.traceparent
        span = self._tracer.span(SPANS.get(method, method), traceparent)
        with self._counted(), span as traced:
            try:
                opened = self._life.require()
                value = await self._carry_out(opened, method, arguments)
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
        self._readers.close()
        self._erasers.close()

    async def _carry_out(
        self, opened: OpenRegistry, method: str, arguments: tuple[Any, ...]
    ) -> Any:
        if method in QUEUED:
            queue: Callable[..., Awaitable[Any]] = getattr(self, f"_{method}")
            return await queue(opened, *arguments)
        *given, context = arguments
        clerk = opened.fraud if method in ABOUT_FRAUD else opened
        work = partial(getattr(clerk, method), *given)
        clerks = self._erasers if method == "erase" else self._readers
        return await self._work(opened, context, work, clerks)

    async def _enroll(
        self, opened: OpenRegistry, request: EnrollmentRequest, context: CallContext
    ) -> Answer:
        started = monotonic()
        expires_at = self._expiry(context.timeout_s)
        future = opened.registrar.submit(request, timeout_s=expires_at - started)
        tell = partial(self._tell_decided, context, started)
        outcome = await finish_by(future, expires_at, tell=tell, grace_s=GRACE_S)
        if isinstance(outcome, SosieError):
            raise outcome
        return outcome

    async def _identify(
        self, opened: OpenRegistry, probes: Probes, threshold: float, context: CallContext
    ) -> list[Identification]:
        expires_at = self._expiry(context.timeout_s)
        future = opened.searches.submit(probes, threshold, expires_at - monotonic())
        answers = await finish_by(future, expires_at)
        with self._tracer.span("audit"):
            await finish_by(opened.scribe.note([_entry_of(answers, context)]), expires_at)
        return answers

    async def _note(
        self, opened: OpenRegistry, entries: Sequence[AuditEntry], context: CallContext
    ) -> None:
        expires_at = self._expiry(context.timeout_s)
        await finish_by(opened.scribe.note(entries), expires_at)

    async def _work(
        self,
        opened: OpenRegistry,
        context: CallContext,
        perform: Callable[[Turn], Any],
        clerks: Clerks,
    ) -> Any:
        """Has a call that blocks carried out by a thread, within its time."""
        expires_at = self._expiry(context.timeout_s)
        turn = Turn(context, BoundedRunner(opened.registrar, expires_at - monotonic()), expires_at)
        future = clerks.submit(partial(perform, turn))
        give_up = turn.runner.give_up
        return await finish_by(future, expires_at, give_up=give_up, grace_s=GRACE_S)

    def _expiry(self, timeout_s: float | None) -> float:
        given_s = self._settings.request_timeout_s if timeout_s is None else timeout_s
        if given_s <= 0:
            raise DeadlinePassed("the time ran out on the way: nothing was stored")
        return monotonic() + given_s

    def _judge(self, opened: OpenRegistry, error: Exception) -> Exception:
        """Opens the registry again where an error says that it is not whole; what to answer."""
        if opened.failure is not None:
            self._life.lose(opened, opened.failure)
        elif isinstance(error, ShardLost | GalleryBehind):
            self._life.lose(opened, error)
        if self._life.has_lost(opened) and isinstance(error, RegistryError | IndexFault):
            return LeaseLost("the registry was closed under the call")
        return error

    def _tell_decided(self, context: CallContext, started: float, outcome: Outcome) -> None:
        if isinstance(outcome, Answer):
            self._log.info(
                "decided",
                enrollment_id=outcome.enrollment_id,
                decision=outcome.decision.value,
                reasons=[reason.value for reason in outcome.reasons],
                is_repeated=outcome.is_repeated,
                correlator=context.correlator,
                ms=round(1000 * (monotonic() - started), 1),
            )

    def _report(self, method: str, error: Exception, context: CallContext | None) -> None:
        fault = describe(error)
        if fault.status >= 500 and not isinstance(error, NotReady | DeadlinePassed):
            # The type and the code alone: a text may hold anything.
            self._log.error(
                "call_failed",
                method=method,
                code=fault.code,
                error=type(error).__name__,
                correlator=None if context is None else context.correlator,
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


def _entry_of(answers: Sequence[Identification], context: CallContext) -> AuditEntry:
    """One entry for the call: how many asked, how much was shown, and of whom."""
    shown = [candidate for answer in answers for candidate in answer.candidates]
    documents = sorted({candidate.document_id for candidate in shown})
    detail = {"probes": len(answers), "candidates": len(shown), "documents": documents}
    return AuditEntry(context.actor, "faces.identified", "gallery", detail)


def _describe(value: object) -> Mapping[str, Attribute]:
    """What a span says of a call's value."""
    match value:
        case Answer():
            return {"decision": value.decision.value}
        case [Identification() as first, *others]:
            return {"items": 1 + len(others), "references": first.searched}
    return {}
