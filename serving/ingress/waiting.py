"""The calls whose photographs wait in an ingress: pairs of a counter, and batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from engine.errors import DeadlinePassed, ImageError
from engine.matching.requests import Sample
from serving.refusals import Busy

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
