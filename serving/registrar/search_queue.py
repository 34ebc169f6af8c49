"""1:N searches of many callers at once, beside the writer."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from engine.errors import DeadlinePassed, copy_for_one
from engine.matching.identification import Identification, identify
from engine.registry.reader import Reader
from indexes.base import check_threshold, check_vectors
from indexes.gallery import Gallery
from serving.errors import Busy, Interrupted
from serving.registrar.protocol import MOST_CANDIDATES, Probes

_log = logging.getLogger(__name__)

ROWS_AT_ONCE = 1024
"""How many probes one search takes, if no single call brings more."""

Answers = list[Identification]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    probes: Probes = field(repr=False)
    threshold: float
    expires_at: float | None
    future: Future[Answers] = field(default_factory=Future)


class SearchQueue:
    """One thread that searches for all who wait: what gathers during one search is the next.

    Calls with one threshold share a pass over the gallery and one look-up of the owners. At most
    `capacity` probes wait; a call that is cancelled or out of time is not searched for.
    `observe(probes, seconds)` is told of each pass.
    """

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
        self._observe = observe
        self._waiting: deque[_Call] = deque()
        self._queued = 0
        # Reentrant: a call may be cancelled while it is held.
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="searches", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """How many probes wait."""
        return self._queued

    @property
    def is_alive(self) -> bool:
        """Whether its thread lives: without it nobody who waits is answered."""
        return self._thread.is_alive()

    def submit(
        self, probes: Probes, threshold: float, timeout_s: float | None = None
    ) -> Future[Answers]:
        """The references at or above the threshold, for each row of float32[n, d]: the best
        `MOST_CANDIDATES` of them, and how many there are.

        `Busy` at once where too many wait; `DeadlinePassed` for what waited too long. Rows that
        are no unit vectors are refused here, so that they spoil no other call.
        """
        rows = check_vectors(probes, self._gallery.dim)
        expires_at = None if timeout_s is None else monotonic() + timeout_s
        call = _Call(rows, check_threshold(threshold), expires_at)
        with self._changed:
            if self._is_closed:
                raise Interrupted("the gallery is being closed: try again in a moment")
            if self._waiting and self._queued + len(rows) > self.capacity:
                raise Busy("too many searches wait: try again in a second")
            self._waiting.append(call)
            self._queued += len(rows)
            self._changed.notify()
        call.future.add_done_callback(lambda future: self._withdraw(call, future))
        return call.future

    def close(self) -> None:
        """Searches for all who wait, then ends."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        calls: list[_Call] = []
        try:
            while calls := self._take():
                groups = defaultdict(list)
                for call in calls:
                    if self._begins(call):
                        groups[call.threshold].append(call)
                for threshold, group in groups.items():
                    self._search(group, threshold)
        finally:
            self._abandon(calls)

    def _abandon(self, taken: Sequence[_Call]) -> None:
        """Answers whoever is left, where the thread ends on what nothing else has caught."""
        with self._changed:
            self._is_closed = True
            left = [*taken, *self._waiting]
            self._waiting.clear()
            self._queued = 0
        _fail(left, Interrupted("the searches have stopped and are begun again: ask again"))

    def _take(self) -> list[_Call]:
        """Waits for calls, and takes all there are; nothing once the queue is closed and empty."""
        taken: list[_Call] = []
        rows = 0
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            while self._waiting:
                if taken and rows + len(self._waiting[0].probes) > ROWS_AT_ONCE:
                    break
                taken.append(self._waiting.popleft())
                rows += len(taken[-1].probes)
            self._queued -= rows
        return taken

    def _begins(self, call: _Call) -> bool:
        if not call.future.set_running_or_notify_cancel():
            return False
        if call.expires_at is None or monotonic() < call.expires_at:
            return True
        call.future.set_exception(DeadlinePassed("the time ran out while the search waited"))
        return False

    def _search(self, group: Sequence[_Call], threshold: float) -> None:
        started = monotonic()
        try:
            probes = np.concatenate([call.probes for call in group])
            answers = identify(
                probes, self._gallery, self._registry, threshold=threshold, most=MOST_CANDIDATES
            )
            assert len(answers) == len(probes), "a search answers for each of its probes"
            start = 0
            for call in group:
                end = start + len(call.probes)
                call.future.set_result(answers[start:end])
                start = end
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            _fail(group, error)
        else:
            self._tell(len(probes), monotonic() - started)

    def _tell(self, probes: int, seconds: float) -> None:
        if self._observe is None:
            return
        try:
            self._observe(probes, seconds)
        except Exception as error:  # noqa: BLE001 - who counts must not stop who searches
            _log.warning("a search was not counted (%s)", type(error).__name__)

    def _withdraw(self, call: _Call, future: Future[Answers]) -> None:
        if not future.cancelled():
            return
        with self._changed:
            if call in self._waiting:
                self._waiting.remove(call)
                self._queued -= len(call.probes)


def _fail(calls: Sequence[_Call], error: Exception) -> None:
    for call in calls:
        if not call.future.done():
            # An exception of its own for each, since they are raised in many threads.
            call.future.set_exception(copy_for_one(error))
