"""What waits for the registrar: in order of arrival, bounded, free to give up until it is taken."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any, TypeVar

from engine.errors import (
    DeadlinePassed,
    IdempotencyInFlight,
    Overloaded,
    RegistryError,
    SosieError,
    copy_for_one,
)
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry.writer import Writer

Outcome = Answer | SosieError
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Enrollment:
    """A request to be judged; `expires_at` is by the monotonic clock."""

    request: EnrollmentRequest
    expires_at: float | None
    arrived_at: float = field(default_factory=monotonic)
    future: Future[Outcome] = field(default_factory=Future)

    @property
    def key(self) -> tuple[str, str]:
        return (self.request.carrier, self.request.idempotency_key)


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """A change of another kind, performed between two batches."""

    perform: Callable[[Writer, datetime], Any]
    expires_at: float | None
    future: Future[Any] = field(default_factory=Future)


class Arrivals:
    """The queue between many callers and the one thread that takes from it.

    What is cancelled, or has run out of time, before it is taken is never done, and its
    idempotency key is free again. Enrollments are taken as soon as they come while they come one
    by one; after a batch of several, `gather_s` passes first for more to share the transaction.
    """

    def __init__(self, queue_size: int, batch_size: int, gather_s: float = 0.0) -> None:
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._gather_s = gather_s
        self._had_company = False
        self._waiting: deque[Enrollment | Action] = deque()
        self._urgent: deque[Action] = deque()
        self._was_urgent = False
        self._in_flight: dict[tuple[str, str], Enrollment] = {}
        # Reentrant: whoever cancels may be called while it is held.
        self._changed = threading.Condition()
        self._is_closed = False
        self._failure: SosieError | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._urgent)

    @property
    def failure(self) -> SosieError | None:
        """Why nothing is taken any more."""
        return self._failure

    def enroll(
        self, request: EnrollmentRequest, timeout_s: float | None = None, *, wait: bool = False
    ) -> Future[Outcome]:
        """Queues a request; where there is no room it waits, or raises `Overloaded`.

        `IdempotencyInFlight` while one with its key waits or is judged.
        """
        item = Enrollment(request, _expiry(timeout_s))
        with self._changed:
            self._require_room(wait=wait)
            if item.key in self._in_flight:
                raise IdempotencyInFlight(
                    "a request with this Idempotency-Key is being judged: ask again in a moment"
                )
            self._in_flight[item.key] = item
            self._waiting.append(item)
            self._changed.notify_all()
        item.future.add_done_callback(lambda future: self._withdraw(item, future))
        return item.future

    def act(
        self,
        perform: Callable[[Writer, datetime], T],
        timeout_s: float | None = None,
        *,
        wait: bool = False,
        urgent: bool = False,
    ) -> Future[T]:
        """Queues a change. An urgent one has every second turn, however many wait."""
        item = Action(perform, _expiry(timeout_s))
        with self._changed:
            if urgent:
                self._require_open()
                self._urgent.append(item)
            else:
                self._require_room(wait=wait)
                self._waiting.append(item)
            self._changed.notify_all()
        item.future.add_done_callback(lambda future: self._withdraw(item, future))
        return item.future

    def take(self) -> list[Enrollment] | Action | None:
        """Waits for the next change, or the next batch: whatever has gathered meanwhile.

        None once the queue is closed and empty.
        """
        while (work := self._pop()) is not None:
            if isinstance(work, Action):
                if self._begins(work):
                    return work
            elif batch := [item for item in work if self._begins(item)]:
                return batch
        return None

    def settle(self, batch: Sequence[Enrollment], outcomes: Sequence[Outcome]) -> None:
        """Tells each caller what came of it."""
        # A key leaves the flight before its caller hears of it: asking again finds the answer.
        with self._changed:
            for item in batch:
                self._land(item)
        for item, outcome in zip(batch, outcomes, strict=True):
            item.future.set_result(outcome)

    def fail(self, failure: SosieError) -> None:
        """From here on nothing is queued."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def abandon(self, taken: Sequence[Enrollment] | Action | None = None) -> None:
        """Tells everybody who waits, also for what was taken, that nothing will come; after
        `fail`."""
        assert self._failure is not None
        if isinstance(taken, Action):
            if not taken.future.done():
                taken.future.set_exception(copy_for_one(self._failure))
        elif taken is not None:
            self._settle_failed([item for item in taken if not item.future.done()])
        with self._changed:
            left = [*self._urgent, *self._waiting]
            self._urgent.clear()
            self._waiting.clear()
        for work in left:
            if not self._begins(work):
                continue
            if isinstance(work, Action):
                work.future.set_exception(copy_for_one(self._failure))
            else:
                self._settle_failed([work])

    def _settle_failed(self, batch: Sequence[Enrollment]) -> None:
        assert self._failure is not None
        self.settle(batch, [copy_for_one(self._failure) for _ in batch])

    def close(self) -> None:
        """What waits is still taken, nothing new is queued."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _require_room(self, *, wait: bool) -> None:
        if wait:
            self._changed.wait_for(self._has_room)
        self._require_open()
        if len(self._waiting) >= self._queue_size:
            raise Overloaded("the registrar's queue is full: try again in a second")

    def _has_room(self) -> bool:
        is_open = not self._is_closed and self._failure is None
        return len(self._waiting) < self._queue_size or not is_open

    def _require_open(self) -> None:
        if self._failure is not None:
            raise copy_for_one(self._failure)
        if self._is_closed:
            raise RegistryError("the registrar is closed: open the deployment again")

    def _await_work(self) -> None:
        self._changed.wait_for(self._has_work)
        if self._gather_s and self._had_company:
            self._changed.wait_for(self._has_gathered, self._gather_s)
            # What was there may have been cancelled meanwhile.
            self._changed.wait_for(self._has_work)

    def _has_work(self) -> bool:
        return len(self) > 0 or self._is_closed

    def _has_gathered(self) -> bool:
        """Whether a longer wait would make the next batch no larger, or keep others waiting."""
        if self._urgent or self._is_closed or self._failure is not None:
            return True
        return len(self._waiting) >= self._batch_size or any(
            isinstance(item, Action) for item in self._waiting
        )

    def _pop(self) -> list[Enrollment] | Action | None:
        with self._changed:
            self._await_work()
            # By turns: neither those who enroll nor those who audit wait for the others to end.
            self._was_urgent = bool(self._urgent) and not (self._was_urgent and self._waiting)
            if self._was_urgent:
                return self._urgent.popleft()
            if not self._waiting:
                return None
            first = self._waiting.popleft()
            if isinstance(first, Action):
                self._changed.notify_all()
                return first
            batch = [first]
            while self._waiting and len(batch) < self._batch_size:
                following = self._waiting[0]
                if isinstance(following, Action):
                    break
                batch.append(following)
                self._waiting.popleft()
            self._had_company = len(batch) > 1
            self._changed.notify_all()
            return batch

    def _begins(self, item: Enrollment | Action) -> bool:
        """From here on the item cannot be cancelled; False for one that will not be done."""
        if not item.future.set_running_or_notify_cancel():
            return False
        if item.expires_at is None or monotonic() < item.expires_at:
            return True
        late = DeadlinePassed("the time ran out while the call waited: nothing was stored")
        if isinstance(item, Action):
            item.future.set_exception(late)
        else:
            self.settle([item], [late])
        return False

    def _withdraw(self, item: Enrollment | Action, future: Future[Any]) -> None:
        if not future.cancelled():
            return
        with self._changed:
            if item in self._waiting:
                self._waiting.remove(item)
            elif isinstance(item, Action) and item in self._urgent:
                self._urgent.remove(item)
            if isinstance(item, Enrollment):
                self._land(item)
            self._changed.notify_all()

    def _land(self, item: Enrollment) -> None:
        # By now the key may belong to a later request.
        if self._in_flight.get(item.key) is item:
            del self._in_flight[item.key]


def _expiry(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else monotonic() + timeout_s
