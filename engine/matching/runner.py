"""Who performs changes on the writer's thread, as those see it who ask for a change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from datetime import datetime
from threading import Lock
from time import monotonic
from typing import Any, Protocol, TypeVar

from engine.errors import DeadlinePassed
from engine.matching.registrar import Registrar
from engine.matching.watchlist import WatchList
from engine.registry.writer import Writer
from indexes.gallery import Gallery

T = TypeVar("T")


class Runner(Protocol):
    """The registrar, or what stands before it."""

    @property
    def gallery(self) -> Gallery: ...

    @property
    def watchlist(self) -> WatchList: ...

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        """Performs a change on the writer's thread, between two batches."""
        ...


class BoundedRunner:
    """The registrar for one call of a server: a change that cannot begin in time is not made.

    `run` raises `Overloaded` at once where the registrar's queue is full, and `DeadlinePassed`
    where the change had not begun within `timeout_s`, counted from the making of the runner, or
    when `give_up` was called. A change that has begun is waited for.
    """

    def __init__(self, registrar: Registrar, timeout_s: float | None = None) -> None:
        self._registrar = registrar
        self._expires_at = None if timeout_s is None else monotonic() + timeout_s
        self._lock = Lock()
        self._has_given_up = False
        self._asked: Future[Any] | None = None

    @property
    def gallery(self) -> Gallery:
        return self._registrar.gallery

    @property
    def watchlist(self) -> WatchList:
        return self._registrar.watchlist

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
        """Nothing begins any more; what has begun goes on."""
        with self._lock:
            self._has_given_up = True
            asked = self._asked
        if asked is not None:
            asked.cancel()

    def _left_s(self) -> float | None:
        return None if self._expires_at is None else max(0.0, self._expires_at - monotonic())


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("the time ran out before the change began: nothing was stored")
