"""What fails in an ingress fails those it concerns, and is seen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from engine.errors import ModelError
from engine.registry.vault import Vault
from serving.errors import Interrupted, NotReady
from serving.ingress.extraction_queue import ExtractionQueue
from tests.serving.ingress.callers import (
    CAPACITY,
    RecordingMeter,
    hold_worker,
    images,
    many,
    run,
    start,
)
from tests.serving.meters import BrokenMeter


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

    extractor = Elsewhere()
    queue = ExtractionQueue(
        extractor, vault, capacity=CAPACITY, meter=meter, log=structlog.get_logger()
    )
    with pytest.raises(Interrupted):
        run(lambda: queue.sample(images("a")))
    assert not queue.is_alive
    extractor.is_there = True
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
