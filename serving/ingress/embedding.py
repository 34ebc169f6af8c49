"""Embedding of an ingress's faces: in this process, or elsewhere, to which only crops travel."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as WaitTimeout
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from structlog.typing import FilteringBoundLogger

from engine.errors import DeviceFailed, SosieError, copy_for_one
from engine.faces.embedder import CropEmbedder, Embedder
from engine.faces.extractor import Extractor
from engine.models.catalog import ModelCard
from serving.deployment.models import embedder_card, extractor_config, open_detector
from serving.errors import Interrupted, ServiceRefusal
from serving.settings.settings import Settings
from serving.telemetry.metrics import (
    ACCELERATOR_UNUSED,
    BATCH_SIZE,
    EMBEDDINGS_FAILED,
    STAGE_SECONDS,
    Meter,
)

STAGE = "embed"
FAILURES = 3
"""So many in a row, and a new process takes over: it opens the device anew."""
STUCK_S = 5.0
"""A batch of the largest size takes a GPU milliseconds, and a core does 16 crops in 0.15 s."""
DISTRUST_S = 5.0
"""How long an embedder that did not answer is not asked again, where the CPU takes its place."""


@dataclass(frozen=True, slots=True)
class EmbedderStatus:
    """Where faces are embedded; in one line `fault`: why not where they should be, `failure`: why
    not at all."""

    provider: str
    precision: str
    fault: str = ""
    failure: str = ""

    @property
    def runtime(self) -> str:
        """As `/version` shows it."""
        return f"{self.provider} {self.precision}"


class WatchedEmbedder:
    """A model in this process, logged and measured, that has embedded a crop; raises what opening
    its device does."""

    def __init__(self, embedder: Embedder, meter: Meter, log: FilteringBoundLogger) -> None:
        self._embedder = embedder
        self._meter = meter
        self._log = log
        self._failures = 0
        self._failure = self._unfit = ""
        self._began: dict[int, float] = {}
        """When each thread that embeds began."""
        self.ran_at = time.monotonic()
        """When the model last came to an end with some crops."""
        session = embedder.session
        session.observe = self._note_run
        log.info(
            "embedder",
            provider=session.provider,
            precision=session.precision,
            batch_sizes=list(session.batch_sizes),
            options=dict(session.device_options),
        )
        tell_unused(session.fault, meter, log)
        self.embed(self.probe)

    @property
    def probe(self) -> Crops:
        """A crop that shows whether the model still embeds."""
        side_px = self._embedder.side_px
        return np.zeros((1, side_px, side_px, 3), np.uint8)

    @property
    def must_end(self) -> bool:
        """True where it is unfit, or failed so often in a row that a new process must take over."""
        return bool(self._unfit) or self._failures >= FAILURES

    def embed(self, crops: Crops) -> Vectors:
        """`Embedder.embed`."""
        thread = threading.get_ident()
        self._began[thread] = time.monotonic()
        try:
            vectors = self._embedder.embed(crops)
        except Exception as error:
            self._note_failure(error, len(crops))
            raise
        finally:
            del self._began[thread]
        self._failures, self._failure = 0, ""
        return vectors

    def judge_probe(self, vectors: Vectors) -> None:
        """Judges the model's numbers of `probe`: of a black crop too it makes numbers, if it is
        fit."""
        if not np.isfinite(vectors).all():
            self._unfit = "the model gives no finite numbers, whatever the photograph"
            self._log.error("embedder_unfit", detail=self._unfit)

    def status(self) -> EmbedderStatus:
        """The state known now."""
        failure, began = self._unfit or self._failure, list(self._began.values())
        if began and time.monotonic() - max(min(began), self.ran_at) > STUCK_S:
            failure = "the device does not come to an end with a batch"
        return _describe(self._embedder, failure)

    def _note_run(self, size: int, seconds: float) -> None:
        self.ran_at = time.monotonic()
        self._meter.observe(STAGE_SECONDS, seconds, STAGE)
        self._meter.observe(BATCH_SIZE, size, STAGE)

    def _note_failure(self, error: Exception, count: int) -> None:
        self._failures += 1
        # The text of what was not foreseen may hold anything.
        is_foreseen = isinstance(error, SosieError)
        self._failure = str(error) if is_foreseen else type(error).__name__
        code = error.code if isinstance(error, SosieError) else "INTERNAL"
        self._meter.add(EMBEDDINGS_FAILED, code)
        self._log.error(
            "embedding_failed",
            code=code,
            detail=self._failure,
            count=count,
            in_a_row=self._failures,
        )


def tell_unused(fault: str, meter: Meter, log: FilteringBoundLogger) -> None:
    """Says in log and metric that there is an accelerator that is not used, if so."""
    meter.set(ACCELERATOR_UNUSED, bool(fault))
    if fault:
        log.warning("accelerator_unused", detail=fault)


def describe_embedder(embedder: CropEmbedder) -> EmbedderStatus:
    """The status of a model in this process; on the CPU it fails with the process alone."""
    assert isinstance(embedder, Embedder)
    return _describe(embedder, "")


def _describe(embedder: Embedder, failure: str) -> EmbedderStatus:
    session = embedder.session
    return EmbedderStatus(session.provider, session.precision, session.fault, failure)


class FallbackEmbedder:
    """A `CropEmbedder` elsewhere, and one here for while that one does not answer."""

    def __init__(
        self, remote: CropEmbedder, local: CropEmbedder, note: Callable[[Exception], None]
    ) -> None:
        self._remote, self._local, self._note = remote, local, note
        self._asked_again_at = 0.0
        self.card: ModelCard = remote.card
        self.flip, self.dim, self.side_px = remote.flip, remote.dim, remote.side_px
        self.prefers_large_batches = remote.prefers_large_batches

    def embed(self, crops: Crops) -> Vectors:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], by whichever embeds."""
        if time.monotonic() >= self._asked_again_at:
            try:
                return self._remote.embed(crops)
            except (Interrupted, DeviceFailed) as error:
                self._asked_again_at = time.monotonic() + DISTRUST_S
                self._note(error)
        return self._local.embed(crops)


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
    """Makes one call of the crops of all requests that wait; for one event loop. A call between
    processes costs as much as tens of crops: at most `CALLS_AT_ONCE` are under way, and what comes
    meanwhile goes in the next, up to `MAX_PART_CROPS` and `MAX_PART_BYTES`."""

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
        """Takes the crops of the next call, without those whose caller has left."""
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
    """A call for worker threads from one that must be made on an event loop, never for that loop
    itself. Crops of threads that call meanwhile travel together. `Interrupted` where no answer
    comes in time."""
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
    """An extractor that decodes, detects, aligns and judges here, with `threads` if given, and
    embeds by `call`."""
    return Extractor(
        open_detector(settings),
        RemoteEmbedder(embedder_card(settings), settings.models.flip, call),
        extractor_config(settings, threads),
    )
