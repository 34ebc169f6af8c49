"""Calls that wait for a model together; `tests/engine/test_batching.py` has the rest."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from engine.batching import Pending
from serving.cluster.deployments import open_crop_queue
from serving.ingress.remote_embedder import Crops, Vectors


class Model:
    """Takes the mean of each crop, and stops at a gate; remembers the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.entered, self.gate = threading.Event(), threading.Event()

    def embed(self, crops: Crops) -> Vectors:
        self.batches.append(len(crops))
        self.entered.set()
        assert self.gate.wait(120)
        if crops.max() == 255:
            raise ValueError("too bright")
        return crops.reshape(len(crops), -1).mean(axis=1, keepdims=True).astype(np.float32)


def _call(*levels: int) -> Pending[Crops, Vectors]:
    crops = np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])
    return Pending(crops, len(crops))


def test_what_gathers_is_one_batch_within_a_bound_and_each_call_gets_its_own() -> None:
    model = Model()
    queue = open_crop_queue(model.embed, batch_crops=4)

    async def run() -> list[list[float]]:
        first = asyncio.wrap_future(queue.submit(_call(1)))
        await asyncio.to_thread(model.entered.wait, 10)
        calls = [queue.submit(_call(*levels)) for levels in ((2, 3), (4,), (5, 6))]
        model.gate.set()
        found = await asyncio.gather(first, *map(asyncio.wrap_future, calls))
        return [one.ravel().tolist() for one in found]

    assert asyncio.run(run()) == [[1], [2, 3], [4], [5, 6]]
    assert model.batches == [1, 3, 2]
    queue.close(10)


def test_a_failure_is_its_callers_and_the_next_batch_is_embedded() -> None:
    model = Model()
    model.gate.set()
    queue = open_crop_queue(model.embed)
    with pytest.raises(ValueError, match="bright"):
        queue.submit(_call(255)).result(120)
    assert queue.submit(_call(9)).result(120).ravel().tolist() == [9]
    queue.close(10)
