"""Audit entries of many threads, made durable together."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from datetime import datetime
from threading import Lock
from time import monotonic

from engine.errors import DeadlinePassed, Overloaded, SosieError, copy_for_one
from engine.matching.registrar import Registrar
from engine.registry.records import AuditEntry, Changes
from engine.registry.writer import Writer

_log = logging.getLogger(__name__)

Audit = Callable[[AuditEntry], None]
"""Makes an entry durable before it returns; raises where it could not."""

MOST_AT_ONCE = 1024
"""How many entries one transaction takes, if no single note brings more."""

_Note = tuple[tuple[AuditEntry, ...], Future[None]]


class Scribe:
    """Keeps audit entries beside the decisions: what gathers during one transaction is the next.

    It writes on the writer's thread, by turns with batches and whatever waits there. At most
    `queue_size` entries wait. `observe(entries, seconds)` is told of each transaction.
    """

    def __init__(
        self,
        registrar: Registrar,
        queue_size: int = 8192,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._registrar = registrar
        self.queue_size = queue_size
        self._observe = observe
        self._lock = Lock()
        self._waiting: deque[_Note] = deque()
        self._writing: list[_Note] = []
        self._queued = 0
        self._has_asked = False

    @property
    def queued(self) -> int:
        """How many entries wait."""
        return self._queued

    def note(self, entries: Sequence[AuditEntry]) -> Future[None]:
        """Done once the entries are durable; it cannot be cancelled, and fails as the commit does.

        Raises `Overloaded` where too many wait.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        if not entries:
            future.set_result(None)
            return future
        with self._lock:
            if self._waiting and self._queued + len(entries) > self.queue_size:
                raise Overloaded("too many audit entries wait: try again in a second")
            self._waiting.append((tuple(entries), future))
            self._queued += len(entries)
            must_ask = not self._has_asked
            self._has_asked = True
        if must_ask:
            self._ask()
        return future

    def keep(self, entry: AuditEntry, timeout_s: float | None = None) -> None:
        """Returns when the entry is durable; `DeadlinePassed` where that takes too long."""
        future = self.note([entry])
        try:
            future.result(timeout_s)
        except TimeoutError:
            if future.done():
                raise
            raise DeadlinePassed("the time ran out before the read could be audited") from None

    def _ask(self) -> None:
        try:
            turn = self._registrar.schedule(self._write, urgent=True)
        except SosieError as error:
            self._fail_all(error)
        else:
            turn.add_done_callback(self._end)

    def _write(self, writer: Writer, _now: datetime) -> None:
        started = monotonic()
        with self._lock:
            self._take()
        entries = [entry for given, _ in self._writing for entry in given]
        writer.commit(Changes(sequence=writer.sequence, audit=entries))
        self._tell(len(entries), monotonic() - started)

    def _tell(self, entries: int, seconds: float) -> None:
        if self._observe is None:
            return
        try:
            self._observe(entries, seconds)
        except Exception as error:  # noqa: BLE001 - what is committed has not failed
            _log.warning("a transaction was not counted (%s)", type(error).__name__)

    def _take(self) -> None:
        size = 0
        while self._waiting and (not size or size + len(self._waiting[0][0]) <= MOST_AT_ONCE):
            note = self._waiting.popleft()
            self._writing.append(note)
            size += len(note[0])
        self._queued -= size

    def _end(self, turn: Future[None]) -> None:
        error: BaseException | None
        try:
            error = turn.exception()
        except CancelledError as cancelled:
            error = cancelled
        with self._lock:
            written, self._writing = self._writing, []
        for _, future in written:
            _settle(future, error)
        with self._lock:
            must_ask = self._has_asked = bool(self._waiting)
        if must_ask:
            self._ask()

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
            self._queued = 0
            self._has_asked = False
        for _, future in left:
            _settle(future, error)


def _settle(future: Future[None], error: BaseException | None) -> None:
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(copy_for_one(error) if isinstance(error, Exception) else error)
