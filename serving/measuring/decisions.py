"""What the one writer takes for a decision, durable: on a registry that is made and removed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.capacity.costs import DECISIONS_AT_ONCE
from engine.capacity.figures import Quantity, VectorKind, assume
from engine.errors import RequestError
from engine.matching.publication import publish
from engine.matching.requests import EnrollmentRequest, Sample
from engine.registry.records import Carrier, utc_now
from serving.compose import Deployment
from serving.demo.crowd import make_document
from serving.homes import create_home
from serving.models import embedder_card
from serving.sections import GallerySettings, RegistrySettings

if TYPE_CHECKING:
    from engine.registry.writer import Writer
    from serving.settings import Settings

SINGLES, BATCHES = 20, 10
_CARRIER, _OUTLET = "plan", "plan-1"
_REGISTRY = "registry.sqlite"
_APART = 0.3
"""How far, of a vector's length, a portrait lies from the live face."""


def measure_decisions(
    settings: Settings, cache: Path, folder: Path
) -> tuple[dict[Quantity, float], str]:
    """Seconds of a decision with its commit, and bytes of it; on an empty gallery, so that no
    search is in it."""
    with _make_place(folder) as place:
        home = Path(place) / "home"
        # SQLite whatever file and environment say: nothing is written to a registry in use.
        own = settings.model_copy(
            update={"registry": RegistrySettings(), "gallery": GallerySettings()}
        )
        create_home(home, own)
        singles, batches, grown = _decide(Deployment(home, own, cache), home / _REGISTRY)
    decided = SINGLES + BATCHES * DECISIONS_AT_ONCE
    row = assume(Quantity.ROW_BYTES, VectorKind(embedder_card(settings).dimension)).value
    found = {
        Quantity.DECISION_ALONE: float(np.median(singles)),
        Quantity.DECISION: float(np.median(batches)) / DECISIONS_AT_ONCE,
        Quantity.DECISION_SPREAD: float(np.std(np.log(batches))),
        Quantity.ENROLLMENT_BYTES: max(grown / decided - row, 0.0),
    }
    return found, f"SQLite in {folder}, {decided} decisions of strangers"


def _make_place(folder: Path) -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix="sosie-plan-", dir=folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror}") from None


def _decide(
    deployment: Deployment, registry: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Seconds of each decision alone and of each batch, and the bytes that the registry grew."""
    with deployment:
        deployment.store.add_carrier(Carrier(_CARRIER, "Plan"), actor="plan")
        deployment.store.add_outlet(_OUTLET, _CARRIER, actor="plan")
        count = SINGLES + (BATCHES + 1) * DECISIONS_AT_ONCE
        requests = _write_requests(deployment.vault.dim, count)
        warm, singles = requests[:DECISIONS_AT_ONCE], requests[DECISIONS_AT_ONCE:]
        _ = deployment.judge
        with deployment.store.writer() as writer:
            _time_batch(deployment, writer, warm)
            before = registry.stat().st_size
            alone = [_time_batch(deployment, writer, [request]) for request in singles[:SINGLES]]
            full = [
                _time_batch(deployment, writer, singles[start : start + DECISIONS_AT_ONCE])
                for start in range(SINGLES, len(singles), DECISIONS_AT_ONCE)
            ]
        return np.array(alone), np.array(full), registry.stat().st_size - before


def _time_batch(
    deployment: Deployment, writer: Writer, requests: Sequence[EnrollmentRequest]
) -> float:
    """Judges and publishes as the registrar does."""
    judge = deployment.judge
    start = time.perf_counter()
    judged = judge.judge(
        requests,
        sequence=writer.sequence,
        next_reference_id=writer.next_reference_id,
        now=utc_now(),
    )
    assert judged.changes is not None, "every request is new"
    publish(writer, judge.gallery, judged.changes)
    return time.perf_counter() - start


def _write_requests(dim: int, count: int) -> list[EnrollmentRequest]:
    """Strangers with documents of their own, whose two photographs match."""
    rng = np.random.default_rng(0)
    live = _to_units(rng.standard_normal((count, dim)))
    portrait = _to_units(live + _APART * _to_units(rng.standard_normal((count, dim))))
    return [
        EnrollmentRequest(
            idempotency_key=f"plan-{place:06d}",
            carrier=_CARRIER,
            outlet=_OUTLET,
            document=make_document(place, f"Planned {place}"),
            msisdn=f"+8613{place:09d}",
            live=_make_sample(live[place]),
            portrait=_make_sample(portrait[place]),
        )
        for place in range(count)
    ]


def _to_units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float64)


def _make_sample(vector: NDArray[np.float64]) -> Sample:
    row = vector.astype(np.float32)
    # Rounded to float32 it is no longer of length one to the last bit.
    row /= np.float32(np.linalg.norm(row))
    return Sample(row, hashlib.sha256(row.tobytes()).digest())
