"""Micro-batcher: calls of many threads wait in a bounded queue and are carried out in batches.

A thread submits a `Call` and waits for it; a coroutine awaits `Batcher.ask`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Generic, TypeVar

from engine.errors import copy_for_one
from schema import frozen

_log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")

UNBOUNDED = sys.maxsize


def name_thread(name: str) -> None:
    """Names this thread for `top -H` and the like, on Linux; Python does so from 3.14 on."""
    with suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)


class Call(Future[R], Generic[P, R]):
    """One caller's call, and the future of its result.

    `weight` is what it takes of a batch and of the queue's room, its items as a rule. One that is
    `alone` shares its batch with no other. Until all of it is taken it may be cancelled, and after
    `timeout_s` it is dropped.
    """

    batcher: Batcher[P, R] | None = None
    asked_on: asyncio.AbstractEventLoop | None = None
    """The loop that asks for it, maybe for others in the same go: they are one batch. It is
    answered there; in whatever thread where None."""
    taken = finished = 0
    """How much of it batches have taken, and how much of that has come to results."""
    is_settled = False
    """The caller is answered, or is about to be."""
    is_prepared = False
    """Its lane has done ahead what it could."""

    def __init__(
        self,
        payload: P,
        weight: int = 1,
        timeout_s: float | None = None,
        *,
        lane: int = 0,
        alone: bool = False,
    ) -> None:
        self.payload = payload
        self.weight = weight
        self.lane = lane
        self.alone = alone
        self.expires_at = None if timeout_s is None else monotonic() + timeout_s
        super().__init__()

    def cancel(self) -> bool:
        if self.batcher is not None and not self.batcher.withdraw(self):
            return self.cancelled()
        super().cancel()
        # Or a wait for several futures would never notice it.
        return not self.set_running_or_notify_cancel()

    def fail(self, error: Exception) -> None:
        """Gives the caller an error instead of the result."""
        self.set_exception(error)

    def leave(self) -> None:
        """Called once, before the caller is answered, or when it has cancelled."""


Batch = Sequence[Call[P, R]]
"""Whole calls; in a lane that splits, shares of calls."""


class _Share(Call[Any, Any]):
    """A batch's share of a call that is split."""

    def __init__(self, whole: Call[Any, Any], weight: int) -> None:
        self.whole = whole
        self.start = whole.taken
        self.weight = weight
        self.payload = whole.payload[self.start : self.start + weight]
        self.alone = whole.alone


def _answer_all(answers: Sequence[tuple[Call[Any, Any], Any]]) -> None:
    for call, result in answers:
        call.set_result(result)


@frozen
class Lane:
    """A queue of calls; lanes that have calls alternate.

    At most `capacity` may wait in it, one call of any weight excepted, and no call counts for more
    than `places`. A batch takes up to `batch_size`. A call that would not fit begins the next
    batch; where the lane `splits`, what fits is taken, and after a whole batch's worth the rest
    stands at the end again. Where `sizes` are given, it takes up to the largest of them that waits,
    or to the smallest. Where it is `filled`, room that its batch leaves is for the lanes after it.
    `prepare` does ahead what it can for calls that wait while a batch is carried out, in a thread
    of its own: not for every call, and in vain for one that is then given up. They stay in the
    queue; a batch with some that are being prepared begins when they are. Where it fails, whoever
    carries them out will meet it again.
    """

    batch_size: int
    capacity: int = UNBOUNDED
    places: int = UNBOUNDED
    splits: bool = False
    filled: bool = False
    sizes: tuple[int, ...] = ()
    prepare: Callable[[Sequence[Call[Any, Any]]], object] | None = None


@frozen
class Refusals:
    """Errors of refused calls; each caller gets a copy of its own.

    `full` where there is no room, `late` where the time ran out before the call began, `closed`
    after `close`, `ended` where the last worker has ended on what nothing caught.
    """

    full: Exception
    late: Exception
    closed: Exception
    ended: Exception


class _LaneQueue(Generic[P, R]):
    """The calls that wait in a lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.calls: deque[Call[P, R]] = deque()
        self.held = 0
        self.collected: dict[Call[P, R], list[Any]] = {}
        """The results so far of calls that are split."""
        self.preparing: list[Call[P, R]] = []

    def places(self, call: Call[P, R]) -> int:
        """The places in the queue that the call takes now."""
        left = call.weight - call.taken
        return left if left < self.lane.places else self.lane.places

    def unprepared(self) -> list[Call[P, R]]:
        """The calls of the next batch that nothing was done for yet."""
        room, found = self.lane.batch_size, []
        for call in self.calls:
            if call.alone:
                continue
            room -= call.weight
            if room < 0:
                break
            if not call.is_prepared:
                found.append(call)
        return found

    def room(self) -> int:
        """The places that the next batch may take."""
        lane = self.lane
        if not lane.sizes:
            return lane.batch_size
        return max((size for size in lane.sizes if size <= self.held), default=min(lane.sizes))


class Batcher(Generic[P, R]):
    """Workers that carry out what waits: what gathers during one batch is the next.

    `perform(batch)` returns a result for each call, or an exception for one that failed; what it
    raises fails the whole batch, and the worker goes on. A split call's results are joined as one
    list; it fails as soon as a share of it does. `observe(batch, seconds)` is called after each
    batch that was performed and answered; `show(held)` whenever the places taken change, and must
    be quick. `capacity` bounds all lanes together. While `may_take()` is False no worker takes a
    batch; call `wake` when that has changed.
    """

    def __init__(
        self,
        perform: Callable[[Batch[P, R]], Sequence[R | Exception]],
        lanes: Sequence[Lane],
        refusals: Refusals,
        *,
        name: str,
        workers: int = 1,
        capacity: int = UNBOUNDED,
        observe: Callable[[Batch[P, R], float], None] | None = None,
        show: Callable[[int], None] | None = None,
        may_take: Callable[[], bool] | None = None,
    ) -> None:
        self._perform = perform
        self._queues: list[_LaneQueue[P, R]] = [_LaneQueue(lane) for lane in lanes]
        self._refusals = refusals
        self._capacity = capacity
        self._observe = observe
        self._show = show
        self._may_take = may_take
        self._held = 0
        self._last_lane = len(lanes) - 1
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._idle = self._entering = 0
        """Workers that wait for work, and callers that wait for room."""
        self._waking: asyncio.AbstractEventLoop | None = None
        self._is_closing = False
        self._failure: Exception | None = None
        self._refused: Exception | None = None
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(workers)
        ]
        self._ended = 0
        self._started: dict[int, float] = {}
        """When each worker that has a batch began it."""
        self._is_busy = False
        """Whether a batch is being carried out; where lanes prepare there is one worker."""
        self._ahead = threading.Condition(self._lock)
        self._prepared = threading.Condition(self._lock)
        ahead = [queue for queue in self._queues if queue.lane.prepare is not None]
        assert not ahead or workers == 1
        self._preparers = [
            threading.Thread(
                target=self._prepare_ahead, args=(queue,), name=f"{name}-ahead", daemon=True
            )
            for queue in ahead
        ]
        for thread in (*self._threads, *self._preparers):
            thread.start()

    @property
    def failure(self) -> Exception | None:
        """Why nothing is carried out any more."""
        return self._failure

    @property
    def is_alive(self) -> bool:
        """True where no worker has ended but by `close`; one that has does not come back."""
        return self._ended == 0

    @property
    def longest_s(self) -> float:
        """The time that the oldest batch under way has taken so far."""
        began = list(self._started.values())
        return monotonic() - min(began) if began else 0.0

    @property
    def is_closing(self) -> bool:
        return self._is_closing

    def queued(self, lane: int = 0) -> int:
        """The number of places of a lane that are taken."""
        return self._queues[lane].held

    def wake(self) -> None:
        """Has a worker ask `may_take` again."""
        with self._lock:
            if self._idle:
                self._work.notify()

    def submit(self, call: Call[P, R], *, wait: bool = False) -> Call[P, R]:
        """Queues a call; where there is no room it waits, or raises `full`."""
        self._admit(call, wait=wait)
        return call

    async def ask(
        self, payload: P, weight: int = 1, timeout_s: float | None = None, *, lane: int = 0
    ) -> R:
        """Queues a call and waits for its result on the running loop.

        What is left of it is dropped when the coroutine is cancelled, and after `timeout_s`, when
        `late` is raised whether or not it has begun.
        """
        call: Call[P, R] = Call(payload, weight, timeout_s, lane=lane)
        call.asked_on = asyncio.get_running_loop()
        self._admit(call)
        try:
            async with asyncio.timeout(timeout_s) as time:
                return await asyncio.wrap_future(call)
        except TimeoutError:
            if time.expired():
                raise copy_for_one(self._refusals.late) from None
            raise

    def withdraw(self, call: Call[P, R]) -> bool:
        """Drops what is left of a call that its caller gives up; False where nothing is left."""
        with self._lock:
            if call.is_settled or call.taken == call.weight:
                return False
            call.is_settled = True
            self._remove(call)
        call.leave()
        return True

    def fail(self, error: Exception) -> None:
        """Fails every waiting and later call with this error."""
        with self._lock:
            self._failure = self._refused = error
            left = [call for queue in self._queues for call in queue.calls]
            self._wake_all()
        for call in left:
            self._fail_call(call, copy_for_one(error))

    def close(self, timeout_s: float | None = None) -> None:
        """Takes no more, and returns when what waits is done."""
        with self._lock:
            self._is_closing = True
            self._refused = self._refused or self._refusals.closed
            self._wake_all()
        for thread in (*self._threads, *self._preparers):
            thread.join(timeout_s)

    def _wake_all(self) -> None:
        self._work.notify_all()
        self._room.notify_all()
        self._ahead.notify_all()

    def _admit(self, call: Call[P, R], *, wait: bool = False) -> None:
        queue = self._queues[call.lane]
        places = queue.places(call)
        with self._lock:
            if wait:
                self._entering += 1
                self._room.wait_for(lambda: self._refused or self._has_room(queue, places))
                self._entering -= 1
            if self._refused is not None:
                raise copy_for_one(self._refused)
            if not self._has_room(queue, places):
                raise copy_for_one(self._refusals.full)
            call.batcher = self
            queue.calls.append(call)
            self._hold(queue, places)
            if self._idle:
                self._wake(call.asked_on)
            if self._is_busy and queue.held <= queue.lane.batch_size:
                self._ahead.notify_all()

    def _wake(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if loop is None:
            self._work.notify()
        elif self._waking is not loop:
            # Once for all that a loop asks in one go: they are one batch.
            self._waking = loop
            loop.call_soon(self._wake_now)

    def _wake_now(self) -> None:
        with self._lock:
            self._waking = None
            self._work.notify()

    def _has_room(self, queue: _LaneQueue[P, R], places: int) -> bool:
        if queue.calls and queue.held + places > queue.lane.capacity:
            return False
        return not self._held or self._held + places <= self._capacity

    def _has_work(self) -> bool:
        for queue in self._queues:
            if queue.calls:
                return self._may_take is None or self._may_take()
        return self._is_closing

    def _hold(self, queue: _LaneQueue[P, R], change: int) -> None:
        queue.held += change
        self._held += change
        if self._entering and change < 0:
            self._room.notify_all()
        if self._show is not None:
            self._show(self._held)

    def _remove(self, call: Call[P, R]) -> None:
        queue = self._queues[call.lane]
        queue.collected.pop(call, None)
        if call in queue.calls:
            queue.calls.remove(call)
            self._hold(queue, -queue.places(call))

    def _serve(self) -> None:
        name_thread(threading.current_thread().name)
        batch: list[Call[P, R]] = []
        try:
            while batch := self._take():
                self._carry_out(batch)
        except BaseException:
            with self._lock:
                self._ended += 1
            if self._ended == len(self._threads):
                self.fail(self._refusals.ended)
            for call in batch:
                self._fail_call(call, copy_for_one(self._refusals.ended))
            raise

    def _carry_out(self, batch: list[Call[P, R]]) -> None:
        worker = threading.get_ident()
        started = self._started[worker] = monotonic()
        try:
            self._perform_batch(batch, started)
        finally:
            del self._started[worker]

    def _perform_batch(self, batch: list[Call[P, R]], started: float) -> None:
        try:
            results = self._perform(batch)
            if len(results) != len(batch):
                raise ValueError("a batch has a result for each of its calls")
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            for call in batch:
                self._fail_call(call, copy_for_one(error) if len(batch) > 1 else error)
            return
        self._answer(batch, results)
        if self._observe is not None:
            try:
                self._observe(batch, monotonic() - started)
            except Exception as error:  # noqa: BLE001 - what is done has not failed
                _log.warning("a batch was not counted (%s)", type(error).__name__)

    def _answer(self, batch: list[Call[P, R]], results: Sequence[Any]) -> None:
        on_loops: dict[asyncio.AbstractEventLoop, list[Any]] = {}
        for call, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                self._fail_call(call, result)
                continue
            whole, joined = call, result
            if isinstance(call, _Share):
                whole, joined = call.whole, self._join(call, result)
                if joined is None:
                    continue
            with self._lock:
                # All that wait may have failed meanwhile.
                if whole.is_settled:
                    continue
                whole.is_settled = True
            whole.leave()
            if whole.asked_on is None:
                whole.set_result(joined)
            else:
                on_loops.setdefault(whole.asked_on, []).append((whole, joined))
        for loop, answers in on_loops.items():
            # One call of a loop for all who wait on it; a closed one has nobody who does.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_answer_all, answers)

    def _join(self, share: _Share, result: Any) -> list[Any] | None:
        """Keeps the results of a share; those of the whole call with its last."""
        call, kept = share.whole, self._queues[share.whole.lane].collected
        with self._lock:
            if call.is_settled:
                return None
            joined = kept.setdefault(call, [None] * call.weight)
            joined[share.start : share.start + share.weight] = result
            call.finished += share.weight
            return None if call.finished < call.weight else kept.pop(call)

    def _fail_call(self, call: Call[P, R], error: Exception) -> None:
        whole = call.whole if isinstance(call, _Share) else call
        with self._lock:
            # Other shares of it may wait, or be carried out: its first failure counts.
            if whole.is_settled:
                return
            whole.is_settled = True
            self._remove(whole)
        whole.leave()
        whole.fail(error)

    def _take(self) -> list[Call[P, R]]:
        """Waits for work and takes a batch; nothing once all is closed and done."""
        while True:
            batch: list[Call[P, R]] = []
            late: list[Call[P, R]] = []
            with self._lock:
                self._is_busy = False
                while not self._has_work():
                    self._idle += 1
                    self._work.wait()
                    self._idle -= 1
                index = self._next_lane()
                if index is None:
                    self._ahead.notify_all()
                    return []
                self._last_lane = index
                self._fill(index, batch, late)
                if self._idle and self._has_orphan():
                    self._work.notify()
                if batch and self._preparers:
                    self._is_busy = True
                    self._ahead.notify_all()
                    self._prepared.wait_for(partial(self._are_ready, batch))
            for call in late:
                self._fail_call(call, copy_for_one(self._refusals.late))
            if batch:
                return batch

    def _are_ready(self, batch: list[Call[P, R]]) -> bool:
        return not any(call in queue.preparing for queue in self._queues for call in batch)

    def _prepare_ahead(self, queue: _LaneQueue[P, R]) -> None:
        prepare = queue.lane.prepare
        assert prepare is not None
        while True:
            with self._lock:
                self._ahead.wait_for(
                    lambda: self._is_over(queue) or (self._is_busy and queue.unprepared())
                )
                if self._is_over(queue):
                    return
                queue.preparing = calls = queue.unprepared()
            try:
                prepare(calls)
            except Exception as error:  # noqa: BLE001 - whoever carries them out meets it again
                _log.warning("a batch was not prepared (%s)", type(error).__name__)
            finally:
                with self._lock:
                    for call in calls:
                        call.is_prepared = True
                    queue.preparing = []
                    self._prepared.notify_all()

    def _is_over(self, queue: _LaneQueue[P, R]) -> bool:
        """True where no call of a lane will ever wait again."""
        return self._failure is not None or (self._is_closing and not queue.calls)

    def _has_orphan(self) -> bool:
        """True where what waits next has woken no worker of its own: it is the rest of a call, or
        was asked for together with others."""
        first = next((queue.calls[0] for queue in self._queues if queue.calls), None)
        return first is not None and (first.taken > 0 or first.asked_on is not None)

    def _next_lane(self) -> int | None:
        count = len(self._queues)
        for step in range(1, count + 1):
            index = (self._last_lane + step) % count
            if self._queues[index].calls:
                return index
        return None

    def _fill(self, index: int, batch: list[Call[P, R]], late: list[Call[P, R]]) -> None:
        queue = self._queues[index]
        room = self._take_from(queue, queue.room(), batch, late)
        while queue.lane.filled and room > 0 and index + 1 < len(self._queues):
            if batch and batch[0].alone:
                return
            index += 1
            queue = self._queues[index]
            room = self._take_from(queue, room, batch, late)

    def _take_from(
        self, queue: _LaneQueue[P, R], room: int, batch: list[Call[P, R]], late: list[Call[P, R]]
    ) -> int:
        """Adds to the batch what came first and fits; the room that is left."""
        now = monotonic()
        calls, splits = queue.calls, queue.lane.splits
        before = queue.held
        # Each at most once: what is split may stand again at the end.
        for _ in range(len(calls)):
            call = calls[0]
            left = call.weight - call.taken
            if batch and (room <= 0 or call.alone or (left > room and not splits)):
                break
            calls.popleft()
            queue.held -= queue.places(call)
            if call.expires_at is not None and call.expires_at <= now:
                late.append(call)
            elif splits and (left > room or call.taken):
                room -= self._split(queue, call, min(left, room), batch)
            else:
                call.taken = call.weight
                batch.append(call)
                room -= left
            if call.alone:
                break
        freed, queue.held = before - queue.held, before
        self._hold(queue, -freed)
        return room

    def _split(
        self, queue: _LaneQueue[P, R], call: Call[P, R], share: int, batch: list[Call[P, R]]
    ) -> int:
        batch.append(_Share(call, share))
        call.taken += share
        if call.taken < call.weight:
            queue.held += queue.places(call)
            if share == queue.lane.batch_size:
                queue.calls.append(call)
            else:
                # Cut only by the end of the batch: the rest goes first next time.
                queue.calls.appendleft(call)
        return share


def weigh(batch: Batch[Any, Any]) -> int:
    """The number of a batch's items."""
    return sum(call.weight for call in batch)


def share_out(batch: Batch[Any, Any], results: Any) -> list[Any]:
    """The results of a whole batch, item by item, as each call's own."""
    total = weigh(batch)
    if len(results) != total:
        raise ValueError(f"a batch of {total} items came to {len(results)} results")
    shares, start = [], 0
    for call in batch:
        shares.append(results[start : start + call.weight])
        start += call.weight
    return shares
