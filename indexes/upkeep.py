"""The thread that seals, merges and compacts behind a gallery."""

from __future__ import annotations

import logging
from threading import Event, Thread
from types import TracebackType
from typing import Self

from indexes.gallery import Gallery

_log = logging.getLogger(__name__)
# A clock that was set, or a deadline that passed while nothing changed, is seen after so long.
_LOOK_EVERY_S = 60.0
_LEAST_WAIT_S = 0.01
_RETRY_AFTER_S = 5.0


class Upkeep:
    """Does what is due in a gallery, whenever something has changed, until it is closed.

    A job that fails (for want of memory) leaves the gallery as it was: a line is logged, and it
    is tried again later.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        retry_after_s: float = _RETRY_AFTER_S,
    ) -> None:
        self._gallery = gallery
        self._retry_after_s = retry_after_s
        self._closing = Event()
        self._thread: Thread | None = None

    def start(self) -> Self:
        """Begins; once only."""
        assert self._thread is None
        self._thread = Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Ends after the job that is running, if one is; what is due stays due."""
        self._closing.set()
        self._gallery.stir()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                while not self._closing.is_set() and self._gallery.maintain():
                    pass
            except Exception as error:  # noqa: BLE001 - the thread must outlive any failure
                # The message may hold anything, the type holds nothing of a reference.
                _log.warning(
                    "upkeep of the gallery failed (%s) and is tried again in %g s",
                    type(error).__name__,
                    self._retry_after_s,
                )
                self._closing.wait(self._retry_after_s)
            else:
                self._gallery.await_stir(self._wait_s())

    def _wait_s(self) -> float:
        left_s = self._gallery.deadline_s()
        return _LOOK_EVERY_S if left_s is None else min(_LOOK_EVERY_S, max(_LEAST_WAIT_S, left_s))
