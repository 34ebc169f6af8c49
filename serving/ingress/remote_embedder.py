"""An extractor whose embedder runs elsewhere: photographs stay here, only crops travel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as WaitTimeout
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.errors import SosieError, copy_for_one
from engine.faces.extractor import Extractor
from engine.models.catalog import ModelCard
from serving.deployment.models import embedder_card, extractor_config, open_detector
from serving.errors import Interrupted, ServiceRefusal
from serving.settings.settings import Settings

Crops = NDArray[np.uint8]
Vectors = NDArray[np.float32]
CropCall = Callable[[Crops], Vectors]
"""Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them.

Called from worker threads."""

MAX_PART_CROPS = 64
MAX_PART_BYTES = 3 << 20  # a call between processes may carry 4 MiB in all


CALLS_AT_ONCE = 2
"""Calls of an ingress that an embedder has at once: one that it computes, one on the way."""


class CallGathering:
    """Makes one call of the crops that wait, those of all requests; for one event loop.

    A call between processes costs as much as tens of crops do. So at most `CALLS_AT_ONCE` are under
    way, and what comes meanwhile goes in the next: the slower the answers, the larger the calls,
    up to `MAX_PART_CROPS` and `MAX_PART_BYTES`.
    """

    def __init__(self, send: Callable[[Crops], Awaitable[Vectors]]) -> None:
        self._send = send
        self._waiting: deque[tuple[Crops, asyncio.Future[Vectors]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def send(self, crops: Crops) -> Vectors:
        """The answer to these crops; what the call raises that they went in."""
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._waiting.append((crops, future))
        self._begin()
        return await future

    def _begin(self) -> None:
        while len(self._calls) < CALLS_AT_ONCE and (batch := self._take()):
            call = asyncio.create_task(self._perform(batch))
            self._calls.add(call)
            call.add_done_callback(self._end)
            for _, future in batch:
                future.add_done_callback(partial(self._leave, call, batch))

    def _end(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._begin()

    @staticmethod
    def _leave(
        call: asyncio.Task[None], batch: list[tuple[Crops, asyncio.Future[Vectors]]], _: object
    ) -> None:
        # An answer that nobody waits for any more must not keep others from asking.
        if all(future.done() for _, future in batch):
            call.cancel()

    def _take(self) -> list[tuple[Crops, asyncio.Future[Vectors]]]:
        """What goes in the next call, without those whose caller has left."""
        batch: list[tuple[Crops, asyncio.Future[Vectors]]] = []
        count = size_bytes = 0
        while self._waiting:
            crops, future = self._waiting[0]
            count, size_bytes = count + len(crops), size_bytes + crops.nbytes
            if batch and (count > MAX_PART_CROPS or size_bytes > MAX_PART_BYTES):
                break
            self._waiting.popleft()
            if future.done():
                count, size_bytes = count - len(crops), size_bytes - crops.nbytes
            else:
                batch.append((crops, future))
        return batch

    async def _perform(self, batch: list[tuple[Crops, asyncio.Future[Vectors]]]) -> None:
        try:
            together = [crops for crops, _ in batch]
            vectors = await self._send(together[0] if len(batch) == 1 else np.concatenate(together))
            ends = np.cumsum([len(crops) for crops in together])
            if len(vectors) != ends[-1]:
                raise Interrupted("the embedder's answer is not one for each crop: ask again")
            answers = np.split(vectors, ends[:-1])
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            for _, future in batch:
                if not future.done():
                    future.set_exception(copy_for_one(error) if len(batch) > 1 else error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


class RemoteEmbedder:
    """A `CropEmbedder` that has the card of a model and none of its weights."""

    def __init__(self, card: ModelCard, flip: bool, call: CropCall) -> None:
        self.card = card
        self.flip = flip
        self._call = call
        crop_bytes = 3 * self.side_px * self.side_px
        self._part_crops = max(1, min(MAX_PART_CROPS, MAX_PART_BYTES // crop_bytes))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.card.dimension

    @property
    def side_px(self) -> int:
        """Side of the square crop that the model expects."""
        return self.card.input.width_px

    @property
    def prefers_large_batches(self) -> bool:
        """One call with many crops costs what one with few does."""
        return True

    def embed(self, crops: Crops) -> Vectors:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them.

        Raises what the call raises, and `Interrupted` where its answer cannot be one.
        """
        if len(crops) == 0:
            return np.zeros((0, self.dim), np.float32)
        parts = [
            self._embed_part(crops[start : start + self._part_crops])
            for start in range(0, len(crops), self._part_crops)
        ]
        return np.concatenate(parts)

    def _embed_part(self, crops: Crops) -> Vectors:
        vectors = np.asarray(self._call(crops))
        # A deployment that runs another model would give vectors that compare with nothing.
        if vectors.shape != (len(crops), self.dim) or vectors.dtype != np.float32:
            raise Interrupted("the embedder's answer does not fit the model's card: ask again")
        return vectors


def call_on_loop(
    send: Callable[[Crops], Awaitable[Vectors]], loop: asyncio.AbstractEventLoop, timeout_s: float
) -> CropCall:
    """A call for worker threads from one that must be made on an event loop, as a handle's.

    Crops of threads that call meanwhile travel together. `Interrupted` where no answer comes in
    time, or none at all. Never called on that loop: it would wait for itself.
    """
    gathering = CallGathering(send)

    def call(crops: Crops) -> Vectors:
        pending = asyncio.run_coroutine_threadsafe(gathering.send(crops), loop)
        try:
            return pending.result(timeout_s)
        except WaitTimeout:
            pending.cancel()
            raise Interrupted("the embedder did not answer in time: ask again") from None
        except (SosieError, ServiceRefusal):
            raise
        except Exception as error:
            # A lost replica and a lost answer look alike, and both may be asked again.
            raise Interrupted("the embedder gave no answer: ask again") from error

    return call


def open_remote_extractor(
    settings: Settings, call: CropCall, threads: int | None = None
) -> Extractor:
    """An extractor that decodes, detects, aligns and judges here, and embeds by `call`.

    No embedder weights are read; `threads` instead of the settings', where given.
    """
    return Extractor(
        open_detector(settings),
        RemoteEmbedder(embedder_card(settings), settings.models.flip, call),
        extractor_config(settings, threads),
    )
