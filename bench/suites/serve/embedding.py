"""Part `embedding`: crops a second that one embedder takes from ingresses, over Ray Serve.

Model and device are simulated by their timing, and so are the ingresses: all else is the service's
own, the gathering of crops, the call between processes and the queue before the model.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Result, SuiteOutput
from bench.suites.serve.process import Worker
from bench.suites.serve.sizes import Context

INGRESSES, CALLERS, CROPS = 16, 4, 16
"""Simulated ingresses, threads of each that have crops, and the crops of one batch of those."""
PROCESSES = 2
"""Ingresses share so many: on two cores sixteen would measure the system's scheduler."""
CALL_S, CROP_S = 0.2e-3, 10e-6
"""What the simulated device takes for a call and for a crop."""
NAME = "embedder-simulated"


class SimulatedEmbedder:
    """The embedder's replica; its device only takes time, and a vector is its crop's first byte."""

    def __init__(self) -> None:
        from serving.cluster.deployments import open_crop_queue

        self._queue = open_crop_queue(self._embed)
        self._batches: list[int] = []
        self._began = time.process_time()

    def _embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._batches.append(len(crops))
        time.sleep(CALL_S + CROP_S * len(crops))
        return np.repeat(crops[:, 0, 0, :1].astype(np.float32), 128, axis=1)

    async def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return await self._queue.ask(crops, len(crops))

    async def take_stock(self) -> tuple[float, float]:
        """The mean batch, and the processor time in seconds, since it was asked before."""
        batch, spent = float(np.mean(self._batches or [0])), time.process_time() - self._began
        self._batches, self._began = [], time.process_time()
        return batch, spent


class SimulatedIngresses:
    """Several ingresses in one process, each with its own gathering, and threads that have crops.

    They share an event loop, and so the handle, which belongs to one.
    """

    def __init__(self, count: int) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._embedders, self._handle = self._perform(_open(count))
        random = np.random.default_rng(0)
        self._crops = random.integers(0, 256, (CROPS, 112, 112, 3), np.uint8)

    def run(self, seconds: float) -> tuple[int, int]:
        """Crops embedded, and how many of the vectors were another crop's."""
        ends_at, done = time.monotonic() + seconds, []

        def work(embedder: Any) -> None:
            while time.monotonic() < ends_at:
                first = embedder.embed(self._crops)[:, 0]
                done.append((len(first), int((first != self._crops[:, 0, 0, 0]).sum())))

        threads = [
            threading.Thread(target=work, args=(one,))
            for one in self._embedders
            for _ in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(count for count, _ in done), sum(wrong for _, wrong in done)

    def take_stock(self) -> tuple[float, float]:
        async def ask() -> tuple[float, float]:
            found: tuple[float, float] = await self._handle.take_stock.remote()
            return found

        asked: tuple[float, float] = self._perform(ask())
        return asked

    def _perform(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


async def _open(count: int) -> tuple[list[Any], Any]:
    from ray import serve

    from engine.models.catalog import builtin_card
    from serving.cluster.deployments import _call_embedder
    from serving.ingress.embedding import RemoteEmbedder

    handle = serve.get_deployment_handle("SimulatedEmbedder", NAME)
    card = builtin_card("sface")
    return [RemoteEmbedder(card, False, _call_embedder(handle)) for _ in range(count)], handle


def measure_embedding(context: Context) -> SuiteOutput:
    """Three rounds; what an hour's service would have, and not what starts it."""
    seconds = context.sizes.pace.seconds
    with Worker() as worker:
        rates, batch, busy, wrong = worker.submit(_measure, seconds).result()
    setup = context.describe() | {
        "ingresses": INGRESSES,
        "callers": CALLERS,
        "crops": CROPS,
        "device": f"simulated, {CALL_S * 1e3:g} ms + {CROP_S * 1e6:g} us a crop",
    }
    figures = (
        Figure.of("crops through one embedder's process", "1/s", rates),
        Figure("crops of a batch", "crops", batch),
        Figure("processor time of the embedder's process", "cores", busy),
        Figure("vectors of another crop", "vectors", wrong),
    )
    return [Result("Crops to an embedder", setup, figures)], {}


def _measure(seconds: float) -> tuple[list[float], float, float, float]:
    from serving.cluster.environment import LOOPBACK, SUPERVISED, USUAL

    usual = USUAL | SUPERVISED | LOOPBACK
    os.environ.update(usual | {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"})
    # What Ray tells of its end is no part of a report.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import ray
    from ray import serve

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(proxy_location="Disabled")
        options = {"max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0}}
        deployment = serve.deployment(SimulatedEmbedder, name="SimulatedEmbedder", **options)
        serve.run(deployment.bind(), name=NAME, route_prefix=None)
        actor = ray.remote(SimulatedIngresses).options(num_cpus=0, max_concurrency=2)
        ingresses = [actor.remote(INGRESSES // PROCESSES) for _ in range(PROCESSES)]
        ray.get([one.run.remote(1.0) for one in ingresses])
        ray.get(ingresses[0].take_stock.remote())
        rates, wrong, began = [], 0, time.monotonic()
        for _ in range(3):
            start = time.monotonic()
            counts = ray.get([one.run.remote(seconds) for one in ingresses])
            rates.append(sum(count for count, _ in counts) / (time.monotonic() - start))
            wrong += sum(others for _, others in counts)
        spent_s = time.monotonic() - began
        batch, busy_s = ray.get(ingresses[0].take_stock.remote())
        return rates, batch, busy_s / spent_s, float(wrong)
    finally:
        serve.shutdown()
        ray.shutdown()
