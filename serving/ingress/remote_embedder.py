"""An extractor whose embedder runs elsewhere: photographs stay here, only crops travel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as WaitTimeout

import numpy as np
from numpy.typing import NDArray

from engine.errors import SosieError
from engine.faces.extractor import Extractor
from engine.models.catalog import ModelCard
from serving.errors import Interrupted, ServiceRefusal
from serving.models import embedder_card, extractor_config, open_detector
from serving.settings import Settings

Crops = NDArray[np.uint8]
Vectors = NDArray[np.float32]
CropCall = Callable[[Crops], Vectors]
"""Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them.

Called from worker threads."""

MAX_PART_CROPS = 64
MAX_PART_BYTES = 3 << 20  # a call between processes may carry 4 MiB in all


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

    `Interrupted` where no answer comes in time, or none at all. Never called on that loop: it
    would wait for itself.
    """

    async def forward(crops: Crops) -> Vectors:
        return await send(crops)

    def call(crops: Crops) -> Vectors:
        pending = asyncio.run_coroutine_threadsafe(forward(crops), loop)
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
