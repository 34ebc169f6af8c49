"""The registry held open behind the registrar's calls: its threads, its searches in batches beside
the writer, its watermark, and what of it metrics show."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from threading import Event
from time import monotonic, sleep
from typing import Any

import numpy as np
from structlog.typing import FilteringBoundLogger

from engine.batching import Batch, Batcher, Call, Lane, Refusals, share_out, weigh
from engine.errors import DeadlinePassed, GalleryBehind, RegistryError, SosieError, copy_for_one
from engine.matching.verification import FoundHolders, identify
from engine.registry.audit import verify_chain
from engine.registry.damage import find_damage
from engine.registry.enrollments import InFlight
from engine.registry.store import Reader, Store
from indexes.base import Floats, check_threshold, check_vectors
from indexes.gallery import Gallery
from schema import frozen
from schema.decisions import Comparison
from serving.deployment.backups import BackupManager
from serving.deployment.deployment import Deployment
from serving.errors import Busy, Interrupted
from serving.sweeps.manager import SweepManager
from serving.telemetry import metrics
from serving.telemetry.metrics import Meter

ROWS_AT_ONCE = 1024
"""Probes in a batch, where no single call brings more."""
_REFUSALS = Refusals(
    full=Busy("too many searches wait: try again in a second"),
    late=DeadlinePassed("the time ran out while the search waited"),
    closed=Interrupted("the gallery is being closed: try again in a moment"),
    ended=Interrupted("the searches have stopped and are begun again: ask again"),
)

Answers = list[FoundHolders]
_Search = tuple[Floats, float]
"""Rows, and the threshold of their search."""


class SearchQueue:
    """One thread that searches for all waiting calls, at most `capacity` probes; calls with one
    threshold share a pass over the gallery and one look-up of owners. A call that is cancelled or
    late is not searched for. `observe(probes, seconds)` is called for each batch."""

    def __init__(
        self,
        gallery: Gallery,
        registry: Reader,
        capacity: int,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._gallery = gallery
        self._registry = registry
        self.capacity = capacity
        self._queue: Batcher[_Search, Answers] = Batcher(
            self._search,
            [Lane(ROWS_AT_ONCE, capacity)],
            _REFUSALS,
            name="searches",
            observe=observe and (lambda batch, seconds: observe(weigh(batch), seconds)),
        )

    @property
    def queued(self) -> int:
        """The number of waiting probes."""
        return self._queue.queued()

    @property
    def is_alive(self) -> bool:
        """True where its thread lives: without it no waiting call is answered."""
        return self._queue.is_alive

    def submit(
        self, probes: Floats, threshold: float, timeout_s: float | None = None
    ) -> Future[Answers]:
        """The references at or above the threshold for each row of float32[n, d]: the best
        `MOST_CANDIDATES`, and how many there are. `Busy` at once where too many wait,
        `DeadlinePassed` for what waited too long; rows that are no unit vectors are refused here,
        and spoil no other call."""
        rows = check_vectors(probes, self._gallery.dim)
        return self._queue.submit(Call((rows, check_threshold(threshold)), len(rows), timeout_s))

    def close(self) -> None:
        """Answers what waits, then ends."""
        self._queue.close()

    def _search(self, batch: Batch[_Search, Answers]) -> list[Answers | Exception]:
        groups: dict[float, list[Call[_Search, Answers]]] = defaultdict(list)
        for call in batch:
            groups[call.payload[1]].append(call)
        results: dict[Call[_Search, Answers], Answers | Exception] = {}
        for threshold, group in groups.items():
            try:
                probes = np.concatenate([call.payload[0] for call in group])
                found = identify(
                    probes, self._gallery, self._registry, threshold=threshold, most=MOST_CANDIDATES
                )
                results |= zip(group, share_out(group, found), strict=True)
            except Exception as error:  # noqa: BLE001 - it belongs to those of this threshold
                results |= {call: copy_for_one(error) for call in group}
        return [results[call] for call in batch]


WARM_ROWS = (1, 64)
"""One probe and a batch of them are searched by different code."""


CATCH_UP_S, LOOK_EVERY_S = 0.5, 0.01


@frozen
class Watermark:
    """The sequences of store (None where unread) and gallery at one moment; equal where nothing is
    missing."""

    size: int
    sequence: int
    store_sequence: int | None
    read_at: float

    @property
    def is_behind(self) -> bool:
        return self.store_sequence is not None and self.store_sequence != self.sequence


class OpenRegistry:
    """The parts behind the calls: the lease held, the gallery at the watermark.
    `observe_search(probes, seconds)`: of each batch."""

    def __init__(
        self,
        deployment: Deployment,
        probes_waiting: int,
        observe_search: Callable[[int, float], None] | None = None,
    ) -> None:
        self.deployment = deployment
        self.store = deployment.store
        self.thresholds = deployment.thresholds
        """As they were at the start: `review` may follow the gallery."""
        self.registrar = deployment.registrar
        self.gallery = self.registrar.gallery
        self.searches = SearchQueue(self.gallery, self.store, probes_waiting, observe_search)
        self.sweeps = SweepManager(deployment)
        self.backups = BackupManager(deployment)
        self.in_flight = InFlight()
        self.search_turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Of each carrier, and of each of those who are none's: what one search told is counted
        before the next is answered, or those in flight would tell more than the bound."""
        self.case_closed = Event()
        """Set when a case was closed: erasures that waited for it may be done."""

    def warm(self) -> None:
        """One search of each kind, so that no caller waits for code that is compiled."""
        self.gallery.warm()
        for rows in WARM_ROWS:
            probes = np.zeros((rows, self.gallery.dim), np.float32)
            probes[:, 0] = 1
            self.searches.submit(probes, self.thresholds.review).result()

    def read_watermark(self) -> Watermark:
        """Reads both sequences; waits a little for a change that is committed and has not reached
        the gallery, and not for one that has: a silent shard may hold that for long."""
        before = self.gallery.look()
        try:
            stored = self.store.sequence()
        except RegistryError:
            return Watermark(before.size, before.sequence, None, monotonic())
        # A batch lies between its commit and its place in the gallery.
        give_up_at = monotonic() + CATCH_UP_S
        while (after := self.gallery.look()).sequence < stored and monotonic() < give_up_at:
            if after.coming == stored:
                # Answered to nobody yet: before its commit the store was where the gallery is.
                stored = after.sequence
                break
            sleep(LOOK_EVERY_S)
        # It has moved meanwhile: at some moment it stood where the store was.
        is_passed = before.sequence <= stored <= after.sequence
        sequence = stored if is_passed else after.sequence
        return Watermark(after.size, sequence, stored, monotonic())

    def stop(self) -> None:
        """Nothing is decided any more, on a gallery that may be a part of what it was."""
        if self.registrar.failure is None:
            self.registrar.stop(GalleryBehind("the gallery was lost: it is opened again"))

    def close(self, *, keep_shards: bool = False) -> None:
        """Answers who waits, keeps a snapshot where much has changed, gives back the lease."""
        with ExitStack() as closing:
            closing.callback(partial(self.deployment.close, keep_shards=keep_shards))
            closing.callback(self.searches.close)
            closing.callback(self.sweeps.close)
            closing.callback(self.backups.close)

    @property
    def failure(self) -> SosieError | None:
        """Why nothing is decided, or nothing searched, any more."""
        if self.registrar.failure is not None:
            return self.registrar.failure
        if not (self.registrar.is_alive and self.searches.is_alive):
            return RegistryError("a thread of the registry has ended: it is opened again")
        return None


def show_queues(meter: Meter, opened: OpenRegistry | None) -> None:
    """Shows how full the queues are; empty where nothing is open."""
    held = dict.fromkeys(("decisions", "probes", "audit"), (0, 0))
    if opened is not None:
        sizes = opened.registrar.config
        held["decisions"] = opened.registrar.queued, sizes.queue_size
        held["probes"] = opened.searches.queued, opened.searches.capacity
        held["audit"] = opened.registrar.audit_queued, sizes.audit_queue_size
    for queue, (depth, capacity) in held.items():
        meter.set(metrics.QUEUE_DEPTH, depth, queue)
        meter.set(metrics.QUEUE_CAPACITY, capacity, queue)


def show_state(meter: Meter, opened: OpenRegistry, mark: Watermark) -> None:
    """Shows queues, gallery size and lag, faults, and the newest sweep, if there is one."""
    show_queues(meter, opened)
    if mark.store_sequence is not None:
        meter.set(metrics.REFERENCES, mark.size)
        meter.set(metrics.SEQUENCE, mark.sequence)
        meter.set(metrics.STORE_SEQUENCE, mark.store_sequence)
    deployment, newest = opened.deployment, opened.sweeps.newest
    meter.set(metrics.COPIES_WANTING, deployment.snapshots.copies_wanting)
    meter.set(metrics.SEARCH_DEVICE_FAILED, float(opened.gallery.search_fault is not None))
    meter.set(metrics.MOVES_WANTING, deployment.snapshots.moves_wanting)
    meter.set(metrics.REMOVED_OVERDUE, deployment.overdue_s)
    if newest is not None:
        progress = newest.progress
        rate = deployment.calibration.fmr_at(newest.terms.threshold, Comparison.FUSED)
        expected = rate.times(progress.comparisons_total).value
        meter.set_state(metrics.SWEEP_STATE, newest.state)
        meter.set(metrics.SWEEP_PROGRESS, progress.share)
        meter.set(metrics.SWEEP_PAIRS, progress.pairs)
        meter.set(metrics.SWEEP_FALSE_PAIRS, expected)


PAUSE_S = 0.2
"""Between two pages of the daily examination of all rows."""


def examine_rows(store: Store, meter: Meter, log: FilteringBoundLogger) -> list[str]:
    """Looks through every row and the audit chain for what was altered; told by log and metric."""

    def pause(_done: int, _total: int) -> None:
        """Decisions go first."""
        sleep(PAUSE_S)

    found = find_damage(store, is_alone=False, progress=pause)
    chain = verify_chain(store, progress=pause)
    if not chain.intact:
        found.append(f"the audit chain is broken at entry {chain.first_bad}")
    meter.set(metrics.DAMAGE, len(found))
    if found:
        log.error("registry_damaged", found=found)
    return found


CLOSED = Interrupted("the service stops: ask again")


_OF_CALLS = Refusals(
    full=Busy("too many calls of this kind wait: try again in a second"),
    late=DeadlinePassed("the time ran out while the call waited: nothing was stored"),
    closed=CLOSED,
    ended=CLOSED,
)


Work = Callable[[], Any]


def open_pool(name: str, threads: int, waiting: int) -> Batcher[Work, Any]:
    """Threads for calls that block, each on its own."""
    return Batcher(_do_one, [Lane(1, waiting)], _OF_CALLS, name=name, workers=threads)


def _do_one(batch: Batch[Work, Any]) -> list[Any]:
    (call,) = batch
    try:
        return [call.payload()]
    except Exception:
        raise
    except BaseException as error:
        # Such as the panic of a library: it must not end the thread.
        raise RuntimeError(f"a call ended its thread ({type(error).__name__})") from error


MOST_CANDIDATES = 100
"""Most candidates listed for a probe: all of them may exceed one message."""
