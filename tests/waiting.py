"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 120


def wait_until(holds: Callable[[], T]) -> T:
    """The first answer that is true."""
    give_up_at = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(0.01)
    return found
