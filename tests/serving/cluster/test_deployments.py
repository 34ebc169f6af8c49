"""An ingress whose embedder is away, or whose worker is dead."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from serving.cluster.deployments import (
    CropGatherer,
    Crops,
    Ingress,
    IngressParts,
    Vectors,
    _call_embedder,
)
from serving.errors import Interrupted, NotReady
from serving.ingress.extraction_queue import FacesQueue
from serving.telemetry.metrics import Meter


def test_a_lost_embedder_is_interrupted_and_nothing_of_ray_is_seen() -> None:
    class Method:
        async def remote(self, *_: Any) -> Any:
            raise ConnectionResetError("10.0.0.7")

    class Handle:
        embed = Method()

    async def run() -> None:
        call = _call_embedder(Handle())
        with pytest.raises(Interrupted) as caught:
            await asyncio.to_thread(call, np.zeros((1, 112, 112, 3), np.uint8))
        assert "10.0.0.7" not in str(caught.value)

    asyncio.run(run())


def ask_after_photograph(raised: BaseException) -> None:
    """The health of an ingress whose extractor has answered a photograph with this."""

    class Extractor:
        def extract(self, *_: Any) -> Any:
            raise raised

    log, vault = structlog.get_logger(), Vault(KeyRing.generate(), 32)
    faces = FacesQueue(Extractor(), vault, capacity=4, meter=Meter(), log=log)
    parts = object.__new__(IngressParts)
    parts._faces = faces

    async def run() -> None:
        with pytest.raises((Interrupted, NotReady)):
            await faces.sample([b"any"])
        assert not faces.is_alive
        await Ingress.check_health(SimpleNamespace(_parts=parts))

    try:
        asyncio.run(run())
    finally:
        faces.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_ingress_whose_worker_has_ended_is_to_be_replaced() -> None:
    with pytest.raises(RuntimeError, match="replaced"):
        ask_after_photograph(SystemExit())


def test_an_ingress_whose_embedder_is_away_stays() -> None:
    ask_after_photograph(Interrupted("no answer"))


class Model:
    """Takes the mean of each crop, and stops at a gate; remembers the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()

    def embed(self, crops: Crops) -> Vectors:
        self.batches.append(len(crops))
        assert self.gate.wait(120)
        if crops.max() == 255:
            raise ValueError("too bright")
        return crops.reshape(len(crops), -1).mean(axis=1, keepdims=True).astype(np.float32)


def _crops(*levels: int) -> Crops:
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


async def _start(gatherer: CropGatherer, *calls: Crops) -> list[asyncio.Task[Vectors]]:
    tasks = [asyncio.create_task(gatherer.embed(crops)) for crops in calls]
    await asyncio.sleep(0.05)
    return tasks


def test_what_gathers_is_one_batch_and_each_call_gets_its_own() -> None:
    async def run() -> None:
        model = Model()
        gatherer = CropGatherer(model.embed, max_crops=8)
        first = await _start(gatherer, _crops(1))
        others = await _start(gatherer, _crops(2, 3), _crops(4), _crops(5, 6))
        model.gate.set()
        found = [one.ravel().tolist() for one in await asyncio.gather(*first, *others)]
        assert found == [[1], [2, 3], [4], [5, 6]]
        assert model.batches == [1, 5]

    asyncio.run(run())


def test_a_batch_has_a_bound_and_a_call_is_never_split() -> None:
    async def run() -> None:
        model = Model()
        gatherer = CropGatherer(model.embed, max_crops=3)
        tasks = await _start(gatherer, _crops(1))
        tasks += await _start(gatherer, _crops(2, 3), _crops(4, 5), _crops(6, 7, 8, 9))
        model.gate.set()
        await asyncio.gather(*tasks)
        assert model.batches == [1, 2, 2, 4]

    asyncio.run(run())


def test_who_has_gone_is_not_embedded() -> None:
    async def run() -> None:
        model = Model()
        gatherer = CropGatherer(model.embed, max_crops=8)
        first = await _start(gatherer, _crops(1))
        gone, stayed = await _start(gatherer, _crops(2), _crops(3))
        gone.cancel()
        await asyncio.sleep(0)
        model.gate.set()
        assert (await stayed).ravel().tolist() == [3]
        await asyncio.gather(*first)
        assert model.batches == [1, 1]

    asyncio.run(run())


def test_a_failure_is_its_callers_and_the_next_batch_is_embedded() -> None:
    async def run() -> None:
        model = Model()
        model.gate.set()
        gatherer = CropGatherer(model.embed, max_crops=8)
        with pytest.raises(ValueError, match="bright"):
            await gatherer.embed(_crops(255))
        assert (await gatherer.embed(_crops(9))).ravel().tolist() == [9]

    asyncio.run(run())
