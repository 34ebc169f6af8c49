"""Parts of an ingress: built once a process, passed to the application."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from structlog.typing import FilteringBoundLogger

from engine.errors import ImageError
from engine.matching.calibration import Calibration, Thresholds
from engine.matching.requests import Sample
from engine.registry.reader import Reader
from engine.registry.vault import Vault
from serving.access.authorization import Principal
from serving.errors import TemplateInvalid
from serving.registrar.protocol import Desk
from serving.settings import ServeSettings
from serving.telemetry.metrics import Meter
from serving.telemetry.traces import Tracer


class Faces(Protocol):
    """Extracts samples from photographs, in batches over all waiting requests."""

    async def sample(
        self, images: Sequence[bytes], timeout_s: float | None = None
    ) -> list[Sample | ImageError]:
        """Samples in the order of the images. `Busy` where too many wait; `DeadlinePassed` for
        calls that waited too long. A cancelled call is not extracted."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether extraction works at present, as far as known."""
        ...


class Templates(Protocol):
    """Templates that clients keep: sealed, bound to a tenant and a model, with an expiry."""

    def issue(self, vectors: NDArray[np.float32], tenant: str) -> list[bytes]:
        """A token for each rotated unit row of float32[n, d]."""
        ...

    def open(
        self, tokens: Sequence[bytes], tenant: str
    ) -> list[NDArray[np.float32] | TemplateInvalid]:
        """The rotated unit vector float32[d] of each token, or its error."""
        ...


class Gate(Protocol):
    """Says who calls, and whether that key may go on now."""

    def admit_known(self, key: str | None) -> Principal | None:
        """The principal of a key seen lately, charged one item; None where it must be looked up.

        `RateLimited` where it has spent its rate."""
        ...

    async def admit(self, key: str | None) -> Principal:
        """The same with a look-up; `Unauthenticated` for a key that is none."""
        ...

    def charge(self, principal: Principal, items: int) -> None:
        """Charges a batch's other items; `RateLimited` where that is more than it may have."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one ingress; `store` is read only, the desk alone writes."""

    settings: ServeSettings
    desk: Desk
    store: Reader
    vault: Vault
    thresholds: Thresholds
    faces: Faces
    templates: Templates
    gate: Gate
    meter: Meter
    log: FilteringBoundLogger
    model_digest: str
    version: str
    calibration: Calibration | None = None
    """Gives the expected false candidates of a search; without it answers have null."""
    tracer: Tracer = field(default_factory=Tracer)
