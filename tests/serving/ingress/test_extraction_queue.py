"""The photographs that wait in an ingress become samples."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from engine.errors import ImageDamaged
from engine.faces.extractor import open_extractor
from engine.matching.requests import Sample
from engine.matching.sampling import take_samples
from engine.reasons import Reason
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from serving.errors import NotReady
from serving.ingress.extraction_queue import ExtractionQueue
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
