"""What embeds the faces of an ingress: what is known of it, and the CPU in its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from structlog.typing import FilteringBoundLogger

from engine.errors import DeviceFailed, SosieError
from engine.faces.embedder import CropEmbedder, Embedder
from engine.models.catalog import ModelCard
from serving.errors import Interrupted
from serving.ingress.remote_embedder import Crops, Vectors
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
    """Where faces are embedded. `fault`: why not where they should be; `failure`: why not at all.

    Both are one line, and empty where all is well.
    """

    provider: str
    precision: str
    fault: str = ""
    failure: str = ""

    @property
    def runtime(self) -> str:
        """As `/version` shows it."""
        return f"{self.provider} {self.precision}"


class WatchedEmbedder:
    """A model in this process, with its batches logged and measured, that has embedded a crop.

    Raises what opening the model's device raises.
    """

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
        """Whether it is unfit, or failed so often in a row that a new process must take over."""
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
        """What the model made of `probe`: of a black crop too it makes numbers, if it is fit."""
        if not np.isfinite(vectors).all():
            self._unfit = "the model gives no finite numbers, whatever the photograph"
            self._log.error("embedder_unfit", detail=self._unfit)

    def status(self) -> EmbedderStatus:
        """What is known of it now."""
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
