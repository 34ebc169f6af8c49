"""The photographs that wait in an ingress become samples."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

from engine.errors import DeadlinePassed, ImageDamaged, ModelError
from engine.faces.extractor import open_extractor
from engine.matching.requests import Sample, take_samples
from engine.reasons import Reason
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from serving.errors import Busy, Interrupted, NotReady
from serving.ingress.extraction_queue import BATCH_PHOTOGRAPHS, ExtractionQueue
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
from tests.serving.meters import BrokenMeter


def test_samples_come_in_the_order_of_their_images(
    queue: ExtractionQueue, extractor: Any, vault: Vault
) -> None:
    names = many("p", 40)
    got = run(lambda: queue.sample(names))
    expected = take_samples(names, extractor, vault)
    assert digests(got) == digests(expected)
    for one, other in zip(got, expected, strict=True):
        assert isinstance(other, Sample)
        assert other.vector is not None
        assert np.allclose(one.vector, other.vector, atol=1e-6)


def test_no_photographs_are_no_work(queue: ExtractionQueue, extractor: Any) -> None:
    assert run(lambda: queue.sample([])) == []
    assert extractor.batches == []


def test_a_bad_image_is_a_value_and_its_neighbours_are_sampled(
    queue: ExtractionQueue, extractor: Any
) -> None:
    good, bad, empty = run(lambda: queue.sample(images("good", "bad", "nobody")))
    assert isinstance(good, Sample)
    assert isinstance(bad, ImageDamaged)
    assert isinstance(empty, Sample)
    assert (empty.vector, empty.problems) == (None, (Reason.NO_FACE,))


def test_closing_answers_what_waited_and_takes_no_more(
    queue: ExtractionQueue, extractor: Any
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        (waiting,) = await start(queue, many("waiting", 20))
        closing = asyncio.create_task(asyncio.to_thread(queue.close))
        while not queue.is_closing:
            await asyncio.sleep(0.001)
        with pytest.raises(NotReady):
            await queue.sample(images("too late"))
        assert not closing.done()
        extractor.released.set()
        await closing
        assert len(await waiting) == 20
        assert len(await held) == 1

    run(body)


def test_the_worker_outlives_a_loop_that_is_gone(queue: ExtractionQueue, extractor: Any) -> None:
    async def leave() -> None:
        await hold_worker(queue, extractor)

    asyncio.run(leave())
    extractor.released.set()
    assert len(run(lambda: queue.sample(images("next")))) == 1


def test_several_workers_extract_at_the_same_time(
    extractor: Any, vault: Vault, meter: RecordingMeter
) -> None:
    log = structlog.get_logger()
    queue = ExtractionQueue(extractor, vault, capacity=CAPACITY, meter=meter, log=log, workers=2)

    async def body() -> None:
        held = await hold_worker(queue, extractor)
        (other,) = await start(queue, many("other", 20))
        await asyncio.to_thread(extractor.entered.acquire)
        extractor.released.set()
        assert digests(await other) == digests(take_samples(many("other", 20), extractor, vault))
        await held

    run(body)
    queue.close()


def test_real_photographs_give_what_the_extractor_gives_alone(
    photographs: Any, tmp_path: Path
) -> None:
    files = [path.read_bytes() for path in (photographs.live, photographs.faceless)]
    vault = Vault(KeyRing.generate(), 128)
    with open_extractor(tmp_path) as extractor:
        queue = ExtractionQueue(
            extractor, vault, capacity=4, meter=Meter(), log=structlog.get_logger()
        )
        face, nobody = run(lambda: queue.sample(files))
        queue.close()
        alone = take_samples(files[:1], extractor, vault)[0]
    assert isinstance(alone, Sample)
    assert face.vector @ alone.vector == pytest.approx(1, abs=1e-5)
    assert nobody.problems == (Reason.NO_FACE,)


def large(*names: str) -> list[bytes]:
    """Headers of PNGs of 12 megapixels."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 4000, 3000)
    return [head + name.encode() for name in names]


def test_large_photographs_are_taken_two_at_a_time_between_the_others(
    queue: ExtractionQueue, extractor: Any
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        waiting = await start(queue, large("a", "b", "c", "d"), images("x", "y"))
        with pytest.raises(Busy):
            await queue.sample(large("g"))
        waiting += await start(queue, images("z"))
        extractor.released.set()
        await asyncio.gather(held, *waiting)

    run(body)
    assert max(len(batch) for batch in extractor.batches if batch[0].startswith(b"\x89PNG")) == 2
    assert images("x", "y", "z") in extractor.batches
    assert extractor.batches.index(images("x", "y", "z")) <= 2


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
        # At once: the worker is held, so nothing could have become free.
        with pytest.raises(Busy) as refused:
            await queue.sample(images("one more"))
        assert not any(task.done() for task in (held, *tasks))
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
        await asyncio.wait([gone])
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
        with pytest.raises(DeadlinePassed):
            await queue.sample(images("late"), timeout_s=0.05)
        assert not held.done()  # answered while the worker was still busy
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
        time.sleep(0.05)  # blocks the loop past the deadline
        extractor.released.set()
        while not extractor.batches:
            time.sleep(0.001)
        # Lets the worker take the late call if it wrongly would; too short, it only hides that.
        time.sleep(0.05)
        with pytest.raises(DeadlinePassed):
            await late
        await held

    run(body)
    assert extractor.batches == [images("held")]


def test_a_meter_that_fails_costs_no_sample_and_no_worker(extractor: Any, vault: Vault) -> None:
    with capture_logs() as logs:
        queue = ExtractionQueue(
            extractor, vault, capacity=CAPACITY, meter=BrokenMeter(), log=structlog.get_logger()
        )
        for _ in range(3):
            assert len(run(lambda: queue.sample(images("a", "b")))) == 2
        assert queue.is_alive
        queue.close()
    assert {entry["event"] for entry in logs} == {"not_counted"}


def test_an_extractor_that_answers_for_too_few_fails_the_call_and_not_the_worker(
    vault: Vault, extractor: Any, meter: RecordingMeter
) -> None:
    class Forgetful:
        def extract(self, given: Any) -> Any:
            return extractor.extract(given)[: max(1, len(given) - 1)]

    queue = ExtractionQueue(
        Forgetful(), vault, capacity=CAPACITY, meter=meter, log=structlog.get_logger()
    )
    with capture_logs(), pytest.raises(ValueError, match="zip"):
        run(lambda: queue.sample(images("a", "b")))
    assert len(run(lambda: queue.sample(images("a")))) == 1
    queue.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_ends_answers_all_who_wait_and_shows(
    vault: Vault, extractor: Any, meter: RecordingMeter
) -> None:
    class Ending:
        def extract(self, given: Any) -> Any:
            extractor.extract(given)
            raise SystemExit

    queue = ExtractionQueue(
        Ending(), vault, capacity=CAPACITY, meter=meter, log=structlog.get_logger()
    )
    assert queue.is_alive

    async def body() -> None:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, images("waits"), many("long", 40))
        extractor.released.set()
        for task in (held, *tasks):
            with pytest.raises(NotReady):
                await task
        with pytest.raises(NotReady):
            await queue.sample(images("later"))

    run(body)
    assert not queue.is_alive
    assert meter.depths[-1] == 0
    queue.close()


def test_an_embedder_elsewhere_that_gives_no_answer_shows_until_it_does(
    vault: Vault, extractor: Any, meter: RecordingMeter
) -> None:
    class Elsewhere:
        is_there = False

        def extract(self, given: Any) -> Any:
            if not self.is_there:
                raise Interrupted("no answer")
            return extractor.extract(given)

    elsewhere = Elsewhere()
    queue = ExtractionQueue(
        elsewhere, vault, capacity=CAPACITY, meter=meter, log=structlog.get_logger()
    )
    with pytest.raises(Interrupted):
        run(lambda: queue.sample(images("a")))
    assert not queue.is_alive
    elsewhere.is_there = True
    run(lambda: queue.sample(images("a")))
    assert queue.is_alive
    queue.close()


def test_those_who_fail_together_get_an_exception_each(
    queue: ExtractionQueue, extractor: Any
) -> None:
    async def body() -> list[Any]:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, images("bomb"), images("beside"))
        extractor.released.set()
        await held
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    with capture_logs():
        first, second = run(body)
    assert (type(first), str(first)) == (type(second), str(second))
    assert first is not second


def test_an_unforeseen_exception_fails_its_batch_alone_and_is_logged_by_type(
    queue: ExtractionQueue, extractor: Any, meter: RecordingMeter
) -> None:
    async def body() -> None:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, images("bomb"), images("beside"))
        extractor.released.set()
        await held
        for task in tasks:
            with pytest.raises(ValueError, match="secret"):
                await task
        assert len(await queue.sample(images("after"))) == 1

    with capture_logs() as logs:
        run(body)
    assert [(entry["kind"], entry["count"]) for entry in logs] == [("ValueError", 2)]
    assert "secret" not in str(logs)
    assert meter.depths[-1] == 0


def test_a_failed_batch_ends_the_whole_call_and_its_other_photographs(
    queue: ExtractionQueue, extractor: Any
) -> None:
    with pytest.raises(ValueError, match="secret"), capture_logs():
        run(lambda: queue.sample([b"bomb", *many("more", 40)]))
    run(lambda: queue.sample(images("after")))
    assert extractor.batches[-1] == images("after")


def test_a_failure_that_has_a_name_reaches_the_caller_as_it_is(
    vault: Vault, meter: RecordingMeter
) -> None:
    class Broken:
        def extract(self, images: Any) -> Any:
            raise ModelError(f"no embedder for {len(images)} faces")

    queue = ExtractionQueue(
        Broken(), vault, capacity=CAPACITY, meter=meter, log=structlog.get_logger()
    )
    with capture_logs() as logs, pytest.raises(ModelError):
        run(lambda: queue.sample(images("any")))
    assert logs == []
    queue.close()


def test_what_lies_behind_a_failure_that_has_a_name_is_logged_by_type(
    vault: Vault, meter: RecordingMeter
) -> None:
    class Lost:
        def extract(self, images: Any) -> Any:
            raise Interrupted(f"ask again for {len(images)}") from OSError("secret host")

    queue = ExtractionQueue(
        Lost(), vault, capacity=CAPACITY, meter=meter, log=structlog.get_logger()
    )
    with capture_logs() as logs, pytest.raises(Interrupted):
        run(lambda: queue.sample(images("any")))
    assert [entry["kind"] for entry in logs] == ["OSError"]
    assert "secret" not in str(logs)
    queue.close()
