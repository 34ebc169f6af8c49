"""Whose photographs are taken next, who is refused a place, and who is waited for no more."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from engine.errors import DeadlinePassed
from serving.errors import Busy
from serving.ingress.extraction_queue import BATCH_PHOTOGRAPHS, ExtractionQueue
from tests.serving.ingress.callers import (
    CAPACITY,
    RecordingMeter,
    hold_worker,
    images,
    many,
    run,
    start,
)


def test_photographs_of_all_that_wait_are_extracted_together(
    queue: ExtractionQueue, extractor: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, *(many(f"call{n}-", 2) for n in range(10)))
        extractor.released.set()
        await asyncio.gather(held, *tasks)

    run(body)
    queue.close()
    assert [len(batch) for batch in extractor.batches] == [1, BATCH_PHOTOGRAPHS, 4]
    assert meter.batches == [1, BATCH_PHOTOGRAPHS, 4]
    assert meter.stages == ["extract"] * 3
    assert extractor.batches[1] == [image for n in range(8) for image in many(f"call{n}-", 2)]


def test_a_long_call_lets_others_in_after_each_batch(
    queue: ExtractionQueue, extractor: Any
) -> None:
    finished: list[str] = []

    async def body() -> None:
        held = await hold_worker(queue, extractor)
        long, short = await start(queue, many("long", 100), images("short1", "short2"))
        long.add_done_callback(lambda _: finished.append("long"))
        short.add_done_callback(lambda _: finished.append("short"))
        extractor.released.set()
        outcomes = await asyncio.gather(held, long, short)
        assert [len(one) for one in outcomes] == [1, 100, 2]

    run(body)
    assert finished == ["short", "long"]
    assert extractor.batches[2][:2] == images("short1", "short2")


def test_a_pair_is_never_cut_by_the_end_of_a_batch(queue: ExtractionQueue, extractor: Any) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, images("one"), *(many(f"pair{n}-", 2) for n in range(8)))
        extractor.released.set()
        await asyncio.gather(held, *tasks)

    run(body)
    assert [len(batch) for batch in extractor.batches] == [1, BATCH_PHOTOGRAPHS - 1, 2]
    assert extractor.batches[2] == many("pair7-", 2)


def test_batch_calls_together_leave_half_of_the_places_to_pairs(
    queue: ExtractionQueue, extractor: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        bulk = await start(queue, *(many(f"bulk{n}-", 4 * CAPACITY) for n in range(2)))
        with pytest.raises(Busy):
            await queue.sample(many("bulk", 4 * CAPACITY))
        assert meter.depths[-1] == CAPACITY // 2
        pairs = await start(queue, *(many(f"pair{n}-", 2) for n in range(CAPACITY // 4)))
        assert meter.depths[-1] == CAPACITY
        with pytest.raises(Busy):
            await queue.sample(images("one more"))
        extractor.released.set()
        assert {len(one) for one in await asyncio.gather(*pairs)} == {2}
        assert {len(one) for one in await asyncio.gather(*bulk)} == {4 * CAPACITY}
        await held

    run(body)
    assert meter.depths[-1] == 0


def test_pairs_and_batches_take_turns(queue: ExtractionQueue, extractor: Any) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        bulk = await start(queue, many("bulk1-", 40), many("bulk2-", 40))
        pairs = await start(queue, *(many(f"pair{n}-", 2) for n in range(12)))
        extractor.released.set()
        await asyncio.gather(held, *bulk, *pairs)

    run(body)
    shown = [batch[0][:4] for batch in extractor.batches]
    assert shown == [b"held", b"bulk", b"pair", b"bulk", b"pair", b"bulk", b"bulk", b"bulk"]
    assert [len(batch) for batch in extractor.batches[1:]] == [16, 16, 16, 8, 16, 16, 16]


def test_room_that_batches_leave_is_filled_with_pairs(
    queue: ExtractionQueue, extractor: Any
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, many("bulk", 5), images("a1", "a2"), images("b"))
        extractor.released.set()
        await asyncio.gather(held, *tasks)

    run(body)
    assert extractor.batches[1] == [*many("bulk", 5), b"a1", b"a2", b"b"]


def test_a_full_queue_refuses_at_once_and_recovers(
    queue: ExtractionQueue, extractor: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, *(many(f"call{n}-", 2) for n in range(CAPACITY // 2)))
        before = time.perf_counter()
        with pytest.raises(Busy) as refused:
            await queue.sample(images("one more"))
        assert time.perf_counter() - before < 0.05
        assert refused.value.retry_after_s is not None
        extractor.released.set()
        await asyncio.gather(held, *tasks)
        assert len(await queue.sample(images("one more"))) == 1

    run(body)
    assert max(meter.depths) == CAPACITY
    assert meter.depths[-1] == 0


def test_a_call_with_more_photographs_than_places_is_served_and_leaves_places(
    queue: ExtractionQueue, extractor: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, many("large", 4 * CAPACITY), images("small1", "small2"))
        extractor.released.set()
        _, large, small = await asyncio.gather(held, *tasks)
        assert len(large) == 4 * CAPACITY
        assert len(small) == 2

    run(body)
    assert max(meter.depths) <= CAPACITY // 2 + 2
    assert meter.depths[-1] == 0


def test_a_cancelled_call_is_not_extracted_and_frees_its_places(
    queue: ExtractionQueue, extractor: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        gone, stays = await start(queue, images("gone1", "gone2"), images("stays"))
        gone.cancel()
        await asyncio.sleep(0.01)
        assert meter.depths[-1] == 1
        extractor.released.set()
        await asyncio.gather(held, stays)
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(body)
    assert [image for batch in extractor.batches for image in batch] == images("held", "stays")


def test_a_call_past_its_deadline_is_answered_then_and_never_extracted(
    queue: ExtractionQueue, extractor: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        before = time.perf_counter()
        with pytest.raises(DeadlinePassed):
            await queue.sample(images("late"), timeout_s=0.05)
        assert 0.04 < time.perf_counter() - before < 5
        assert meter.depths[-1] == 0
        extractor.released.set()
        await held

    run(body)
    assert extractor.batches == [images("held")]


def test_a_call_without_time_left_is_refused(queue: ExtractionQueue) -> None:
    with pytest.raises(DeadlinePassed):
        run(lambda: queue.sample(images("late"), timeout_s=0.0))


def test_a_loop_that_is_late_itself_does_not_make_dead_work(
    queue: ExtractionQueue, extractor: Any
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        late = asyncio.create_task(queue.sample(images("late"), timeout_s=0.02))
        await asyncio.sleep(0)
        time.sleep(0.05)
        extractor.released.set()
        while not extractor.batches:
            time.sleep(0.001)
        time.sleep(0.05)
        with pytest.raises(DeadlinePassed):
            await late
        await held

    run(body)
    assert extractor.batches == [images("held")]
