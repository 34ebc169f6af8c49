"""How a service is watched, and how it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any

import pytest

from engine.batching import Batcher, Pending
from engine.reasons import Decision
from serving.errors import Busy, Interrupted, NotReady
from serving.registrar.operations import finish_by
from serving.registrar.protocol import CallContext, Phase
from serving.registrar.service import LocalRegistrar, open_pool
from serving.settings import Settings
from serving.telemetry import metrics
from tests.serving.meters import RecordingMeter


def test_a_decision_is_one_line_of_the_log_without_the_person(
    serve: Any, kept: Any, reach: Any, population: Any, context: CallContext, lines: Any
) -> None:
    request = population.request()

    async def ask() -> Any:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        return await registrar.enroll(request, context)

    answer = asyncio.run(ask())
    decided = [line for line in lines.entries if line["event"] == "decided"]
    assert [line["enrollment_id"] for line in decided] == [answer.enrollment_id]
    assert decided[0]["correlator"] == "c-1"
    text = str(lines.entries)
    for secret in (request.msisdn, request.document.number, request.document.name):
        assert secret not in text


def test_a_drain_answers_what_waits_refuses_what_comes_and_keeps_a_snapshot(
    serve: Any,
    kept: Any,
    reach: Any,
    population: Any,
    context: CallContext,
    busy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.compose.SNAPSHOT_AFTER", -1)

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        with busy(kept.last):
            waiting = [
                asyncio.create_task(registrar.enroll(population.request(), context))
                for _ in range(5)
            ]
            await asyncio.sleep(0.05)
            drained = asyncio.create_task(registrar.service.drain(10))
            await reach(registrar, Phase.DRAINING)
            with pytest.raises(NotReady):
                await registrar.enroll(population.request(), context)
            assert not drained.done()
        assert {answer.decision for answer in await asyncio.gather(*waiting)} == {Decision.APPROVED}
        await drained
        assert not (await registrar.status()).is_ready

    asyncio.run(ask())
    with kept() as deployment:
        # The lease is free, and the gallery as it was left comes from the disk.
        assert deployment.registrar.queued == 0
        assert deployment.restored.loaded == 5


def test_a_drain_waits_for_calls_that_wait_in_no_queue(
    serve: Any,
    kept: Any,
    reach: Any,
    population: Any,
    context: CallContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person, reading, go_on = population.person(), threading.Event(), threading.Event()
    request = population.request(person)

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept)
        await reach(registrar)
        await registrar.enroll(request, context)
        read = kept.last.store.lines_of

        def read_slowly(document_id: str) -> Any:
            reading.set()
            assert go_on.wait(120)
            return read(document_id)

        monkeypatch.setattr(kept.last.store, "lines_of", read_slowly)
        call = asyncio.create_task(registrar.read_lines(request.document, person, context))
        assert await asyncio.to_thread(reading.wait, 10)
        drained = asyncio.create_task(registrar.service.drain(10))
        await reach(registrar, Phase.DRAINING)
        await asyncio.sleep(0.2)
        go_on.set()
        assert list((await call).numbers.values()) == [request.msisdn]
        await drained

    asyncio.run(ask())


def test_every_queue_and_batch_is_metered(
    serve: Any, kept: Any, reach: Any, population: Any, context: CallContext, settings: Settings
) -> None:
    meter = RecordingMeter()

    async def ask() -> None:
        registrar: LocalRegistrar = serve(kept, meter)
        await reach(registrar)
        await registrar.enroll(population.request(), context)
        await registrar.identify(population.person()[None], 0.5, context)
        while 1 not in meter.values(metrics.REFERENCES):
            await asyncio.sleep(0.05)

    asyncio.run(ask())
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
