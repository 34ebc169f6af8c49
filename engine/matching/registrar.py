"""The one writer: orders all enrollments, judges them in batches, commits, then answers."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Container, Sequence
from concurrent.futures import CancelledError, Future
from datetime import datetime
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from engine.batching import Batch, Batcher, Call, Lane, Refusals, weigh
from engine.errors import (
    ChainBroken,
    DeadlinePassed,
    GalleryBehind,
    IdempotencyInFlight,
    LeaseLost,
    Overloaded,
    RegistryError,
    RowRefused,
    SchemaMismatch,
    SosieError,
    StorageFailed,
    copy_for_one,
)
from engine.matching.comparison import Scanned, WatchList
from engine.matching.judge import Judge
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry.audit import AuditEntry
from engine.registry.database import utc_now
from engine.registry.enrollments import Tally
from engine.registry.writer import ChangeRunner, Writer, publish
from indexes.base import Closing
from indexes.errors import ShardLost
from schema import frozen

if TYPE_CHECKING:
    from indexes.gallery import Gallery


def require_in_step(writer: Writer, gallery: Gallery) -> None:
    """`GalleryBehind` where the gallery is not at the sequence of the store."""
    if gallery.sequence != writer.sequence:
        raise GalleryBehind("the gallery has lost step with the store: restart to rebuild it")


@frozen
class DecidedBatch:
    """One batch after its callers were answered.

    `judge_s` and `publish_s` are what the batch took; an error in `outcomes` is an item that could
    not be judged.
    """

    outcomes: Sequence[Answer | SosieError]
    judge_s: float
    publish_s: float


class Observer:
    """Observer that does nothing; its calls come on the writer's thread and must be quick."""

    def observe_batch(self, batch: DecidedBatch) -> None:
        """A batch of enrollments was decided."""

    def observe_audit(self, entries: int, seconds: float) -> None:
        """So many audit entries were made durable in one transaction."""


T = TypeVar("T")

Outcome = Answer | SosieError

Audit = Callable[[AuditEntry], None]
"""Makes an entry durable before it returns; raises where it could not."""
CountingAudit = Callable[[AuditEntry, Sequence[Tally]], None]
"""The same, with what it adds to counts, in one transaction."""

AUDIT_ENTRIES_AT_ONCE = 1024
"""How many entries one transaction takes, if no single call brings more."""
_AUDIT, _WRITES = range(2)
"""The lanes of the queue: audit entries alternate with enrollments and changes."""


_REFUSALS = Refusals(
    full=Overloaded("the registrar's queue is full: try again in a second"),
    late=DeadlinePassed("the time ran out while the call waited: nothing was stored"),
    closed=RegistryError("the registrar is closed: open the deployment again"),
    ended=RegistryError("the registrar has stopped on an internal error: restart it"),
)


@frozen
class RegistrarConfig:
    """`batch_size`: the most that one transaction decides; `queue_size`: the most that waits;
    `audit_queue_size`: how many audit entries wait."""

    batch_size: int = 32
    queue_size: int = 1024
    audit_queue_size: int = 8192


class _Enrollment(Call[EnrollmentRequest, Outcome]):
    """A request to be judged: its key is in flight until it is answered; errors are values."""

    scanned: Scanned | None = None
    """What was found for it while it waited."""

    def __init__(
        self,
        request: EnrollmentRequest,
        timeout_s: float | None,
        in_flight: dict[tuple[str, str], _Enrollment],
    ) -> None:
        super().__init__(request, 1, timeout_s, lane=_WRITES)
        self._key = (request.carrier, request.idempotency_key)
        self._in_flight = in_flight
        if in_flight.setdefault(self._key, self) is not self:
            raise IdempotencyInFlight(
                "a request with this Idempotency-Key is being judged: ask again in a moment"
            )

    def fail(self, error: Exception) -> None:
        self.set_result(_as_value(error))

    def leave(self) -> None:
        # Before its caller is answered: asking again finds the answer.
        del self._in_flight[self._key]


_Noted = tuple[Sequence[AuditEntry], Sequence[Tally]]


class _AuditCall(Call[_Noted, None]):
    """Entries that are committed whether or not their caller waits."""

    def cancel(self) -> bool:
        return False


class _Change(Call[Callable[[Writer, datetime], T], T]):
    """A change of another kind, performed between two batches."""

    def __init__(
        self, perform: Callable[[Writer, datetime], T], timeout_s: float | None = None
    ) -> None:
        super().__init__(perform, 1, timeout_s, lane=_WRITES, alone=True)


class Registrar(Closing):
    """Enrolls in order of arrival, one batch after another.

    An `Answer` that a caller holds is durable, and every later search sees its reference. Two
    requests with one idempotency key are never judged twice. All writes pass through one
    thread; the `Writer` that it owns keeps every other process out. While it decides a batch,
    another thread searches the gallery for those that wait; what changed since is compared when
    they are decided, so that every decision is the one of a search at that moment.
    """

    def __init__(
        self,
        writer: Writer,
        judge: Judge,
        config: RegistrarConfig | None = None,
        clock: Callable[[], datetime] = utc_now,
        observer: Observer | None = None,
    ) -> None:
        self._writer = writer
        self._judge = judge
        self.gallery, self.watchlist, self.unkept = judge.gallery, judge.watch, judge.unkept
        self.config = config or RegistrarConfig()
        self._clock = clock
        self._observer = observer or Observer()
        self._in_flight: dict[tuple[str, str], _Enrollment] = {}
        self._decided: list[DecidedBatch] = []
        require_in_step(writer, judge.gallery)
        sizes = self.config
        self._queue: Batcher[Any, Any] = Batcher(
            self._work,
            (
                Lane(AUDIT_ENTRIES_AT_ONCE, sizes.audit_queue_size),
                Lane(sizes.batch_size, sizes.queue_size, prepare=self._scan_ahead),
            ),
            _REFUSALS,
            name="registrar",
            observe=self._observe,
        )

    def submit(
        self,
        request: EnrollmentRequest,
        *,
        timeout_s: float | None = None,
        asked_on: AbstractEventLoop | None = None,
        waits: bool = False,
    ) -> Future[Outcome]:
        """Puts a request in the queue; the future holds an answer, or an error as a value.

        Until its batch is taken it may be cancelled, and after `timeout_s` it comes to
        `DeadlinePassed`: then nothing of it was stored. Once taken it is decided, and can be
        fetched by its key. What a loop `asked_on` submits in one go comes into one batch.

        Raises `IdempotencyInFlight` while one with its key is being judged, and `Overloaded`
        when the queue is full, unless it `waits` for room.
        """
        call = _Enrollment(request, timeout_s, self._in_flight)
        call.asked_on = asked_on
        try:
            return self._queue.submit(call, wait=waits)
        except BaseException:
            call.leave()
            raise

    def enroll(self, requests: Sequence[EnrollmentRequest]) -> list[Outcome]:
        """Judges these requests in order; waits for room in the queue instead of refusing."""
        outcomes: list[Future[Outcome] | SosieError] = []
        for request in requests:
            try:
                outcomes.append(self.submit(request, waits=True))
            except SosieError as error:
                outcomes.append(error)
        return [item if isinstance(item, SosieError) else item.result() for item in outcomes]

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        """Performs a change of another kind on the writer's thread, between two batches."""
        return cast("T", self._queue.submit(_Change(perform), wait=True).result())

    def schedule(
        self, perform: Callable[[Writer, datetime], T], *, timeout_s: float | None = None
    ) -> Future[T]:
        """Like `run`, without waiting: `Overloaded` when the queue is full.

        Until it begins the change may be cancelled, and after `timeout_s` it comes to
        `DeadlinePassed`.
        """
        return self._queue.submit(_Change(perform, timeout_s))

    def submit_audit(
        self, entries: Sequence[AuditEntry], tallies: Sequence[Tally] = ()
    ) -> Future[None]:
        """Queues audit entries, with what they add to counts.

        The future is done when they are durable, or fails as the commit.

        They wait for one batch of enrollments at most, and cannot be cancelled. Raises
        `Overloaded` where too many wait.
        """
        call = _AuditCall((tuple(entries), tuple(tallies)), len(entries), lane=_AUDIT)
        if not entries:
            call.set_result(None)
            return call
        return self._queue.submit(call)

    def audit(
        self, entry: AuditEntry, timeout_s: float | None = None, tallies: Sequence[Tally] = ()
    ) -> None:
        """Returns when the entry is durable; `DeadlinePassed` where that takes too long."""
        future = self.submit_audit([entry], tallies)
        try:
            future.result(timeout_s)
        except TimeoutError:
            if future.done():
                raise
            raise DeadlinePassed("the time ran out before the read could be audited") from None

    def stop(self, failure: SosieError) -> None:
        """Ends deciding: waiting and later calls fail with this. `close` it all the same."""
        self._queue.fail(failure)

    def close(self) -> None:
        """Decides what is waiting, then gives the lease back."""
        self._queue.close()
        self._writer.close()

    @property
    def queued(self) -> int:
        """The number of enrollments and changes that wait now."""
        return self._queue.queued(_WRITES)

    @property
    def audit_queued(self) -> int:
        """The number of audit entries that wait now."""
        return self._queue.queued(_AUDIT)

    @property
    def failure(self) -> SosieError | None:
        """Why nothing is decided any more; None while it works."""
        return cast("SosieError | None", self._queue.failure)

    @property
    def is_alive(self) -> bool:
        """True where its thread runs; one that has ended is not restarted."""
        return self._queue.is_alive

    def _work(self, batch: Batch[Any, Any]) -> Sequence[Any]:
        match batch[0]:
            case _Enrollment():
                return self._decide(batch)
            case _AuditCall():
                return self._audit(batch)
        return [self._perform(batch[0].payload)]

    def _perform(self, change: Callable[[Writer, datetime], T]) -> T:
        try:
            self._require_sound()
            return change(self._writer, self._clock())
        except Exception as error:
            self._stop_if_fatal(error)
            raise

    def _audit(self, batch: Batch[_Noted, None]) -> list[None]:
        entries = [entry for call in batch for entry in call.payload[0]]
        tallies = [tally for call in batch for tally in call.payload[1]]
        self._perform(lambda writer, _now: writer.commit([*entries, *tallies]))
        return [None] * len(batch)

    def _decide(self, batch: Batch[EnrollmentRequest, Outcome]) -> list[Outcome]:
        started = monotonic()
        try:
            self._require_sound()
            outcomes, judge_s = self._judge_and_publish(batch)
        except Exception as error:  # noqa: BLE001 - one request's bug must not stop the others
            fatal = self._stop_if_fatal(error)
            if len(batch) > 1 and fatal is None and not _is_of_the_database(error):
                return self._decide_apart(batch)
            reason = fatal or _as_value(error)
            outcomes = [copy_for_one(reason) for _ in batch]
            judge_s = monotonic() - started
        spent_s = monotonic() - started
        self._decided.append(DecidedBatch(outcomes, judge_s, spent_s - judge_s))
        return outcomes

    def _decide_apart(self, batch: Batch[EnrollmentRequest, Outcome]) -> list[Outcome]:
        """Each by itself, after a batch of which nothing was stored; none waits any more for a
        database that has failed one of them."""
        outcomes: list[Outcome] = []
        for call in batch:
            outcomes += self._decide([call])
            if isinstance(failed := outcomes[-1], SosieError) and _is_of_the_database(failed):
                outcomes += [copy_for_one(failed) for _ in batch[len(outcomes) :]]
                break
        return outcomes

    def _require_sound(self) -> None:
        if self.failure is not None:
            raise copy_for_one(self.failure)
        require_in_step(self._writer, self.gallery)

    def _scan_ahead(self, calls: Batch[EnrollmentRequest, Outcome]) -> None:
        """Searches for requests that wait, on another thread than the writer's."""
        found = self._judge.scan([call.payload for call in calls])
        for call, scanned in zip(calls, found, strict=True):
            assert isinstance(call, _Enrollment)
            call.scanned = scanned

    def _judge_and_publish(
        self, batch: Batch[EnrollmentRequest, Outcome]
    ) -> tuple[list[Outcome], float]:
        """The outcomes, and how many seconds judging took."""
        started = monotonic()
        judged = self._judge.judge(
            [call.payload for call in batch],
            self._writer,
            now=self._clock(),
            scanned=[call.scanned if isinstance(call, _Enrollment) else None for call in batch],
        )
        judge_s = monotonic() - started
        if judged.writes:
            publish(self._writer, self.gallery, judged.writes)
        return judged.outcomes, judge_s

    def _observe(self, batch: Batch[Any, Any], seconds: float) -> None:
        decided, self._decided = self._decided, []
        for one in decided:
            self._observer.observe_batch(one)
        if isinstance(batch[0], _AuditCall):
            self._observer.observe_audit(weigh(batch), seconds)

    def _stop_if_fatal(self, error: Exception) -> SosieError | None:
        """Decides no more after an error that puts store and gallery in doubt; returns why."""
        fatal: SosieError
        if isinstance(error, ChainBroken | LeaseLost | GalleryBehind | SchemaMismatch):
            fatal = error
        elif isinstance(error, ShardLost):
            fatal = GalleryBehind("a part of the gallery is gone: restart to rebuild it")
        else:
            return None
        self._queue.fail(fatal)
        return fatal


def _is_of_the_database(error: Exception) -> bool:
    """True where the next transaction would meet it too: the database is busy, full or away."""
    return isinstance(error, StorageFailed) and not isinstance(error, RowRefused)


def _as_value(error: Exception) -> SosieError:
    """An error of ours; an unforeseen one without its text, which may hold anything."""
    if isinstance(error, SosieError):
        return error
    hidden = SosieError(f"the request met an internal error ({type(error).__name__}): report it")
    hidden.__cause__ = error
    return hidden


class Runner(ChangeRunner, Protocol):
    """Performs changes on the writer's thread: the registrar, or a bounded runner."""

    @property
    def gallery(self) -> Gallery: ...

    @property
    def watchlist(self) -> WatchList: ...

    @property
    def unkept(self) -> Container[str]:
        """The carriers of whose faces nothing is kept now."""
        ...


class BoundedRunner:
    """Runner for one call of a server: a change that cannot begin in time is not made.

    `run` raises `Overloaded` at once where the registrar's queue is full, and `DeadlinePassed`
    where the change had not begun within `timeout_s`, counted from the making of the runner, or
    when `give_up` was called. A change that has begun is waited for.
    """

    def __init__(self, registrar: Registrar, timeout_s: float | None = None) -> None:
        self._registrar = registrar
        self.gallery, self.watchlist = registrar.gallery, registrar.watchlist
        self.unkept = registrar.unkept
        self._expires_at = None if timeout_s is None else monotonic() + timeout_s
        self._lock = Lock()
        self._has_given_up = False
        self._asked: Future[Any] | None = None

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        with self._lock:
            left_s = self._left_s()
            if self._has_given_up or (left_s is not None and left_s <= 0):
                raise _too_late()
            future = self._registrar.schedule(perform, timeout_s=left_s)
            self._asked = future
        try:
            return future.result(self._left_s())
        except TimeoutError:
            if not future.done() and future.cancel():
                raise _too_late() from None
            return future.result()
        except CancelledError:
            raise _too_late() from None

    def give_up(self) -> None:
        """Lets nothing begin any more; what has begun goes on."""
        with self._lock:
            self._has_given_up = True
            asked = self._asked
        if asked is not None:
            asked.cancel()

    def _left_s(self) -> float | None:
        return None if self._expires_at is None else max(0.0, self._expires_at - monotonic())


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("the time ran out before the change began: nothing was stored")
