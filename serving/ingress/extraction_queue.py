"""The threads of an ingress that turn photographs that wait into samples."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from engine.errors import DeadlinePassed, ImageError, SosieError, copy_for_one
from engine.faces.extractor import Extracted
from engine.matching.requests import Sample
from engine.matching.sampling import make_samples
from engine.registry.vault import Vault
from serving.errors import Busy, NotReady, ServiceRefusal
from serving.telemetry.metrics import (
    BATCH_SIZE,
    QUEUE_CAPACITY,
    QUEUE_DEPTH,
    STAGE_SECONDS,
    Meter,
)

# The calls whose photographs wait in an ingress: pairs of a counter, and batches.

BATCH_PHOTOGRAPHS = 16
PAIR = 2
"""No enrollment and no verification brings more photographs."""


class WaitingCall:
    """The photographs of one request: those before `taken` are with a worker, or done."""

    __slots__ = (
        "deadline", "future", "images", "loop", "outcomes", "settled", "taken", "unsettled",
    )  # fmt: skip

    def __init__(self, images: Sequence[bytes], deadline: float | None) -> None:
        self.images = images
        self.deadline = deadline
        self.taken = 0
        self.unsettled = len(images)
        self.settled = False
        self.outcomes: list[Sample | ImageError | None] = [None] * len(images)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Sample | ImageError]] = self.loop.create_future()

    @property
    def waiting(self) -> int:
        return 0 if self.settled else len(self.images) - self.taken

    @property
    def is_batch(self) -> bool:
        return len(self.images) > PAIR

    def settle(self, error: Exception | None = None) -> None:
        """Answers, on the caller's loop; whoever is first wins."""
        if self.settled:
            return
        self.settled = True
        try:
            self.loop.call_soon_threadsafe(self._resolve, error)
        except RuntimeError:
            # The loop has been closed: nobody waits any more.
            return

    def _resolve(self, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
            return
        outcomes = [one for one in self.outcomes if one is not None]
        assert len(outcomes) == len(self.images)
        self.future.set_result(outcomes)


Taken = list[tuple[WaitingCall, int]]
"""A batch: the place of each photograph in its call."""


class WaitingRoom:
    """Who waits, in two lines that take turns; not safe for several threads at once.

    At most `capacity` photographs have a place; those of batches together half of them, and one
    batch a quarter, however many it brings, so that neither one batch nor all of them keep the
    counters out. While both lines wait, a pair stands behind one batch's worth at most.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lines: dict[bool, deque[WaitingCall]] = {False: deque(), True: deque()}
        self._held = {False: 0, True: 0}
        self._was_batch = False

    def __bool__(self) -> bool:
        return any(self._lines.values())

    @property
    def held(self) -> int:
        """How many places are taken."""
        return sum(self._held.values())

    def calls(self) -> list[WaitingCall]:
        """All of which something waits."""
        return [call for line in self._lines.values() for call in line]

    def admit(self, call: WaitingCall) -> None:
        """`Busy` where its kind, or all together, hold too many places."""
        places = self._places(call)
        kind = call.is_batch
        # Of the least of all queues, a batch may hold whatever there is.
        most = max(places, self._capacity // 2) if kind else self._capacity
        if self.held + places > self._capacity or self._held[kind] + places > most:
            raise Busy("too many photographs wait here: ask again later")
        self._lines[kind].append(call)
        self._held[kind] += places

    def drop(self, call: WaitingCall, error: Exception | None) -> None:
        """What is left of a call that nobody waits for is not extracted."""
        if call.settled:
            return
        before = self._places(call)
        if call in self._lines[call.is_batch]:
            self._lines[call.is_batch].remove(call)
        call.settle(error or too_late())
        self._held[call.is_batch] -= before

    def take(self, batch: Taken) -> None:
        """Adds up to a batch of photographs: of the line whose turn it is, those that came first.

        Room that batches leave is for pairs; a batch beside pairs would make them wait.
        """
        self._was_batch = bool(self._lines[True]) and not (self._was_batch and self._lines[False])
        if self._was_batch:
            self._take_from(True, batch)
        self._take_from(False, batch)

    def _take_from(self, kind: bool, batch: Taken) -> None:
        line = self._lines[kind]
        now = time.monotonic()
        for _ in range(len(line)):
            room = BATCH_PHOTOGRAPHS - len(batch)
            if room == 0:
                break
            if not kind and line[0].waiting > room:
                break  # half a pair would wait for the other
            call = line.popleft()
            before = self._places(call)
            if call.deadline is not None and call.deadline <= now:
                call.settle(too_late())
            else:
                share = min(room, call.waiting)
                batch += [(call, call.taken + number) for number in range(share)]
                call.taken += share
                if share == BATCH_PHOTOGRAPHS and call.waiting:
                    line.append(call)
                elif call.waiting:
                    # Cut by the end of the batch alone: its turn is not over.
                    line.appendleft(call)
            self._held[kind] += self._places(call) - before

    def _places(self, call: WaitingCall) -> int:
        # Two at least: one of a pair would wait for the other.
        return min(call.waiting, max(PAIR, self._capacity // 4))


def too_late() -> DeadlinePassed:
    """What a call is told whose time is over."""
    return DeadlinePassed("the time of this request ran out while its photographs waited")


DISTRUST_S = 5.0
"""After an embedder elsewhere gave no answer, for so long, or until it gives one."""
_QUEUE = "photographs"
_STAGE = "extract"


class PhotographExtractor(Protocol):
    """What the queue asks of an extractor."""

    def extract(self, images: Sequence[bytes]) -> list[Extracted]:
        """One Extraction or ImageError for each image file, in their order."""
        ...


class FacesQueue:
    """The `Faces` of an ingress: bounded, extracted in whatever gathered, as `WaitingRoom` says.

    After each batch's worth a long call stands at the end again. One worker suffices where
    extraction keeps the cores busy; more help where it waits for an embedder elsewhere. With
    `with_crops` each sample has its aligned face, for enrollments that keep it.
    """

    def __init__(
        self,
        extractor: PhotographExtractor,
        vault: Vault,
        *,
        capacity: int,
        meter: Meter,
        log: FilteringBoundLogger,
        workers: int = 1,
        with_crops: bool = False,
    ) -> None:
        self._extractor = extractor
        self._vault = vault
        self._with_crops = with_crops
        self._capacity = capacity
        self._meter = meter
        self._log = log
        self._room = WaitingRoom(capacity)
        self._refused_at: float | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"faces-{number}", daemon=True)
            for number in range(workers)
        ]
        self._working = workers
        for thread in self._threads:
            thread.start()

    async def sample(
        self, images: Sequence[bytes], timeout_s: float | None = None
    ) -> list[Sample | ImageError]:
        """A sample of each image file or what is wrong with it, in their order.

        `Busy` at once where too many wait, `NotReady` once it closes, `DeadlinePassed` after
        `timeout_s`. A call that is cancelled is not extracted any more.
        """
        if not images:
            return []
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        call = WaitingCall(images, deadline)
        self._admit(call)
        timer = None
        if timeout_s is not None:
            timer = call.loop.call_later(max(timeout_s, 0.0), self._drop, call, too_late())
        try:
            return await call.future
        finally:
            if timer is not None:
                timer.cancel()
            self._drop(call, None)

    def close(self, timeout_s: float | None = None) -> None:
        """Takes no more, and returns when what waited is answered.

        Not to be called on the event loop that a remote embedder is reached by.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)

    @property
    def is_closing(self) -> bool:
        """True once it takes no more."""
        return self._closing

    @property
    def is_whole(self) -> bool:
        """Whether every worker lives; one that has ended does not come back in this process."""
        return self._working == len(self._threads)

    @property
    def is_alive(self) -> bool:
        """Whether it is whole, and an embedder elsewhere answers as far as one knows."""
        refused_at = self._refused_at
        is_refused = refused_at is not None and time.monotonic() - refused_at < DISTRUST_S
        return self.is_whole and not is_refused

    def _admit(self, call: WaitingCall) -> None:
        with self._changed:
            if self._closing or not self._working:
                raise NotReady("no photographs are taken here any more: ask another replica")
            self._room.admit(call)
            self._show_queue()
            self._changed.notify()

    def _drop(self, call: WaitingCall, error: Exception | None) -> None:
        with self._changed:
            if not call.settled:
                self._room.drop(call, error)
                self._show_queue()

    def _show_queue(self) -> None:
        self._meter.set(QUEUE_DEPTH, self._room.held, _QUEUE)
        self._meter.set(QUEUE_CAPACITY, self._capacity, _QUEUE)

    def _work(self) -> None:
        is_open = True
        try:
            while is_open:
                batch: Taken = []
                try:
                    is_open = self._take(batch)
                    if batch:
                        self._extract(batch)
                except Exception as error:  # noqa: BLE001 - the thread must live on
                    self._fail(batch, error)
        except BaseException:
            self._end_worker(batch)
            raise

    def _take(self, batch: Taken) -> bool:
        """Waits for photographs and adds them to the batch; False once closed and empty."""
        with self._changed:
            while not self._room and not self._closing:
                self._changed.wait()
            if not self._room:
                return False
            self._room.take(batch)
            self._show_queue()
        return True

    def _extract(self, batch: Taken) -> None:
        images = [call.images[place] for call, place in batch]
        start = time.perf_counter()
        extracted = self._extractor.extract(images)
        samples = make_samples(images, extracted, self._vault, with_crops=self._with_crops)
        self._meter.observe(STAGE_SECONDS, time.perf_counter() - start, _STAGE)
        self._meter.observe(BATCH_SIZE, len(batch), _STAGE)
        self._refused_at = None
        with self._changed:
            for (call, place), sample in zip(batch, samples, strict=True):
                call.outcomes[place] = sample
                call.unsettled -= 1
                if call.unsettled == 0:
                    call.settle()

    def _end_worker(self, batch: Taken) -> None:
        """Answers those whose worker ends, and all who wait where it was the last."""
        with self._changed:
            self._working -= 1
            left = {id(call): call for call, _ in batch}
            if not self._working:
                left |= {id(call): call for call in self._room.calls()}
        for call in left.values():
            self._drop(call, NotReady("photographs are not looked at here: ask another replica"))

    def _fail(self, batch: Taken, error: Exception) -> None:
        if isinstance(error, ServiceRefusal):
            self._refused_at = time.monotonic()
        is_foreseen = isinstance(error, SosieError | ServiceRefusal)
        behind = error.__cause__ if is_foreseen else error
        if behind is not None:
            # By type alone: its text may hold anything.
            self._log.error("extraction failed", kind=type(behind).__name__, count=len(batch))
        for call in {id(call): call for call, _ in batch}.values():
            self._drop(call, copy_for_one(error))
