"""Threads that carry out calls, and a bound on how many calls wait for one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

from serving.refusals import Busy

T = TypeVar("T")


class Clerks:
    """A pool of threads that refuses, with `Busy`, what would wait behind too many others."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._places = threads + waiting
        self._lock = Lock()
        self._taken = 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Until it begins the work may be cancelled."""
        with self._lock:
            if self._taken >= self._places:
                raise Busy("too many calls of this kind wait: try again in a second")
            self._taken += 1
        try:
            future = self._pool.submit(work)
        except BaseException:
            self._leave()
            raise
        future.add_done_callback(self._leave)
        return future

    def close(self) -> None:
        """Ends the threads after the work that runs; what waits is cancelled."""
        self._pool.shutdown(cancel_futures=True)

    def _leave(self, _done: Future[Any] | None = None) -> None:
        with self._lock:
            self._taken -= 1
