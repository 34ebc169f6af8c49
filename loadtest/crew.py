"""Several calls at once, before and after a load."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gevent.pool import Pool

CALLS_AT_ONCE = 4
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def work_together(work: Callable[[Item], Answer], items: Iterable[Item]) -> list[Answer]:
    """An answer for each item, in their order; raises the first fault, when all are done.

    Whatever is still under way when it is interrupted is ended with it.
    """

    def attempt(item: Item) -> tuple[Answer | None, Exception | None]:
        try:
            return work(item), None
        except Exception as fault:  # noqa: BLE001 - gevent would print it, and go on
            return None, fault

    pool = Pool(CALLS_AT_ONCE)
    try:
        done = pool.map(attempt, items)
    finally:
        pool.kill()
    faults = [fault for _, fault in done if fault is not None]
    if faults:
        raise faults[0]
    return [answer for answer, _ in done]
