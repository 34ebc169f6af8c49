"""Refusals of a load test, and the signals that end one."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from engine.errors import RequestError


class LoadTestRefused(RequestError, code="LOADTEST.REFUSED"):
    """The test cannot be run as asked; the message is one line that says what to do instead."""


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER_S = 1.0
"""`timeout` and the like tell this process, and then its whole group: two signals so close are one,
and the second does not end the cleaning up."""


def interrupt_on_signals() -> None:
    """Turns every signal that ends the process into `KeyboardInterrupt`, so that it cleans up."""
    last_s = float("-inf")

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal last_s
        now_s = time.monotonic()
        is_first, last_s = now_s - last_s > TOGETHER_S, now_s
        if is_first:
            raise KeyboardInterrupt

    for one in ENDING:
        # Under `nohup` SIGHUP is ignored, and has to stay so.
        if one is not signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, interrupt)


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignores the signals that end a load test while its block runs."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
