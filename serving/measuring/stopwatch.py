"""How long a call takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def time_call(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
