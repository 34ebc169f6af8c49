"""How long a coroutine waits for a thread, and what becomes of the work when it leaves."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from time import monotonic

import pytest

from engine.errors import DeadlinePassed
from serving.errors import Interrupted
from serving.registrar.operations import finish_by


def test_work_that_has_not_begun_in_time_is_cancelled() -> None:
    work: Future[str] = Future()
    with pytest.raises(DeadlinePassed):
        asyncio.run(finish_by(work, monotonic() + 0.05))
    assert work.cancelled()


def test_work_that_has_begun_is_waited_for_a_little_longer() -> None:
    work: Future[str] = Future()
    work.set_running_or_notify_cancel()
    threading.Timer(0.2, work.set_result, ["late"]).start()
    heard: list[str] = []
    result = asyncio.run(finish_by(work, monotonic() + 0.05, tell=heard.append, grace_s=5))
    assert (result, heard) == ("late", ["late"])


def test_work_that_does_not_end_is_left_and_heard_of_all_the_same() -> None:
    work: Future[str] = Future()
    work.set_running_or_notify_cancel()
    given_up, heard = [], []

    async def ask() -> None:
        with pytest.raises(Interrupted):
            await finish_by(
                work,
                monotonic() + 0.05,
                give_up=lambda: given_up.append(True),
                tell=heard.append,
            )
        work.set_result("at last")
        await asyncio.sleep(0.05)

    asyncio.run(ask())
    assert (given_up, heard) == ([True], ["at last"])


def test_a_caller_who_leaves_cancels_what_has_not_begun() -> None:
    work: Future[str] = Future()

    async def ask() -> None:
        call = asyncio.create_task(finish_by(work, monotonic() + 30))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(ask())
    assert work.cancelled()
