"""The photographs that wait in an ingress, and the thread that turns them into samples."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from engine.errors import DeadlinePassed, ImageError, SosieError
from engine.faces.extractor import Extracted
from engine.matching.requests import Sample
from engine.matching.sampling import make_samples
from engine.registry.vault import Vault
from serving.refusals import Busy, NotReady, ServiceRefusal
from serving.telemetry.meter import Meter

BATCH_PHOTOGRAPHS = 16
_QUEUE = "photographs"
_STAGE = "extract"


class PhotographExtractor(Protocol):
    """What the queue asks of an extractor."""

    def extract(self, images: Sequence[bytes]) -> list[Extracted]:
        """One Extraction or ImageError for each image file, in their order."""
        ...


class _Call:
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


_Taken = list[tuple[_Call, int]]
"""A batch: the place of each photograph in its call."""


class FacesQueue:
    """The `Faces` of an ingress: bounded, in order of arrival, extracted in whatever gathered.

    At most `capacity` photographs wait, and a call holds half of the places at most, however many
    it brings. After each batch's worth a call stands at the end again, so that a long one delays
    nobody by more than a batch. One worker suffices where extraction keeps the cores busy; more
    help where it waits for an embedder elsewhere.
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
    ) -> None:
        self._extractor = extractor
        self._vault = vault
        self._capacity = capacity
        self._meter = meter
        self._log = log
        self._calls: deque[_Call] = deque()
        self._held = 0
        self._closing = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"faces-{number}", daemon=True)
            for number in range(workers)
        ]
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
        call = _Call(images, deadline)
        self._admit(call)
        timer = None
        if timeout_s is not None:
            timer = call.loop.call_later(max(timeout_s, 0.0), self._drop, call, _too_late())
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

    def _admit(self, call: _Call) -> None:
        with self._changed:
            if self._closing:
                raise NotReady("the service stops: ask again, it will be another replica")
            places = self._places(call)
            if self._held + places > self._capacity:
                raise Busy("too many photographs wait here: ask again later")
            self._calls.append(call)
            self._hold(places)
            self._changed.notify()

    def _drop(self, call: _Call, error: Exception | None) -> None:
        """What is left of a call that nobody waits for is not extracted."""
        with self._changed:
            if call.settled:
                return
            before = self._places(call)
            if call in self._calls:
                self._calls.remove(call)
            call.settle(error or _too_late())
            self._hold(-before)

    def _places(self, call: _Call) -> int:
        # Two at least: one of a pair would wait for the other.
        return min(call.waiting, max(2, self._capacity // 2))

    def _hold(self, change: int) -> None:
        self._held += change
        self._meter.set_queue(_QUEUE, self._held, self._capacity)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._calls and not self._closing:
                    self._changed.wait()
                if not self._calls:
                    return
                batch = self._take()
            if batch:
                self._extract(batch)

    def _take(self) -> _Taken:
        """Up to a batch of photographs, of the calls that came first."""
        batch: _Taken = []
        now = time.monotonic()
        for _ in range(len(self._calls)):
            room = BATCH_PHOTOGRAPHS - len(batch)
            if room == 0:
                break
            call = self._calls.popleft()
            before = self._places(call)
            if call.deadline is not None and call.deadline <= now:
                call.settle(_too_late())
            else:
                share = min(room, call.waiting)
                batch += [(call, call.taken + number) for number in range(share)]
                call.taken += share
                if share == BATCH_PHOTOGRAPHS and call.waiting:
                    self._calls.append(call)
                elif call.waiting:
                    # Cut by the end of the batch alone: its turn is not over.
                    self._calls.appendleft(call)
            self._hold(self._places(call) - before)
        return batch

    def _extract(self, batch: _Taken) -> None:
        images = [call.images[place] for call, place in batch]
        start = time.perf_counter()
        try:
            samples = make_samples(images, self._extractor.extract(images), self._vault)
        except Exception as error:  # noqa: BLE001 - the thread must live on, whatever it was
            self._fail(batch, error)
            return
        self._meter.observe_stage(_STAGE, time.perf_counter() - start)
        self._meter.observe_batch(_STAGE, len(batch))
        with self._changed:
            for (call, place), sample in zip(batch, samples, strict=True):
                call.outcomes[place] = sample
                call.unsettled -= 1
                if call.unsettled == 0:
                    call.settle()

    def _fail(self, batch: _Taken, error: Exception) -> None:
        is_foreseen = isinstance(error, SosieError | ServiceRefusal)
        behind = error.__cause__ if is_foreseen else error
        if behind is not None:
            # By type alone: its text may hold anything.
            self._log.error("extraction failed", kind=type(behind).__name__, count=len(batch))
        for call in {id(call): call for call, _ in batch}.values():
            self._drop(call, error)


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("the time of this request ran out while its photographs waited")
