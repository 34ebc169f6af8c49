"""How a coroutine waits for work in a thread: until its deadline, and not a moment for a leaver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import TypeVar

from engine.errors import DeadlinePassed
from serving.refusals import Interrupted

T = TypeVar("T")

GRACE_S = 2.0
"""How much longer work may take that had begun when its time ran out."""


async def finish_by(
    future: Future[T],
    expires_at: float,
    *,
    give_up: Callable[[], object] | None = None,
    tell: Callable[[T], object] | None = None,
    grace_s: float = 0.0,
) -> T:
    """The future's result. `expires_at` is by the monotonic clock.

    A caller that is cancelled, or out of time, cancels work that has not begun, and calls
    `give_up`: then it is `DeadlinePassed`. What has begun is waited for `grace_s` longer, and is
    `Interrupted` then: it goes on, and may take effect. `tell` hears the result all the same.
    """
    wrapped = asyncio.wrap_future(future)

    def hear(ended: asyncio.Future[T]) -> None:
        # Asks for the error in any case, since whoever has left does not.
        if not ended.cancelled() and ended.exception() is None and tell is not None:
            tell(ended.result())

    wrapped.add_done_callback(hear)
    try:
        await asyncio.wait((wrapped,), timeout=max(0.0, expires_at - monotonic()))
        if not wrapped.done():
            if future.cancel():
                raise DeadlinePassed("the time ran out while the call waited: nothing was stored")
            if give_up is not None:
                give_up()
            await asyncio.wait((wrapped,), timeout=grace_s)
    except asyncio.CancelledError:
        future.cancel()
        if give_up is not None:
            give_up()
        raise
    return _read_result(wrapped)


def _read_result(wrapped: asyncio.Future[T]) -> T:
    if wrapped.cancelled():
        raise Interrupted("the service stops: ask again")
    if not wrapped.done():
        raise Interrupted(
            "the time ran out while the call was carried out: "
            "ask again, with the same Idempotency-Key if it has one"
        )
    return wrapped.result()
