"""Calls that gather while a model is busy become its next batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Crops = NDArray[np.uint8]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Call:
    crops: Crops
    vectors: asyncio.Future[Vectors]


class CropGatherer:
    """Runs `embed` in a thread, one batch of at most `max_crops` at a time; a call is never split.

    For one event loop, which stays free meanwhile: a replica must be able to say that it is alive.
    """

    def __init__(self, embed: Callable[[Crops], Vectors], max_crops: int) -> None:
        self._embed = embed
        self._max_crops = max_crops
        self._waiting: deque[_Call] = deque()
        self._working: asyncio.Task[None] | None = None

    async def embed(self, crops: Crops) -> Vectors:
        """Crops uint8[n, side, side, 3] to float32[n, d]; raises what `embed` raises."""
        call = _Call(crops, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await call.vectors

    async def _work(self) -> None:
        try:
            while batch := self._take():
                await self._answer(batch)
        finally:
            self._working = None

    def _take(self) -> list[_Call]:
        """The calls that came first; those whose callers have gone are dropped."""
        batch: list[_Call] = []
        count = 0
        while self._waiting:
            call = self._waiting[0]
            if not call.vectors.cancelled():
                if batch and count + len(call.crops) > self._max_crops:
                    break
                batch.append(call)
                count += len(call.crops)
            self._waiting.popleft()
        return batch

    async def _answer(self, batch: list[_Call]) -> None:
        crops = np.concatenate([call.crops for call in batch])
        try:
            vectors = await asyncio.to_thread(self._embed, crops)
        except Exception as error:  # noqa: BLE001 - it is the callers', and the next batch may do
            for call in batch:
                if not call.vectors.done():
                    call.vectors.set_exception(error)
            return
        start = 0
        for call in batch:
            if not call.vectors.done():
                call.vectors.set_result(vectors[start : start + len(call.crops)])
            start += len(call.crops)
