"""The registrar as a service: opens the deployment in the background, and carries out calls."""

import asyncio
import inspect
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from threading import Condition
from time import monotonic
from typing import Any

from structlog.typing import FilteringBoundLogger

from engine.batching import Call
from engine.errors import (
    DeadlinePassed,
    GalleryBehind,
    LeaseLost,
    RegistryError,
    StorageFailed,
    StorageFull,
    WriterBusy,
)
from engine.matching.registrar import DecidedBatch, Observer
from engine.matching.requests import Answer
from engine.matching.verification import FoundHolders
from indexes.errors import IndexFault, ShardLost
from schema.phases import Phase
from serving.deployment.deployment import Deployment
from serving.errors import NotReady, describe
from serving.jobs.audit_export import Anchoring, AuditExport
from serving.jobs.periodic import ClockWatch, DailyRetention, LineSteps, PendingErasures
from serving.registrar.open_registry import (
    CLOSED,
    OpenRegistry,
    Watermark,
    examine_rows,
    open_pool,
    show_queues,
    show_state,
)
from serving.registrar.operations import GRACE_S, Operations, finish_by
from serving.registrar.protocol import OPERATIONS, CallContext, Reply, Status, presentable
from serving.settings.sections import ServeSettings
from serving.telemetry import metrics
from serving.telemetry.metrics import PHASE, Meter, show_set_aside
from serving.telemetry.traces import Attribute, Tracer
from serving.webhooks.keeper import DeliveryKeeper

LEASE_RETRY_S = 0.2
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
LOOK_EVERY_S = 0.5
STALE_S = 3.0
"""Age at which the last watermark says nothing of the store any more."""
OPEN = (Phase.READY, Phase.FULL, Phase.SILENT)
FULL = "the database has no room left: free space on its disk"
FULL_S = 5.0
"""How long that is said after a refusal: only the next write tells whether it is over."""
SILENT = "the database does not answer: check that it runs, and the network to it"
LOOKS_BEHIND = 2
"""Looks in a row that find the gallery behind: then another process writes."""


class Lifecycle:
    """Thread that keeps the registry open; `_opened` is None whenever it is not whole. It waits for
    the writer's lease as long as it takes, as its holder may be dying; after other failures it
    tries again, with growing pauses."""

    def __init__(
        self,
        open_deployment: Callable[[], Deployment],
        probes_waiting: int,
        meter: Meter,
        log: FilteringBoundLogger,
    ) -> None:
        self._open_deployment = open_deployment
        self._probes_waiting = probes_waiting
        self._meter = meter
        self._log = log
        self._lock = threading.RLock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._is_draining = False
        self._are_shards_kept: Callable[[], bool] = lambda: True
        self._phase, self._detail = Phase.STARTING, "the service starts"
        self._boot_id = ""
        self._opened: OpenRegistry | None = None
        self._anchoring: Anchoring | None = None
        self._mark: Watermark | None = None
        self._upkeep_fault: str | None = None
        self._store_read: tuple[float, int] | None = None
        self._behind = 0
        self._full_until: float | None = None
        self._enter(Phase.STARTING, self._detail)
        self._thread = threading.Thread(target=self._serve, name="lifecycle", daemon=True)
        self._thread.start()

    def require(self) -> OpenRegistry:
        """The deployment that the calls work on; `NotReady` where it is not open."""
        with self._lock:
            if self._opened is not None and self._phase in OPEN:
                return self._opened
            raise NotReady(f"the service is not ready ({self._phase.value}): try again")

    def has_lost(self, opened: OpenRegistry) -> bool:
        """True where this is not what the calls work on any more."""
        return self._opened is not opened

    def status(self) -> Status:
        """The status as of the last look: costs nothing, and answers in every phase."""
        with self._lock:
            mark, faults = None, {}
            if self._anchoring is not None:
                faults["anchor"] = self._anchoring.fault
            if self._opened is not None:
                mark = self._mark
                faults["device"] = self._opened.gallery.search_fault
                faults["upkeep"] = self._upkeep_fault
            stored = self._store_read
            if stored is not None and monotonic() - stored[0] >= STALE_S:
                stored = None
            if stored is None and self._phase in OPEN:
                # The next look waits for an answer still.
                self._enter(Phase.SILENT, SILENT)
            return Status(
                self._phase,
                self._detail,
                self._boot_id,
                gallery_size=0 if mark is None else mark.size,
                sequence=None if mark is None else mark.sequence,
                store_sequence=None if stored is None else stored[1],
                faults={name: told for name, told in faults.items() if told is not None},
            )

    def lose(self, opened: OpenRegistry, error: Exception) -> None:
        """Takes it out of use, closes it, and opens it again."""
        with self._lock:
            if self._opened is not opened:
                return
            self._opened = None
            fault = describe(error)
            self._log.error("registry_lost", code=fault.code, error=type(error).__name__)
            if not self._is_draining:
                self._enter(Phase.REPLAYING, f"it is opened again: {fault.message}")
        opened.stop()
        self._wake.set()

    def note_full(self) -> None:
        """A write was refused since there was no room."""
        with self._lock:
            self._full_until = monotonic() + FULL_S
            if self._phase is Phase.READY:
                self._enter(Phase.FULL, FULL)

    def drain(self) -> None:
        """Refuses new calls."""
        with self._lock:
            self._is_draining = True
            self._enter(Phase.DRAINING, "the service stops")

    def close(self, keep_shards: Callable[[], bool]) -> None:
        """Closes what is open, and ends; what waits there is answered. Asked at the last moment,
        `keep_shards` says whether the shards of the gallery stay for another process."""
        self.drain()
        self._are_shards_kept = keep_shards
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _serve(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._closing.is_set():
            try:
                opened = self._open()
            except Exception as error:  # noqa: BLE001 - the service must outlive any of them
                self._explain(error)
                self._closing.wait(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                continue
            if opened is None:
                break
            retry_s = FIRST_RETRY_S
            deployment = opened.deployment
            anchoring = Anchoring.of(deployment, self._meter, self._log)
            examine = partial(examine_rows, deployment.store, self._meter, self._log)
            tell_overdue = partial(self._meter.set, metrics.ERASURES_OVERDUE)
            tell_steps = partial(self._meter.set, metrics.LINE_STEPS_OVERDUE)
            rules = deployment.line_rules
            watch = ClockWatch.of(deployment)
            show_set_aside(deployment.vault, self._meter)
            with (
                DailyRetention(deployment, self._log, watch, self._meter, examine),
                PendingErasures(deployment, opened.case_closed, self._log, watch, tell_overdue),
                DeliveryKeeper(deployment, self._meter, self._log),
                LineSteps(opened.registrar, deployment.store, rules, self._log, watch, tell_steps),
                AuditExport.of(deployment, self._meter, self._log),
                anchoring,
            ):
                self._anchoring = anchoring
                self._tend(opened)
            self._anchoring = None
            self._close(opened)
            # Or two galleries would be in memory while the next is opened.
            del opened, deployment, anchoring, examine, watch

    def _open(self) -> OpenRegistry | None:
        """None where the service is closed meanwhile."""
        deployment = self._open_deployment()
        with ExitStack() as undo:
            undo.callback(_ignoring_errors(lambda: self._leave(deployment.close)))
            if not self._take_lease(deployment):
                return None
            self._enter(Phase.REPLAYING, "the gallery is brought to the state of the store")
            counting = Counting(self._meter)
            deployment.observer = counting
            deployment.tell = partial(self._enter, Phase.REPLAYING)
            opened = OpenRegistry(deployment, self._probes_waiting, counting.observe_search)
            undo.callback(opened.searches.close)
            opened.warm()
            undo.callback(opened.sweeps.close)
            opened.sweeps.open()
            self._admit(opened)
            undo.pop_all()
        return opened

    def _take_lease(self, deployment: Deployment) -> bool:
        while not self._closing.is_set():
            try:
                _ = deployment.writer
            except WriterBusy as busy:
                self._enter(Phase.WAITING, str(busy))
                self._read_store(deployment)
                self._closing.wait(LEASE_RETRY_S)
            else:
                return True
        return False

    def _admit(self, opened: OpenRegistry) -> None:
        mark = opened.read_watermark()
        with self._lock:
            self._opened = opened
            self._behind = 0
            self._boot_id = uuid.uuid4().hex
            self._keep(mark)

    def _tend(self, opened: OpenRegistry) -> None:
        """Looks after what is open until it is lost or the service closes."""
        while not self._closing.is_set() and self._opened is opened:
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
            if self._opened is not opened:
                return
            try:
                self._look(opened)
            except Exception as error:  # noqa: BLE001 - what cannot be looked at is lost
                self.lose(opened, error)

    def _look(self, opened: OpenRegistry) -> None:
        if opened.failure is not None:
            raise opened.failure
        with suppress(StorageFailed):
            # Or only the next audited call would meet it.
            opened.store.check_head()
        mark = opened.read_watermark()
        with self._lock:
            if self._opened is opened:
                self._keep(mark)
        show_state(self._meter, opened, mark)
        self._upkeep_fault = opened.deployment.upkeep_fault
        self._meter.set(metrics.UPKEEP_FAILED, float(self._upkeep_fault is not None))
        self._meter.set_state(PHASE, self._phase)
        self._behind = self._behind + 1 if mark.is_behind else 0
        if self._behind >= LOOKS_BEHIND:
            raise GalleryBehind("another process has changed the registry")

    def _close(self, opened: OpenRegistry) -> None:
        with self._lock:
            self._opened = self._mark = None
        try:
            self._leave(opened.close)
        except Exception as error:  # noqa: BLE001 - it is gone, and the next is to be opened
            self._log.warning("close_failed", error=type(error).__name__)
        show_queues(self._meter, None)

    def _leave(self, close: Callable[..., None]) -> None:
        """Closes; the shards of the gallery stay for the next opening, unless there is none."""
        close(keep_shards=not self._closing.is_set() or self._are_shards_kept())

    def _keep(self, mark: Watermark) -> None:
        self._mark = mark
        stored = mark.store_sequence
        if stored is None:
            self._store_read = None
            self._enter(Phase.SILENT, SILENT)
            return
        self._store_read = (mark.read_at, stored)
        if self._is_full():
            self._enter(Phase.FULL, FULL)
        elif self._phase is not Phase.READY:
            self._enter(Phase.READY, f"{mark.size} references")

    def _is_full(self) -> bool:
        if self._full_until is None or self._opened is None:
            return False
        if monotonic() > self._full_until and self._opened.store.has_room:
            self._full_until = None
        return self._full_until is not None

    def _read_store(self, deployment: Deployment) -> None:
        """While the lease is waited for, whether the store is there is all there is to say."""
        with self._lock:
            read = self._store_read
        if read is not None and monotonic() - read[0] < LOOK_EVERY_S:
            return
        try:
            found = (monotonic(), deployment.store.sequence())
        except RegistryError:
            found = None
        with self._lock:
            self._store_read = found

    def _explain(self, error: Exception) -> None:
        fault = describe(error)
        self._log.error("open_failed", code=fault.code, error=type(error).__name__)
        with self._lock:
            self._store_read = None
            if self._is_draining:
                return
            # A node of the cluster that is being replaced is waited for; all else is a failure.
            phase = Phase.REPLAYING if isinstance(error, ShardLost) else Phase.FAILED
            self._enter(phase, fault.message)

    def _enter(self, phase: Phase, detail: str) -> None:
        with self._lock:
            if self._is_draining and phase is not Phase.DRAINING:
                return
            has_changed = (phase, detail) != (self._phase, self._detail) or not self._boot_id
            if not self._boot_id:
                self._boot_id = uuid.uuid4().hex
            self._phase, self._detail = phase, detail
            self._meter.set_state(PHASE, phase)
        if has_changed:
            self._log.info("phase", phase=phase.value, detail=detail)


def _ignoring_errors(close: Callable[[], None]) -> Callable[[], None]:
    def attempt() -> None:
        with suppress(Exception):
            close()

    return attempt


READER_THREADS, READS_WAITING = 8, 128
ERASURES_WAITING = 16
SPANS = {"enroll": "judge", "identify": "search", "note": "audit"}
"""Names of calls in traces, where they differ from the method's."""


class RegistrarService:
    """Carries out calls concurrently, and only on a whole gallery: after a loss (lease, shard, step
    with the store) the deployment is opened again, and calls are `NotReady` meanwhile."""

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
        self._lifecycle = Lifecycle(open_deployment, settings.probes_waiting, meter, log)

    async def status(self) -> Status:
        """The status in every phase; at most a second old."""
        return self._lifecycle.status()

    def require(self) -> OpenRegistry:
        """The parts that the calls work on; `NotReady` where it is not open."""
        return self._lifecycle.require()

    async def perform(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        """Carries out a public method of `Operations`; errors are values."""
        assert method in OPERATIONS, "a caller of ours asks for what it knows"
        opened: OpenRegistry | None = None
        span = self._tracer.span(SPANS.get(method, method), context.traceparent)
        with self._counted(), span as traced:
            try:
                opened = self._lifecycle.require()
                value = await self._carry_out(opened, method, arguments, context)
                traced.note(**_describe(value))
                return Reply(value)
            except Exception as raised:  # noqa: BLE001 - errors cross the hop as values
                error = presentable(raised if opened is None else self._judge(opened, raised))
                self._report(method, raised, context)
                traced.fail(error.code)
                return Reply(error=error)

    async def drain(
        self, timeout_s: float, keep_shards: Callable[[], bool] = lambda: False
    ) -> None:
        """Refuses new calls, ends those that go on, and closes the deployment; the gallery's shards
        too, unless another process is to have them (`Lifecycle.close`)."""
        await asyncio.to_thread(self._drain, timeout_s, keep_shards)

    def close(self) -> None:
        """The same without waiting for calls that are carried out."""
        self._drain(0, lambda: False)

    def _drain(self, timeout_s: float, keep_shards: Callable[[], bool]) -> None:
        self._lifecycle.drain()
        with self._ended:
            self._ended.wait_for(lambda: self._ongoing == 0, timeout_s)
        self._lifecycle.close(keep_shards)
        for pool in (self._readers, self._erasers):
            pool.fail(CLOSED)
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
        future = pool.submit(Call(partial(operation, *arguments), 1, left_s))
        return await finish_by(future, expires_at, give_up=call.give_up, grace_s=GRACE_S)

    def _judge(self, opened: OpenRegistry, error: Exception) -> Exception:
        """Opens the registry again where an error says that it is not whole; what to answer."""
        if opened.failure is not None:
            self._lifecycle.lose(opened, opened.failure)
        elif isinstance(error, ShardLost | GalleryBehind):
            self._lifecycle.lose(opened, error)
        elif isinstance(error, StorageFull):
            self._lifecycle.note_full()
        if self._lifecycle.has_lost(opened) and isinstance(error, RegistryError | IndexFault):
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


def _describe(value: object) -> Mapping[str, Attribute]:
    """Attributes of the span of a call, from its value."""
    match value:
        case Answer():
            return {"decision": value.decision.value}
        case [FoundHolders() as first, *others]:
            return {"items": 1 + len(others), "references": first.searched}
    return {}


class Counting(Observer):
    """Counts what the registrar decides and keeps, and searches."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def observe_batch(self, batch: DecidedBatch) -> None:
        self._meter.observe(metrics.BATCH_SIZE, len(batch.outcomes), "judge")
        self._meter.observe(metrics.STAGE_SECONDS, batch.judge_s, "judge")
        self._meter.observe(metrics.STAGE_SECONDS, batch.publish_s, "publish")
        for outcome in batch.outcomes:
            if isinstance(outcome, Answer) and not outcome.is_repeated:
                self._meter.add(metrics.DECISIONS, outcome.decision)
                for reason in outcome.reasons:
                    self._meter.add(metrics.REASONS, reason)

    def observe_search(self, probes: int, seconds: float) -> None:
        self._meter.observe(metrics.BATCH_SIZE, probes, "search")
        self._meter.observe(metrics.STAGE_SECONDS, seconds, "search")

    def observe_audit(self, entries: int, seconds: float) -> None:
        self._meter.observe(metrics.BATCH_SIZE, entries, "audit")
        self._meter.observe(metrics.STAGE_SECONDS, seconds, "audit")
