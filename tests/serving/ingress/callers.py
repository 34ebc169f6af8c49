"""Callers of a queue of photographs, and a meter that keeps what the queue says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from engine.errors import ImageError
from engine.matching.requests import Sample
from serving.ingress.extraction_queue import ExtractionQueue
from serving.telemetry.metrics import BATCH_SIZE, QUEUE_DEPTH, STAGE_SECONDS
from tests.serving import meters

CAPACITY = 64
Outcomes = list[Sample | ImageError]


class RecordingMeter(meters.RecordingMeter):
    """Keeps what the queue says of itself."""

    @property
    def depths(self) -> list[float]:
        return self.values(QUEUE_DEPTH, "photographs")

    @property
    def batches(self) -> list[float]:
        return self.values(BATCH_SIZE, "extract")

    @property
    def stages(self) -> list[str]:
        return [labels[0] for name, labels, _ in self.recorded if name == STAGE_SECONDS.name]


def images(*names: str) -> list[bytes]:
    return [name.encode() for name in names]


def many(name: str, count: int) -> list[bytes]:
    return images(*(f"{name}{number}" for number in range(count)))


def run(body: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(20):
            return await body()

    return asyncio.run(limited())


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


def digests(outcomes: Outcomes) -> list[bytes]:
    return [one.digest for one in outcomes if isinstance(one, Sample)]
