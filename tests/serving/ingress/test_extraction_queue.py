"""The photographs that wait in an ingress become samples."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from engine.errors import DeadlinePassed, ImageDamaged
from engine.faces.extractor import open_extractor
from engine.matching.requests import Sample
from engine.matching.sampling import take_samples
from engine.reasons import Reason
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from serving.errors import Busy, NotReady
from serving.ingress.extraction_queue import BATCH_PHOTOGRAPHS, FacesQueue
from serving.telemetry.metrics import Meter
from tests.serving.ingress.callers import (
    CAPACITY,
    RecordingMeter,
    digests,
    hold_worker,
    images,
    many,
    run,
    start,
)


def test_samples_come_in_the_order_of_their_images(
    queue: FacesQueue, gated: Any, vault: Vault
) -> None:
    names = many("p", 40)
    got = run(lambda: queue.sample(names))
    expected = take_samples(names, gated, vault)
    assert digests(got) == digests(expected)
    for one, other in zip(got, expected, strict=True):
        assert isinstance(other, Sample)
        assert other.vector is not None
        assert np.allclose(one.vector, other.vector, atol=1e-6)


def test_no_photographs_are_no_work(queue: FacesQueue, gated: Any) -> None:
    assert run(lambda: queue.sample([])) == []
    assert gated.batches == []


def test_a_bad_image_is_a_value_and_its_neighbours_are_sampled(
    queue: FacesQueue, gated: Any
) -> None:
    good, bad, empty = run(lambda: queue.sample(images("good", "bad", "nobody")))
    assert isinstance(good, Sample)
    assert isinstance(bad, ImageDamaged)
    assert isinstance(empty, Sample)
    assert (empty.vector, empty.problems) == (None, (Reason.NO_FACE,))


def test_closing_answers_what_waited_and_takes_no_more(queue: FacesQueue, gated: Any) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        (waiting,) = await start(queue, many("waiting", 20))
        closing = asyncio.create_task(asyncio.to_thread(queue.close))
        while not queue.is_closing:
            await asyncio.sleep(0.001)
        with pytest.raises(NotReady):
            await queue.sample(images("too late"))
        assert not closing.done()
        gated.gate.set()
        await closing
        assert len(await waiting) == 20
        assert len(await held) == 1

    run(body)


def test_the_worker_outlives_a_loop_that_is_gone(queue: FacesQueue, gated: Any) -> None:
    async def leave() -> None:
        await hold_worker(queue, gated)

    asyncio.run(leave())
    gated.gate.set()
    assert len(run(lambda: queue.sample(images("next")))) == 1


def test_several_workers_extract_at_the_same_time(
    gated: Any, vault: Vault, meter: RecordingMeter
) -> None:
    log = structlog.get_logger()
    queue = FacesQueue(gated, vault, capacity=CAPACITY, meter=meter, log=log, workers=2)

    async def body() -> None:
        held = await hold_worker(queue, gated)
        (other,) = await start(queue, many("other", 20))
        await asyncio.to_thread(gated.entered.acquire)
        gated.gate.set()
        assert digests(await other) == digests(take_samples(many("other", 20), gated, vault))
        await held

    run(body)
    queue.close()


def test_real_photographs_give_what_the_extractor_gives_alone(
    photographs: Any, tmp_path: Path
) -> None:
    files = [path.read_bytes() for path in (photographs.live, photographs.faceless)]
    vault = Vault(KeyRing.generate(), 128)
    with open_extractor(tmp_path) as extractor:
        queue = FacesQueue(extractor, vault, capacity=4, meter=Meter(), log=structlog.get_logger())
        face, nobody = run(lambda: queue.sample(files))
        queue.close()
        alone = take_samples(files[:1], extractor, vault)[0]
    assert isinstance(alone, Sample)
    assert face.vector @ alone.vector == pytest.approx(1, abs=1e-5)
    assert nobody.problems == (Reason.NO_FACE,)


def test_photographs_of_all_that_wait_are_extracted_together(
    queue: FacesQueue, gated: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        tasks = await start(queue, *(many(f"call{n}-", 2) for n in range(10)))
        gated.gate.set()
        await asyncio.gather(held, *tasks)

    run(body)
    assert [len(batch) for batch in gated.batches] == [1, BATCH_PHOTOGRAPHS, 4]
    assert meter.batches == [1, BATCH_PHOTOGRAPHS, 4]
    assert meter.stages == ["extract"] * 3
    assert gated.batches[1] == [image for n in range(8) for image in many(f"call{n}-", 2)]


def test_a_long_call_lets_others_in_after_each_batch(queue: FacesQueue, gated: Any) -> None:
    finished: list[str] = []

    async def body() -> None:
        held = await hold_worker(queue, gated)
        long, short = await start(queue, many("long", 100), images("short1", "short2"))
        long.add_done_callback(lambda _: finished.append("long"))
        short.add_done_callback(lambda _: finished.append("short"))
        gated.gate.set()
        outcomes = await asyncio.gather(held, long, short)
        assert [len(one) for one in outcomes] == [1, 100, 2]

    run(body)
    assert finished == ["short", "long"]
    assert gated.batches[2][:2] == images("short1", "short2")


def test_a_pair_is_never_cut_by_the_end_of_a_batch(queue: FacesQueue, gated: Any) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        tasks = await start(queue, images("one"), *(many(f"pair{n}-", 2) for n in range(8)))
        gated.gate.set()
        await asyncio.gather(held, *tasks)

    run(body)
    assert [len(batch) for batch in gated.batches] == [1, BATCH_PHOTOGRAPHS - 1, 2]
    assert gated.batches[2] == many("pair7-", 2)


def test_batch_calls_together_leave_half_of_the_places_to_pairs(
    queue: FacesQueue, gated: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        bulk = await start(queue, *(many(f"bulk{n}-", 4 * CAPACITY) for n in range(2)))
        with pytest.raises(Busy):
            await queue.sample(many("bulk", 4 * CAPACITY))
        assert meter.depths[-1] == CAPACITY // 2
        pairs = await start(queue, *(many(f"pair{n}-", 2) for n in range(CAPACITY // 4)))
        assert meter.depths[-1] == CAPACITY
        with pytest.raises(Busy):
            await queue.sample(images("one more"))
        gated.gate.set()
        assert {len(one) for one in await asyncio.gather(*pairs)} == {2}
        assert {len(one) for one in await asyncio.gather(*bulk)} == {4 * CAPACITY}
        await held

    run(body)
    assert meter.depths[-1] == 0


def test_pairs_and_batches_take_turns(queue: FacesQueue, gated: Any) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        bulk = await start(queue, many("bulk1-", 40), many("bulk2-", 40))
        pairs = await start(queue, *(many(f"pair{n}-", 2) for n in range(12)))
        gated.gate.set()
        await asyncio.gather(held, *bulk, *pairs)

    run(body)
    shown = [batch[0][:4] for batch in gated.batches]
    assert shown == [b"held", b"bulk", b"pair", b"bulk", b"pair", b"bulk", b"bulk", b"bulk"]
    assert [len(batch) for batch in gated.batches[1:]] == [16, 16, 16, 8, 16, 16, 16]


def test_room_that_batches_leave_is_filled_with_pairs(queue: FacesQueue, gated: Any) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        tasks = await start(queue, many("bulk", 5), images("a1", "a2"), images("b"))
        gated.gate.set()
        await asyncio.gather(held, *tasks)

    run(body)
    assert gated.batches[1] == [*many("bulk", 5), b"a1", b"a2", b"b"]


def test_a_full_queue_refuses_at_once_and_recovers(
    queue: FacesQueue, gated: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        tasks = await start(queue, *(many(f"call{n}-", 2) for n in range(CAPACITY // 2)))
        with pytest.raises(Busy) as refused:
            await queue.sample(images("one more"))
        assert refused.value.retry_after_s is not None
        gated.gate.set()
        await asyncio.gather(held, *tasks)
        assert len(await queue.sample(images("one more"))) == 1

    run(body)
    assert max(meter.depths) == CAPACITY
    assert meter.depths[-1] == 0


def test_a_call_with_more_photographs_than_places_is_served_and_leaves_places(
    queue: FacesQueue, gated: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        tasks = await start(queue, many("large", 4 * CAPACITY), images("small1", "small2"))
        gated.gate.set()
        _, large, small = await asyncio.gather(held, *tasks)
        assert len(large) == 4 * CAPACITY
        assert len(small) == 2

    run(body)
    assert max(meter.depths) <= CAPACITY // 2 + 2
    assert meter.depths[-1] == 0


def test_a_cancelled_call_is_not_extracted_and_frees_its_places(
    queue: FacesQueue, gated: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        gone, stays = await start(queue, images("gone1", "gone2"), images("stays"))
        gone.cancel()
        await asyncio.sleep(0.01)
        assert meter.depths[-1] == 1
        gated.gate.set()
        await asyncio.gather(held, stays)
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(body)
    assert [image for batch in gated.batches for image in batch] == images("held", "stays")


def test_a_call_past_its_deadline_is_answered_then_and_never_extracted(
    queue: FacesQueue, gated: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        with pytest.raises(DeadlinePassed):
            await queue.sample(images("late"), timeout_s=0.05)
        assert meter.depths[-1] == 0
        gated.gate.set()
        await held

    run(body)
    assert gated.batches == [images("held")]


def test_a_call_without_time_left_is_refused(queue: FacesQueue) -> None:
    with pytest.raises(DeadlinePassed):
        run(lambda: queue.sample(images("late"), timeout_s=0.0))


def test_a_loop_that_is_late_itself_does_not_make_dead_work(queue: FacesQueue, gated: Any) -> None:
    async def body() -> None:
        held = await hold_worker(queue, gated)
        late = asyncio.create_task(queue.sample(images("late"), timeout_s=0.02))
        await asyncio.sleep(0)
        time.sleep(0.05)
        gated.gate.set()
        while not gated.batches:
            time.sleep(0.001)
        time.sleep(0.05)
        with pytest.raises(DeadlinePassed):
            await late
        await held

    run(body)
    assert gated.batches == [images("held")]
