"""Embedding of an ingress's faces: in this process, or elsewhere, to which only crops travel."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as WaitTimeout
from typing import Any

import numpy as np
from structlog.typing import FilteringBoundLogger

from engine.batching import Batch, Batcher, Call, Lane, Refusals, share_out
from engine.errors import DeviceFailed, SosieError
from engine.faces.embedder import CropEmbedder, Embedder
from engine.models.catalog import ModelCard
from indexes.base import Floats, Octets
from schema import frozen
from serving.errors import Interrupted, ServiceRefusal
from serving.telemetry.metrics import (
    ACCELERATOR_UNUSED,
    BATCH_SIZE,
    EMBEDDINGS_FAILED,
    STAGE_SECONDS,
    Meter,
)

CropCall = Callable[[Octets], Floats]
"""Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them.

Called from worker threads."""
STAGE = "embed"
FAILURES = 3
"""So many in a row, and a new process takes over: it opens the device anew."""
STUCK_S = 5.0
"""A batch of the largest size takes a GPU milliseconds, and a core does 16 crops in 0.15 s."""
DISTRUST_S = 5.0
"""How long an embedder that did not answer is not asked again, where the CPU takes its place."""


@frozen
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
    def probe(self) -> Octets:
        """A crop that shows whether the model still embeds."""
        side_px = self._embedder.side_px
        return np.zeros((1, side_px, side_px, 3), np.uint8)

    @property
    def must_end(self) -> bool:
        """True where it is unfit, or failed so often in a row that a new process must take over."""
        return bool(self._unfit) or self._failures >= FAILURES

    def embed(self, crops: Octets) -> Floats:
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

    def judge_probe(self, vectors: Floats) -> None:
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
        return describe_embedder(self._embedder, failure)

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


def describe_embedder(embedder: CropEmbedder, failure: str = "") -> EmbedderStatus:
    """The status of a model in this process; on the CPU it fails with the process alone."""
    assert isinstance(embedder, Embedder)
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

    def embed(self, crops: Octets) -> Floats:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], by whichever embeds."""
        if time.monotonic() >= self._asked_again_at:
            try:
                return self._remote.embed(crops)
            except (Interrupted, DeviceFailed) as error:
                self._asked_again_at = time.monotonic() + DISTRUST_S
                self._note(error)
        return self._local.embed(crops)


MAX_PART_CROPS = 64
MAX_PART_BYTES = 3 << 20  # a call between processes may carry 4 MiB in all


CALLS_AT_ONCE = 2
"""Calls of an ingress that an embedder has at once: one that it computes, one on the way."""


LOST = Interrupted("the embedder was lost meanwhile: ask again")


class RemoteEmbedder:
    """A `CropEmbedder` that has the card of a model and none of its weights.

    A call between processes costs as much as tens of crops: at most `CALLS_AT_ONCE` are under way,
    and what threads ask for meanwhile goes in the next, up to `MAX_PART_CROPS` and
    `MAX_PART_BYTES`. No thread waits longer than `timeout_s`.
    """

    def __init__(self, card: ModelCard, flip: bool, call: CropCall, timeout_s: float) -> None:
        self.card = card
        self.flip = flip
        self._call, self._timeout_s = call, timeout_s
        crop_bytes = 3 * self.side_px * self.side_px
        most = max(1, min(MAX_PART_CROPS, MAX_PART_BYTES // crop_bytes))
        self._queue: Batcher[Octets, Floats] = Batcher(
            self._embed_all,
            [Lane(most, splits=True)],
            Refusals(full=LOST, late=LOST, closed=LOST, ended=LOST),
            name="crops",
            workers=CALLS_AT_ONCE,
        )

    def close(self) -> None:
        """Ends the threads of its calls, after those under way."""
        self._queue.close()

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

    def embed(self, crops: Octets) -> Floats:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them.

        Raises what the call raises, and `Interrupted` where its answer cannot be one, or comes
        too late.
        """
        if len(crops) == 0:
            return np.zeros((0, self.dim), np.float32)
        asked = self._queue.submit(Call(crops, len(crops)))
        try:
            return np.asarray(asked.result(self._timeout_s))
        except WaitTimeout:
            asked.cancel()
            raise Interrupted("the embedder did not answer in time: ask again") from None

    def _embed_all(self, batch: Batch[Octets, Floats]) -> list[Floats]:
        crops = np.concatenate([call.payload for call in batch])
        vectors = np.asarray(self._call(crops))
        # A deployment that runs another model would give vectors that compare with nothing.
        if vectors.shape != (len(crops), self.dim) or vectors.dtype != np.float32:
            raise Interrupted("the embedder's answer does not fit the model's card: ask again")
        return share_out(batch, vectors)


def call_on_loop(
    send: Callable[[Octets], Coroutine[Any, Any, Floats]],
    loop: asyncio.AbstractEventLoop,
    timeout_s: float,
) -> CropCall:
    """A call for worker threads from one that must be made on an event loop, never for that loop
    itself. `Interrupted` where no answer comes in time."""

    def call(crops: Octets) -> Floats:
        pending = asyncio.run_coroutine_threadsafe(send(crops), loop)
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
