"""Calls that block: a bound on how many wait, and none that waits in vain."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic

import pytest

from serving.refusals import Busy, Interrupted
from serving.service.clerks import Clerks
from serving.service.waiting import finish_by


def test_what_would_wait_behind_too_many_is_refused_and_places_come_back() -> None:
    clerks, release = Clerks("test", threads=1, waiting=1), threading.Event()
    running = clerks.submit(lambda: release.wait(10))
    waiting = clerks.submit(lambda: "done")
    with pytest.raises(Busy):
        clerks.submit(lambda: "refused")
    assert waiting.cancel()
    again = clerks.submit(lambda: "again")
    release.set()
    assert running.result(10)
    assert again.result(10) == "again"
    clerks.close()


def test_work_that_a_closing_pool_drops_is_an_interruption() -> None:
    clerks, release = Clerks("test", threads=1, waiting=1), threading.Event()
    clerks.submit(lambda: release.wait(10))
    dropped = clerks.submit(lambda: "never")

    async def ask() -> None:
        call = asyncio.create_task(finish_by(dropped, monotonic() + 30))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(clerks.close))
        with pytest.raises(Interrupted):
            await call
        release.set()
        await closing

    asyncio.run(ask())
