"""Background thread that seals, merges and compacts the segments of a gallery."""

from __future__ import annotations

import logging
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from indexes.base import Closing

if TYPE_CHECKING:
    from indexes.gallery import Gallery


_log = logging.getLogger(__name__)
# So that a clock that was set, or a deadline that passes without a change, is noticed.
_LOOK_EVERY_S = 60.0
_LEAST_WAIT_S = 0.01
_RETRY_AFTER_S = 5.0


class Upkeep(Closing):
    """Runs the jobs that are due in a gallery after each change, until it is closed.

    A job that fails (for lack of memory) leaves the gallery unchanged: it is logged and tried again
    later, and `fault` says so until one succeeds.
    """

    fault: str | None = None

    def __init__(self, gallery: Gallery, *, retry_after_s: float = _RETRY_AFTER_S) -> None:
        self._gallery = gallery
        self._retry_after_s = retry_after_s
        self._closing = Event()
        self._thread: Thread | None = None

    def start(self) -> Self:
        """Starts the thread; may be called once."""
        assert self._thread is None
        self._thread = Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stops the thread after the running job, if there is one; other jobs stay due."""
        self._closing.set()
        self._gallery.wake()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                while not self._closing.is_set() and self._gallery.maintain():
                    pass
            except Exception as error:  # noqa: BLE001 - the thread must outlive any failure
                # The type alone: a message may hold something of a reference.
                self.fault = f"upkeep of the gallery fails ({type(error).__name__})"
                _log.warning(
                    "upkeep of the gallery failed (%s) and is tried again in %g s",
                    type(error).__name__,
                    self._retry_after_s,
                )
            else:
                self.fault = None
                self._gallery.wait_for_work(self._wait_s())
                continue
            # After the handler, for an error holds what its job was copying.
            self._closing.wait(self._retry_after_s)

    def _wait_s(self) -> float:
        left_s = self._gallery.deadline_s()
        return _LOOK_EVERY_S if left_s is None else min(_LOOK_EVERY_S, max(_LEAST_WAIT_S, left_s))
