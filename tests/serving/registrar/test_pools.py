"""Calls that block: a bound on how many wait, and none that waits in vain."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any

import pytest

from engine.batching import Batcher, Pending
from serving.errors import Busy, Interrupted
from serving.registrar.operations import finish_by
from serving.registrar.service import open_pool


@pytest.fixture
def pool() -> Iterator[Batcher[Callable[[], Any], Any]]:
    opened = open_pool("test", threads=1, waiting=1)
    yield opened
    opened.close(10)


def submit(pool: Batcher[Callable[[], Any], Any], work: Callable[[], Any]) -> Future[Any]:
    return pool.submit(Pending(work))


def hold(pool: Batcher[Callable[[], Any], Any]) -> threading.Event:
    """The only thread is at work until the event is set."""
    begun, release = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert release.wait(120)

    submit(pool, wait)
    assert begun.wait(120)
    return release


def test_what_would_wait_behind_too_many_is_refused_and_places_come_back(
    pool: Batcher[Callable[[], Any], Any],
) -> None:
    release = hold(pool)
    waiting = submit(pool, lambda: "done")
    with pytest.raises(Busy):
        submit(pool, lambda: "refused")
    assert waiting.cancel()
    again = submit(pool, lambda: "again")
    release.set()
    assert again.result(120) == "again"


def test_work_that_a_closing_pool_drops_is_an_interruption(
    pool: Batcher[Callable[[], Any], Any],
) -> None:
    release = hold(pool)
    dropped = submit(pool, lambda: "never")

    async def ask() -> None:
        call = asyncio.create_task(finish_by(dropped, monotonic() + 30))
        await asyncio.sleep(0)
        pool.fail(Interrupted("the service stops: ask again"))
        with pytest.raises(Interrupted):
            await call
        release.set()

    asyncio.run(ask())


def test_work_that_would_end_its_thread_fails_and_the_thread_goes_on(
    pool: Batcher[Callable[[], Any], Any],
) -> None:
    def panic() -> None:
        raise SystemExit

    assert isinstance(submit(pool, panic).exception(120), RuntimeError)
    assert submit(pool, lambda: "next").result(120) == "next"
