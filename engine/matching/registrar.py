"""The one writer: orders all enrollments, judges them in batches, commits, then answers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from engine.errors import (
    GalleryBehind,
    IdempotencyInFlight,
    LeaseLost,
    Overloaded,
    RegistryError,
    SosieError,
    StorageFull,
)
from engine.matching.judge import Judge
from engine.matching.publication import publish, require_in_step
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.watchlist import WatchList
from engine.registry.records import utc_now
from engine.registry.writer import Writer
from indexes.gallery import Gallery

Outcome = Answer | SosieError
_FATAL = (LeaseLost, GalleryBehind)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegistrarConfig:
    """`batch_size`: the most that one transaction decides; `queue_size`: the most that waits."""

    batch_size: int = 32
    queue_size: int = 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Enrollment:
    request: EnrollmentRequest
    future: Future[Outcome]

    @property
    def key(self) -> tuple[str, str]:
        return (self.request.carrier, self.request.idempotency_key)


@dataclass(frozen=True, slots=True, eq=False)
class _Action:
    perform: Callable[[Writer, datetime], Any]
    future: Future[Any]


class Registrar:
    """Enrolls in order of arrival, one batch after another.

    An `Answer` that a caller holds is durable, and every later search sees its reference. Two
    requests with one idempotency key are never judged twice. All writes pass through one
    thread; the `Writer` that it owns keeps every other process out.
    """

    def __init__(
        self,
        writer: Writer,
        judge: Judge,
        config: RegistrarConfig | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._writer = writer
        self._judge = judge
        self._config = config or RegistrarConfig()
        self._clock = clock
        self._waiting: deque[_Enrollment | _Action] = deque()
        self._in_flight: set[tuple[str, str]] = set()
        require_in_step(writer, judge.gallery)
        self._changed = threading.Condition()
        self._is_closed = False
        self._failure: SosieError | None = None
        self._thread = threading.Thread(target=self._serve, name="registrar", daemon=True)
        self._thread.start()

    def __enter__(self) -> Registrar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: EnrollmentRequest) -> Future[Outcome]:
        """Puts a request in the queue; the future holds an answer, or an error as a value.

        Raises `IdempotencyInFlight` while one with its key is being judged, and `Overloaded`
        when the queue is full.
        """
        with self._changed:
            self._require_open()
            if len(self._waiting) >= self._config.queue_size:
                raise Overloaded("the registrar's queue is full: try again in a second")
            return self._append(request)

    def enroll(self, requests: Sequence[EnrollmentRequest]) -> list[Outcome]:
        """Judges these requests in order; waits for room in the queue instead of refusing."""
        outcomes: list[Future[Outcome] | SosieError] = []
        for request in requests:
            with self._changed:
                self._changed.wait_for(self._has_room)
                try:
                    self._require_open()
                    outcomes.append(self._append(request))
                except SosieError as error:
                    outcomes.append(error)
        return [item if isinstance(item, SosieError) else item.result() for item in outcomes]

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        """Performs a change of another kind on the writer's thread, between two batches."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        with self._changed:
            self._changed.wait_for(self._has_room)
            self._require_open()
            self._waiting.append(_Action(perform, future))
            self._changed.notify_all()
        return future.result()

    def close(self) -> None:
        """Decides what is waiting, then gives the lease back."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._writer.close()

    @property
    def gallery(self) -> Gallery:
        """The references that every decision is searched against."""
        return self._judge.gallery

    @property
    def watchlist(self) -> WatchList:
        """The faces and documents that no decision passes unseen."""
        return self._judge.watch

    def _has_room(self) -> bool:
        return (
            len(self._waiting) < self._config.queue_size
            or self._is_closed
            or self._failure is not None
        )

    def _require_open(self) -> None:
        if self._failure is not None:
            # A fresh exception for each caller: a shared one would gather their tracebacks.
            raise type(self._failure)(str(self._failure))
        if self._is_closed:
            raise RegistryError("the registrar is closed: open the deployment again")

    def _append(self, request: EnrollmentRequest) -> Future[Outcome]:
        enrollment = _Enrollment(request, Future())
        # What is queued is decided: a caller that gives up must not cancel it half-way.
        enrollment.future.set_running_or_notify_cancel()
        if enrollment.key in self._in_flight:
            raise IdempotencyInFlight(
                "a request with this Idempotency-Key is being judged: ask again in a moment"
            )
        self._in_flight.add(enrollment.key)
        self._waiting.append(enrollment)
        self._changed.notify_all()
        return enrollment.future

    def _serve(self) -> None:
        try:
            while (work := self._take()) is not None:
                if isinstance(work, _Action):
                    self._perform(work)
                else:
                    self._decide(work)
        except BaseException:
            self._fail(RegistryError("the registrar has stopped on an internal error: restart it"))
            self._abandon()
            raise

    def _take(self) -> list[_Enrollment] | _Action | None:
        """The next action, or the next batch: whatever has gathered while the last one ran."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if not self._waiting:
                return None
            first = self._waiting.popleft()
            if isinstance(first, _Action):
                self._changed.notify_all()
                return first
            batch = [first]
            while self._waiting and len(batch) < self._config.batch_size:
                following = self._waiting[0]
                if isinstance(following, _Action):
                    break
                batch.append(following)
                self._waiting.popleft()
            self._changed.notify_all()
            return batch

    def _perform(self, action: _Action) -> None:
        try:
            self._require_sound()
            result = action.perform(self._writer, self._clock())
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the future
            if isinstance(error, _FATAL):
                self._fail(error)
            action.future.set_exception(error)
        else:
            action.future.set_result(result)

    def _decide(self, batch: list[_Enrollment]) -> None:
        try:
            self._require_sound()
            outcomes = self._judge_and_publish([item.request for item in batch])
        except Exception as error:  # noqa: BLE001 - one request's bug must not stop the others
            if isinstance(error, _FATAL):
                self._fail(error)
            elif len(batch) > 1 and not isinstance(error, StorageFull):
                # Nothing was kept: alone, each fails or passes by its own merit.
                for item in batch:
                    self._decide([item])
                return
            self._settle(batch, [_as_value(error)] * len(batch))
        else:
            self._settle(batch, outcomes)

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise self._failure
        require_in_step(self._writer, self.gallery)

    def _judge_and_publish(self, requests: list[EnrollmentRequest]) -> list[Outcome]:
        judged = self._judge.judge(
            requests,
            sequence=self._writer.sequence,
            next_reference_id=self._writer.next_reference_id,
            now=self._clock(),
        )
        if judged.changes is not None:
            publish(self._writer, self.gallery, judged.changes)
        return judged.outcomes

    def _settle(self, batch: list[_Enrollment], outcomes: Sequence[Outcome]) -> None:
        # A key leaves the flight before its caller hears of it: asking again finds the answer.
        self._forget(batch)
        for item, outcome in zip(batch, outcomes, strict=True):
            item.future.set_result(outcome)

    def _forget(self, batch: list[_Enrollment]) -> None:
        with self._changed:
            self._in_flight.difference_update(item.key for item in batch)

    def _fail(self, failure: SosieError) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _abandon(self) -> None:
        """Tells everybody who waits that nothing will come."""
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
        for work in left:
            assert self._failure is not None
            if isinstance(work, _Action):
                work.future.set_exception(self._failure)
            else:
                self._settle([work], [self._failure])


def _as_value(error: Exception) -> SosieError:
    """An error of ours as it is; an unforeseen one without its text, which may hold anything."""
    if isinstance(error, SosieError):
        return error
    hidden = SosieError(f"the request met an internal error ({type(error).__name__}): report it")
    hidden.__cause__ = error
    return hidden
