"""The registrar as a service: what callers get, whatever they and the writer do meanwhile."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest

from engine.errors import (
    DeadlinePassed,
    IdempotencyMismatch,
    Overloaded,
    RequestError,
    SosieError,
)
from engine.matching.judge import Judge
from engine.reasons import Decision
from serving.errors import Busy, Interrupted
from serving.registrar.client import LocalDesk
from serving.registrar.protocol import CallContext, LineTarget, Phase
from serving.registrar.service import Clerks, finish_by
from serving.settings import make_settings
from serving.telemetry.metrics import BATCH_SIZE
from tests.serving.meters import RecordingMeter


def test_of_32_racing_enrollments_of_one_face_exactly_one_is_new(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext
) -> None:
    async def race() -> list[Decision]:
        desk = serve(kept)
        await reach(desk)
        person = crowd.person()
        calls = [desk.enroll(crowd.request(person), context) for _ in range(32)]
        return [answer.decision for answer in await asyncio.gather(*calls)]

    decisions = asyncio.run(race())
    assert decisions.count(Decision.APPROVED) == 1
    assert decisions.count(Decision.REJECTED) == 31
    assert kept.last.store.counts()["live_references"] == 1


def test_in_a_rush_those_who_come_one_after_the_other_are_decided_together(
    serve: Any,
    kept: Any,
    reach: Any,
    crowd: Any,
    context: CallContext,
    busy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.registrar.lifecycle.GATHER_S", 1.0)
    meter = RecordingMeter()

    async def ask() -> None:
        desk = serve(kept, meter)
        await reach(desk)
        with busy(kept.last):
            rush = [asyncio.create_task(desk.enroll(crowd.request(), context)) for _ in range(2)]
            await asyncio.sleep(0.05)
        await asyncio.gather(*rush)
        first = asyncio.create_task(desk.enroll(crowd.request(), context))
        await asyncio.sleep(0.1)
        await asyncio.gather(first, desk.enroll(crowd.request(), context))
        # The last are counted after they were answered.
        await desk.service.drain(5)

    asyncio.run(ask())
    assert meter.values(BATCH_SIZE, "judge") == [2, 2]


def test_a_call_that_is_late_or_cancelled_while_it_waits_commits_nothing(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext, busy: Any
) -> None:
    late, left, good = crowd.request(), crowd.request(), crowd.request()

    async def ask() -> None:
        desk = serve(kept)
        await reach(desk)
        with busy(kept.last):
            cancelled = asyncio.create_task(desk.enroll(left, context))
            await asyncio.sleep(0.05)
            assert kept.last.registrar.queued == 1
            cancelled.cancel()
            with pytest.raises(DeadlinePassed):
                await desk.enroll(late, replace(context, timeout_s=0.1))
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            waiting = asyncio.create_task(desk.enroll(good, context))
            await asyncio.sleep(0.05)
        assert (await waiting).decision is Decision.APPROVED
        # Their keys are free: the same requests are judged now.
        for request in (late, left):
            assert not (await desk.enroll(request, context)).is_repeated

    asyncio.run(ask())
    assert kept.last.store.counts()["enrollments"] == 3


def test_what_was_taken_before_its_caller_left_is_fetched_by_its_key(
    serve: Any,
    kept: Any,
    reach: Any,
    crowd: Any,
    context: CallContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = crowd.request()
    release, judging = threading.Event(), threading.Event()
    judge = Judge.judge

    def slow(*arguments: Any, **named: Any) -> Any:
        judging.set()
        assert release.wait(120)
        return judge(*arguments, **named)

    async def ask() -> None:
        desk = serve(kept)
        await reach(desk)
        monkeypatch.setattr(Judge, "judge", slow)
        call = asyncio.create_task(desk.enroll(request, context))
        await asyncio.to_thread(judging.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        for _ in range(100):
            try:
                answer = await desk.enroll(request, context)
                break
            except RequestError:
                await asyncio.sleep(0.05)
        assert answer.is_repeated
        with pytest.raises(IdempotencyMismatch):
            await desk.enroll(crowd.request(idempotency_key=request.idempotency_key), context)

    asyncio.run(ask())


def test_a_full_queue_refuses_at_once(
    serve: Any, keep: Any, reach: Any, crowd: Any, context: CallContext, busy: Any
) -> None:
    small = make_settings({"registrar": {"queue_size": 2}})
    kept = keep(chosen=small)

    async def ask() -> None:
        desk = serve(kept)
        await reach(desk)
        loop = asyncio.get_running_loop()
        with busy(kept.last):
            waiting = [asyncio.create_task(desk.enroll(crowd.request(), context)) for _ in "ab"]
            await asyncio.sleep(0.05)
            started = loop.time()
            with pytest.raises(Overloaded):
                await desk.enroll(crowd.request(), context)
            with pytest.raises(Overloaded):
                await desk.close_line(LineTarget("+8613800138000"), context)
            assert loop.time() - started < 0.05
            assert (kept.last.registrar.queued, kept.last.registrar.queue_size) == (2, 2)
        await asyncio.gather(*waiting)

    asyncio.run(ask())


def test_an_unforeseen_error_shows_its_type_and_nothing_of_its_text(
    serve: Any, kept: Any, reach: Any, crowd: Any, context: CallContext, lines: Any
) -> None:
    async def ask() -> None:
        desk: LocalDesk = serve(kept)
        await reach(desk)

        def break_down(*_: object) -> None:
            raise KeyError("+8613800138000")

        kept.last.store.lines_in_use = break_down
        with pytest.raises(SosieError) as caught:
            await desk.check_line(LineTarget("+8613800138000"), crowd.person(), context)
        assert "KeyError" in str(caught.value)
        assert "138" not in str(caught.value) + str(lines.entries)
        assert (await desk.status()).phase is Phase.READY

    asyncio.run(ask())


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


def test_what_would_wait_behind_too_many_is_refused_and_places_come_back() -> None:
    clerks, release = Clerks("test", threads=1, waiting=1), threading.Event()
    running = clerks.submit(lambda: release.wait(120))
    waiting = clerks.submit(lambda: "done")
    with pytest.raises(Busy):
        clerks.submit(lambda: "refused")
    assert waiting.cancel()
    again = clerks.submit(lambda: "again")
    release.set()
    assert running.result(120)
    assert again.result(120) == "again"
    clerks.close()


def test_work_that_a_closing_pool_drops_is_an_interruption() -> None:
    clerks, release = Clerks("test", threads=1, waiting=1), threading.Event()
    clerks.submit(lambda: release.wait(120))
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
