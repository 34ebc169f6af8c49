"""The registrar as a service: what callers get, whatever they and the writer do meanwhile."""

import asyncio
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from engine.batching import Call
from engine.errors import DeadlinePassed, IdempotencyMismatch, RequestError
from engine.matching.checks.picture import FaceVector
from engine.matching.judge import Judge
from schema.phases import Phase
from schema.reasons import Decision
from serving.errors import NotReady
from serving.registrar.open_registry import open_pool
from serving.registrar.protocol import HolderFace
from serving.settings.settings import make_settings
from serving.telemetry import metrics
from serving.telemetry.metrics import BATCH_SIZE
from tests.serving.local_registrar import LocalRegistrar
from tests.serving.meters import RecordingMeter
from tests.serving.registrar.conftest import WAIT_S, reach, wait_for_queued

pytestmark = pytest.mark.anyio


async def test_calls_that_arrive_one_after_the_other_while_the_writer_is_busy_are_decided_together(
    serve, keep, population, context, busy
) -> None:
    meter, kept = RecordingMeter(), keep(chosen=make_settings({"registrar": {"batch_size": 2}}))
    registrar = serve(kept, meter)
    await reach(registrar)
    asked = registrar.by(context)
    with busy(kept.last.registrar):
        calls = [asyncio.create_task(asked.enroll(population.request())) for _ in range(2)]
        await wait_for_queued(kept, 2)
    await asyncio.gather(*calls)
    # The last are counted after they were answered.
    await registrar.service.drain(5)
    assert meter.values(BATCH_SIZE, "judge") == [2]


async def test_a_call_that_is_late_or_cancelled_while_it_waits_commits_nothing(
    registrar, kept, population, context, busy
) -> None:
    late, left, good = population.request(), population.request(), population.request()
    with busy(kept.last.registrar):
        cancelled = asyncio.create_task(registrar.by(context).enroll(left))
        await wait_for_queued(kept, 1)
        cancelled.cancel()
        with pytest.raises(DeadlinePassed):
            await registrar.by(replace(context, timeout_s=0.1)).enroll(late)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        waiting = asyncio.create_task(registrar.by(context).enroll(good))
        await wait_for_queued(kept, 1)
    assert (await waiting).decision is Decision.APPROVED
    # Their keys are free: the same requests are judged now.
    for request in (late, left):
        assert not (await registrar.by(context).enroll(request)).is_repeated
    assert kept.last.store.counts()["enrollments"] == 3


async def test_what_was_taken_before_its_caller_left_is_fetched_by_its_key(
    registrar, population, context, monkeypatch
) -> None:
    request = population.request()
    release, judging = threading.Event(), threading.Event()
    judge = Judge.judge

    def slow(*arguments: Any, **named: Any) -> Any:
        judging.set()
        assert release.wait(120)
        return judge(*arguments, **named)

    monkeypatch.setattr(Judge, "judge", slow)
    call = asyncio.create_task(registrar.by(context).enroll(request))
    assert await asyncio.to_thread(judging.wait, WAIT_S)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    answer = None
    async with asyncio.timeout(WAIT_S):
        while answer is None:
            with suppress(RequestError):
                answer = await registrar.by(context).enroll(request)
    assert answer.is_repeated
    other = population.request(idempotency_key=request.idempotency_key)
    with pytest.raises(IdempotencyMismatch):
        await registrar.by(context).enroll(other)


async def test_a_drain_answers_what_waits_refuses_what_comes_and_keeps_a_snapshot(
    registrar, kept, population, context, busy, monkeypatch
) -> None:
    monkeypatch.setattr("serving.deployment.deployment.SNAPSHOT_AFTER", -1)
    asked = registrar.by(context)
    with busy(kept.last.registrar):
        waiting = [asyncio.create_task(asked.enroll(population.request())) for _ in range(5)]
        await wait_for_queued(kept, 5)
        drained = asyncio.create_task(registrar.service.drain(10))
        await reach(registrar, Phase.DRAINING)
        with pytest.raises(NotReady):
            await registrar.by(context).enroll(population.request())
        assert not drained.done()
    assert {answer.decision for answer in await asyncio.gather(*waiting)} == {Decision.APPROVED}
    await drained
    assert not (await registrar.status()).is_ready
    with kept() as deployment:
        # The lease is free, and the gallery as it was left comes from the disk.
        assert deployment.registrar.queued == 0
        assert deployment.restored.loaded == 5


async def test_a_drain_waits_for_calls_that_wait_in_no_queue(
    registrar, kept, population, context, monkeypatch
) -> None:
    person, reading, go_on = population.person(), threading.Event(), threading.Event()
    request = population.request(person)
    await registrar.by(context).enroll(request)
    read = kept.last.store.lines_of

    def read_slowly(document_id: str) -> Any:
        reading.set()
        assert go_on.wait(120)
        return read(document_id)

    monkeypatch.setattr(kept.last.store, "lines_of", read_slowly)
    call = asyncio.create_task(
        registrar.by(context).read_lines(request.document, HolderFace(FaceVector(person)))
    )
    assert await asyncio.to_thread(reading.wait, WAIT_S)
    drained = asyncio.create_task(registrar.service.drain(10))
    await reach(registrar, Phase.DRAINING)
    # Time for a drain that would not wait; too short, it only hides that.
    await asyncio.sleep(0.2)
    go_on.set()
    assert list((await call).numbers.values()) == [request.msisdn]
    await drained


async def test_every_queue_and_batch_is_metered(serve, kept, population, context, settings) -> None:
    meter = RecordingMeter()
    registrar: LocalRegistrar = serve(kept, meter)
    await reach(registrar)
    await registrar.by(context).enroll(population.request())
    await registrar.by(context).identify(population.person()[None], 0.5)
    async with asyncio.timeout(WAIT_S):
        while 1 not in meter.values(metrics.REFERENCES):
            await asyncio.sleep(0.01)
    # The last are counted after they were answered.
    await registrar.service.drain(5)
    for stage in ("judge", "search", "audit"):
        assert min(meter.values(metrics.BATCH_SIZE, stage)) > 0
    assert min(meter.values(metrics.STAGE_SECONDS, "publish")) >= 0
    assert meter.values(metrics.DECISIONS, "approved") == [1]
    assert meter.values(metrics.SEQUENCE) == meter.values(metrics.STORE_SEQUENCE)
    for queue, capacity in (
        ("decisions", settings.registrar.queue_size),
        ("probes", settings.serve.probes_waiting),
    ):
        assert min(meter.values(metrics.QUEUE_DEPTH, queue)) >= 0
        assert capacity in meter.values(metrics.QUEUE_CAPACITY, queue)


def test_work_that_would_end_its_thread_fails_and_the_thread_goes_on() -> None:
    def panic() -> None:
        raise SystemExit

    pool = open_pool("test", threads=1, waiting=1)
    assert isinstance(pool.submit(Call(panic)).exception(120), RuntimeError)
    assert pool.submit(Call(lambda: "next")).result(120) == "next"
    pool.close(10)
