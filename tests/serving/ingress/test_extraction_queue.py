"""The photographs that wait in an ingress become samples; `tests/engine/test_batching.py` has what
every queue of this kind does."""

import asyncio
import struct
import threading
from typing import Any

import numpy as np
import pytest
import structlog
from structlog.testing import capture_logs

from engine.errors import DeadlinePassed, ImageDamaged, ImageError, ModelError
from engine.matching.samples import Sample, take_samples
from schema.reasons import Reason
from serving.access.authorization import Holder
from serving.errors import Busy, Interrupted, NotReady
from serving.ingress.extraction_queue import BATCH_PHOTOGRAPHS, ExtractionQueue
from serving.telemetry.metrics import BATCH_SIZE, QUEUE_DEPTH, STAGE_SECONDS
from tests.serving.ingress.conftest import CAPACITY
from tests.serving.meters import RecordingMeter

pytestmark = pytest.mark.anyio

Outcomes = list[Sample | ImageError]


def images(*names: str) -> list[bytes]:
    return [name.encode() for name in names]


def many(name: str, count: int) -> list[bytes]:
    return images(*(f"{name}{number}" for number in range(count)))


def pairs(count: int) -> list[list[bytes]]:
    return [many(f"pair{n}-", 2) for n in range(count)]


async def hold_worker(queue: ExtractionQueue, extractor: Any) -> asyncio.Task[Outcomes]:
    """The worker is inside the extractor with one photograph until the extractor is released."""
    extractor.released.clear()
    held = asyncio.create_task(queue.sample(images("held")))
    await asyncio.to_thread(extractor.entered.acquire)
    return held


async def start(queue: ExtractionQueue, *calls: list[bytes]) -> list[asyncio.Task[Outcomes]]:
    """The calls, all of them waiting, in this order."""
    tasks = [asyncio.create_task(queue.sample(call)) for call in calls]
    await asyncio.sleep(0)
    return tasks


def depth(meter: RecordingMeter) -> float:
    return meter.values(QUEUE_DEPTH, "photographs")[-1]


async def test_samples_come_in_the_order_of_their_images_and_a_bad_one_is_a_value(
    queue, extractor, vault
) -> None:
    names = many("p", 40)
    *sound, bad, nobody = await queue.sample([*names, b"bad", b"nobody"])
    for one, other in zip(sound, take_samples(names, extractor, vault), strict=True):
        assert one.digest == other.digest
        assert np.allclose(one.vector, other.vector, atol=1e-6)
    assert isinstance(bad, ImageDamaged)
    assert (nobody.vector, nobody.problems) == (None, (Reason.NO_FACE,))
    assert await queue.sample([]) == []


@pytest.mark.parametrize(
    ("calls", "batches"),
    [
        # The photographs of all that wait are extracted together, and no pair is cut.
        (pairs(10), [(b"pair0-0", 16), (b"pair8-0", 4)]),
        ([images("one"), *pairs(8)], [(b"one", 15), (b"pair7-0", 2)]),
        # Pairs and batches take turns, and room that batches leave is filled with pairs.
        (
            [many("x", 40), many("y", 40), *pairs(12)],
            [
                *[(b"x0", 16), (b"pair0-0", 16), (b"y0", 16), (b"pair8-0", 8)],
                *[(b"x16", 16), (b"y16", 16), (b"x32", 16)],
            ],
        ),
        ([many("bulk", 5), *pairs(1), images("b")], [(b"bulk0", 8)]),
        # A long call lets others in after each batch.
        ([many("x", 40), many("y", 3)], [(b"x0", 16), (b"y0", 16), (b"x29", 11)]),
    ],
)
async def test_what_waits_is_extracted_in_full_batches_and_each_kind_in_its_turn(
    queue, extractor, meter, calls: list[list[bytes]], batches: list[tuple[bytes, int]]
) -> None:
    held = await hold_worker(queue, extractor)
    tasks = await start(queue, *calls)
    extractor.released.set()
    answers = await asyncio.gather(*tasks)
    assert [len(one) for one in answers] == [len(call) for call in calls]
    await held
    queue.close()
    with pytest.raises(NotReady):
        await queue.sample(images("too late"))
    assert [(batch[0], len(batch)) for batch in extractor.batches] == [(b"held", 1), *batches]
    assert meter.values(BATCH_SIZE, "extract") == [len(batch) for batch in extractor.batches]
    assert len(meter.values(STAGE_SECONDS, "extract")) == len(extractor.batches)
    assert max(len(batch) for batch in extractor.batches) <= BATCH_PHOTOGRAPHS


def large(*names: str) -> list[bytes]:
    """Headers of PNGs of 12 megapixels."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 4000, 3000)
    return [head + name.encode() for name in names]


async def test_large_photographs_are_taken_two_at_a_time_between_the_others(
    queue, extractor
) -> None:
    held = await hold_worker(queue, extractor)
    waiting = await start(queue, large("a", "b", "c", "d"), images("x", "y"))
    waiting += await start(queue, *(large(*pair) for pair in ("ef", "gh", "ij", "kl")))
    with pytest.raises(Busy):
        await queue.sample(large("m"))
    waiting += await start(queue, images("z"))
    extractor.released.set()
    await asyncio.gather(held, *waiting)
    assert max(len(batch) for batch in extractor.batches if batch[0].startswith(b"\x89PNG")) == 2
    assert images("x", "y", "z") in extractor.batches
    assert extractor.batches.index(images("x", "y", "z")) <= 2


async def test_the_frames_of_one_attempt_wait_with_pairs_and_not_with_batches(
    queue, extractor
) -> None:
    frames = many("frame", 9)
    held = await hold_worker(queue, extractor)
    bulk = await start(queue, *(many(f"bulk{n}-", 4 * CAPACITY) for n in range(2)))
    bulk += await start(queue, *(many(f"bulk{n}-", 4 * CAPACITY) for n in range(2, 4)))
    with pytest.raises(Busy):
        await queue.sample(frames)
    attempt = asyncio.create_task(queue.sample(frames, is_one_attempt=True))
    await asyncio.sleep(0)
    extractor.released.set()
    assert len(await attempt) == 9
    await asyncio.gather(held, *bulk)
    assert next(place for place, one in enumerate(extractor.batches) if frames[0] in one) <= 2


async def test_batch_calls_together_leave_half_of_the_places_to_pairs_and_beyond_all_it_is_busy(
    queue, extractor, meter
) -> None:
    held = await hold_worker(queue, extractor)
    bulk = await start(queue, *(many(f"bulk{n}-", 4 * CAPACITY) for n in range(2)))
    bulk += await start(queue, *(many("bulk", 4 * CAPACITY) for _ in range(2)))
    with pytest.raises(Busy):
        await queue.sample(many("bulk", 4 * CAPACITY))
    assert depth(meter) == CAPACITY // 2
    # With the one that is held a line lets in as many as make two batches.
    waiting = await start(queue, *pairs(BATCH_PHOTOGRAPHS - 1))
    assert depth(meter) == CAPACITY - 2
    waiting += await start(queue, *pairs(CAPACITY // 2))
    assert depth(meter) == CAPACITY - 2
    # At once: the worker is held, so nothing could have become free.
    with pytest.raises(Busy) as refused:
        await queue.sample(images("one more"))
    assert refused.value.retry_after_s is not None
    extractor.released.set()
    assert {len(one) for one in await asyncio.gather(*waiting)} == {2}
    assert {len(one) for one in await asyncio.gather(*bulk)} == {4 * CAPACITY}
    await held
    queue.close()
    assert depth(meter) == 0


async def test_a_call_that_would_be_answered_too_late_is_refused_and_never_extracted(
    queue, extractor
) -> None:
    queue._pace.note(1.0, 10.0)  # ten seconds for each photograph
    held = await hold_worker(queue, extractor)
    with pytest.raises(Busy, match="the time of this request"):
        await queue.sample(images("late"), timeout_s=19.0)
    # It waits for another carrier's no longer than for its own.
    other = asyncio.create_task(
        queue.sample(images("other"), timeout_s=12.0, holder=Holder("carrier:red", "r"))
    )
    await asyncio.sleep(0)
    extractor.released.set()
    assert len(await held) == len(await other) == 1
    assert extractor.batches == [images("held"), images("other")]


def lost() -> Exception:
    error = Interrupted("ask again")
    error.__cause__ = OSError("secret host")
    return error


@pytest.mark.parametrize(
    ("failure", "logged", "is_alive"),
    [
        (ValueError("secret text of a library"), ["ValueError"], True),
        (ModelError("no embedder"), [], True),
        (lost(), ["OSError"], False),
    ],
)
async def test_a_failure_is_told_to_each_of_its_batch_logged_by_type_and_ends_no_worker(
    queue, extractor, failure: Exception, logged: list[str], is_alive: bool
) -> None:
    with capture_logs() as logs:
        held = await hold_worker(queue, extractor)
        tasks = await start(queue, images("a"), images("beside"))
        extractor.failure = failure
        extractor.released.set()
        _, first, second = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert (type(first), str(first)) == (type(second), str(second)) == (type(failure), str(failure))
    assert first is not second
    # The one that was held, and the other two together.
    assert [entry["kind"] for entry in logs] == logged * 2
    assert "secret" not in str(logs)
    assert queue.is_alive is is_alive
    extractor.failure = None
    assert len(await queue.sample(images("after"))) == 1
    assert queue.is_alive


async def test_the_next_batch_begins_as_soon_as_a_thread_is_free_and_not_before(
    extractor, vault, meter
) -> None:
    extractor.threads, free = 2, threading.Event()
    extractor.has_free_thread = free.is_set
    log = structlog.get_logger()
    queue = ExtractionQueue(extractor, vault, capacity=CAPACITY, meter=meter, log=log)
    free.set()
    held = await hold_worker(queue, extractor)
    free.clear()
    others = await start(queue, images("c"), images("d"))
    extractor.tell_free()
    assert not extractor.entered.acquire(blocking=False)
    free.set()
    extractor.tell_free()
    # Beside the first, which is still under way.
    await asyncio.to_thread(extractor.entered.acquire)
    assert not held.done()
    extractor.released.set()
    await asyncio.gather(held, *others)
    queue.close(10)
    assert images("c", "d") in extractor.batches


async def test_whoever_brings_few_photographs_waits_for_one_place_behind_whoever_brings_many(
    extractor, vault, meter
) -> None:
    log = structlog.get_logger()
    queue = ExtractionQueue(
        extractor, vault, capacity=CAPACITY, meter=meter, log=log, key_share=0.5
    )
    answered: list[str] = []

    async def ask(tenant: str, key: str, number: int) -> None:
        files = many(f"{tenant} {key} {number}-", 2)
        await queue.sample(files, is_one_attempt=True, holder=Holder(tenant, key))
        answered.append(f"{tenant} {key}")

    held = await hold_worker(queue, extractor)
    asked, refused = [], []
    for key in ("r1", "r2", "r3"):
        these = [asyncio.create_task(ask("red", key, number)) for number in range(CAPACITY)]
        await asyncio.sleep(0)
        refused.append(sum(one.done() for one in these))
        asked += these
    other = asyncio.create_task(ask("blue", "b1", 0))
    await asyncio.sleep(0)
    extractor.released.set()
    await asyncio.gather(held, other)
    for error in await asyncio.gather(*asked, return_exceptions=True):
        assert error is None or isinstance(error, Busy)
    queue.close()
    # What was let in before it came; nothing of what waited.
    assert answered.index("blue b1") < BATCH_PHOTOGRAPHS
    after = answered[BATCH_PHOTOGRAPHS : 2 * BATCH_PHOTOGRAPHS]
    assert after.count("red r2") >= after.count("red r1")
    assert 0 < refused[0] < refused[1] < refused[2] == CAPACITY


async def test_a_call_that_is_given_up_while_it_waits_in_the_line_leaves_its_place(
    queue, extractor
) -> None:
    held = await hold_worker(queue, extractor)
    inside = await start(queue, *pairs(BATCH_PHOTOGRAPHS - 1))
    waiting = await start(queue, *pairs(CAPACITY // 2))
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    again = await start(queue, *pairs(CAPACITY // 2))
    extractor.released.set()
    await asyncio.gather(held, *inside, *again)
    assert not queue._lines[1]._inside


async def test_who_leaves_calls_nobody_who_was_given_up_at_the_same_moment(
    queue, extractor
) -> None:
    held = await hold_worker(queue, extractor)
    inside = await start(queue, *pairs(BATCH_PHOTOGRAPHS - 1))
    waiting = await start(queue, *pairs(2))
    for one in (inside[0], waiting[0]):
        one.cancel()
    await asyncio.sleep(0)
    extractor.released.set()
    answers = await asyncio.gather(held, *inside, *waiting, return_exceptions=True)
    given_up = [one for one in answers if isinstance(one, BaseException)]
    assert [type(one) for one in given_up] == [asyncio.CancelledError] * 2
    assert not queue._lines[1]._inside


async def test_what_would_be_late_when_its_turn_comes_is_not_extracted_and_others_are(
    queue, extractor, monkeypatch
) -> None:
    held = await hold_worker(queue, extractor)
    calls = [queue.sample(images(name, "b"), time_s) for name, time_s in SOON]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    monkeypatch.setattr(queue._pace, "expect_s", lambda _: 100.0)
    extractor.released.set()
    _, late, *kept = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert isinstance(late, DeadlinePassed)
    assert [len(one) for one in kept] == [2, 2]
    assert not any(b"late" in batch for batch in extractor.batches)


SOON = (("late", 60.0), ("far", 200.0), ("free", None))
