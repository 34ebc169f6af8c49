"""Large bodies are read in threads, so that the event loop answers others meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 256 * 1024
"""A smaller body costs the loop less than a thread does."""

# What is decoded takes memory besides its body: a few at a time.
_threads = ThreadPoolExecutor(2, "decoder")


async def work_apart(size_bytes: int, work: Callable[P, T], *given: P.args, **more: P.kwargs) -> T:
    """What the work on a body of this size comes to."""
    if size_bytes <= LARGE_BYTES:
        return work(*given, **more)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, partial(work, *given, **more))
