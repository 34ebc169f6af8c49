"""The registrar as a service: what callers get, whatever they and the writer do meanwhile."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
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
from serving.registrar.protocol import CallContext, LineTarget, Phase
from serving.registrar.service import LocalRegistrar
from serving.settings import make_settings
from serving.telemetry.metrics import BATCH_SIZE
from tests.serving.meters import RecordingMeter


def test_of_32_racing_enrollments_of_one_face_exactly_one_is_new(
    serve: Any, kept: Any, reach: Any, population: Any, context: CallContext
) -> None:
    async def race() -> list[Decision]:
        registrar = serve(kept)
        await reach(registrar)
        person = population.person()
        calls = [registrar.enroll(population.request(person), context) for _ in range(32)]
        return [answer.decision for answer in await asyncio.gather(*calls)]

    decisions = asyncio.run(race())
    assert decisions.count(Decision.APPROVED) == 1
    assert decisions.count(Decision.REJECTED) == 31
    assert kept.last.store.counts()["live_references"] == 1


def test_calls_that_arrive_one_after_the_other_while_the_writer_is_busy_are_decided_together(
    serve: Any,
    kept: Any,
    reach: Any,
    population: Any,
    context: CallContext,
    busy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.registrar.service.GATHER_S", 1.0)
    meter = RecordingMeter()

    async def ask() -> None:
        registrar = serve(kept, meter)
        await reach(registrar)
        with busy(kept.last):
            calls = [
                asyncio.create_task(registrar.enroll(population.request(), context))
                for _ in range(2)
            ]
            await asyncio.sleep(0.05)
        await asyncio.gather(*calls)
        first = asyncio.create_task(registrar.enroll(population.request(), context))
        await asyncio.sleep(0.1)
        await asyncio.gather(first, registrar.enroll(population.request(), context))
        # The last are counted after they were answered.
        await registrar.service.drain(5)

    asyncio.run(ask())
    assert meter.values(BATCH_SIZE, "judge") == [2, 2]


def test_a_call_that_is_late_or_cancelled_while_it_waits_commits_nothing(
    serve: Any, kept: Any, reach: Any, population: Any, context: CallContext, busy: Any
) -> None:
    late, left, good = population.request(), population.request(), population.request()

    async def ask() -> None:
        registrar = serve(kept)
        await reach(registrar)
        with busy(kept.last):
            cancelled = asyncio.create_task(registrar.enroll(left, context))
            await asyncio.sleep(0.05)
            assert kept.last.registrar.queued == 1
            cancelled.cancel()
            with pytest.raises(DeadlinePassed):
                await registrar.enroll(late, replace(context, timeout_s=0.1))
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            waiting = asyncio.create_task(registrar.enroll(good, context))
            await asyncio.sleep(0.05)
        assert (await waiting).decision is Decision.APPROVED
        # Their keys are free: the same requests are judged now.
        for request in (late, left):
            assert not (await registrar.enroll(request, context)).is_repeated

    asyncio.run(ask())
    assert kept.last.store.counts()["enrollments"] == 3


def test_what_was_taken_before_its_caller_left_is_fetched_by_its_key(
    serve: Any,
    kept: Any,
    reach: Any,
    population: Any,
    context: CallContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = population.request()
    release, judging = threading.Event(), threading.Event()
    judge = Judge.judge

    def slow(*arguments: Any, **named: Any) -> Any:
        judging.set()
        assert release.wait(120)
        return judge(*arguments, **named)

    async def ask() -> None:
        registrar = serve(kept)
        await reach(registrar)
        monkeypatch.setattr(Judge, "judge", slow)
        call = asyncio.create_task(registrar.enroll(request, context))
        await asyncio.to_thread(judging.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        for _ in range(100):
            try:
                answer = await registrar.enroll(request, context)
                break
            except RequestError:
                await asyncio.sleep(0.05)
        assert answer.is_repeated
        with pytest.raises(IdempotencyMismatch):
            await registrar.enroll(
                population.request(idempotency_key=request.idempotency_key), context
            )

    asyncio.run(ask())


def test_a_full_queue_refuses_at_once(
    serve: Any, keep: Any, reach: Any, population: Any, context: CallContext, busy: Any
) -> None:
    small = make_settings({"registrar": {"queue_size": 2}})
    kept = keep(chosen=small)

    async def ask() -> None:
        registrar = serve(kept)
        await reach(registrar)
        loop = asyncio.get_running_loop()
        with busy(kept.last):
            waiting = [
                asyncio.create_task(registrar.enroll(population.request(), context)) for _ in "ab"
            ]
            await asyncio.sleep(0.05)
            started = loop.time()
            with pytest.raises(Overloaded):
                await registrar.enroll(population.request(), context)
            with pytest.raises(Overloaded):
                await registrar.close_line(LineTarget("+8613800138000"), context)
            assert loop.time() - started < 0.05
            assert (kept.last.registrar.queued, kept.last.registrar.queue_size) == (2, 2)
        await asyncio.gather(*waiting)

    asyncio.run(ask())


def test_an_unforeseen_error_shows_its_type_and_nothing_of_its_text(
    serve: Any, kept: Any, reach: Any, population: Any, context: CallContext, lines: Any
) -> None:
    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)

        def break_down(*_: object) -> None:
            raise KeyError("+8613800138000")

        kept.last.store.lines_in_use = break_down
        with pytest.raises(SosieError) as caught:
            await registrar.check_line(LineTarget("+8613800138000"), population.person(), context)
        assert "KeyError" in str(caught.value)
        assert "138" not in str(caught.value) + str(lines.entries)
        assert (await registrar.status()).phase is Phase.READY

    asyncio.run(ask())
