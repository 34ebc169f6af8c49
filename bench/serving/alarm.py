"""An alarm to the microsecond: the timers of an event loop ring to the millisecond."""

from __future__ import annotations

import ctypes
import os
import time
from types import TracebackType
from typing import Self

_NONBLOCK, _ABSOLUTE = os.O_NONBLOCK, 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """A timerfd of Linux: its file can be read when the moment has come.

    Moments are those of `time.perf_counter()`, which is CLOCK_MONOTONIC there.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)

    def set(self, moment: float) -> None:
        """Rings once at `moment`, at once where that is past; replaces what was set before."""
        seconds = int(moment)
        self._spec.value.seconds = seconds
        # A value of zero would disarm it.
        self._spec.value.nanoseconds = max(1, int((moment - seconds) * 1e9))
        self._libc.timerfd_settime(self.fd, _ABSOLUTE, ctypes.byref(self._spec), None)

    def hush(self) -> None:
        """Takes note that it rang."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
