"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 300


def wait_until(holds: Callable[[], T]) -> T:
    """The first answer that is true."""
    give_up_at, pause_s = time.monotonic() + WAIT_S, 0.005
    while not (found := holds()):
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)  # looking takes the processor from what is waited for
    return found
