"""Parts of an ingress, built once per process and passed to the application; among them templates
that clients keep: rotated vectors, sealed for a tenant, a model and a time."""

import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Self

import numpy as np
from structlog.typing import FilteringBoundLogger

from engine.cases.decided import DecisionReader
from engine.errors import SealBroken
from engine.matching.calibration import Calibration, Thresholds
from engine.matching.checks.document import Authority
from engine.matching.checks.liveness import LivenessChecker
from engine.matching.checks.proofs import ProofChecker
from engine.registry.store import Reader
from engine.registry.vault import Vault
from indexes.base import UNIT_TOLERANCE, Floats, check_vectors
from schema import frozen
from schema.options import PeopleRules
from serving.access.authentication import Authenticator
from serving.access.sign_in import SignIn, open_sign_in
from serving.deployment.deployment import Deployment
from serving.deployment.models import warn_calibration
from serving.errors import TemplateInvalid
from serving.ingress.embedding import EmbedderStatus
from serving.ingress.extraction_queue import ExtractionQueue
from serving.ingress.http_authority import open_authority
from serving.registrar.protocol import RegistrarClient
from serving.settings.sections import ServeSettings
from serving.telemetry.metrics import Meter
from serving.telemetry.traces import Tracer

PLACE = "issued.template"
MAX_AHEAD_S = 300
"""How far the clock of the ingress that issued may be ahead of the one that opens."""

_ISSUED_AT = struct.Struct("<q")
_FLOATS = np.dtype("<f4")


class SealedTemplates:
    """Issues and opens tokens: the moment of issue (int64, seconds) and the vector (float32[d]),
    both little-endian, sealed by `Vault.seal_token` for a tenant and the model."""

    def __init__(
        self, vault: Vault, model_digest: str, ttl_h: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._vault = vault
        self._model_digest = model_digest
        self._ttl_s = ttl_h * 3600
        self._clock = clock
        self._plain_bytes = _ISSUED_AT.size + 4 * vault.dim

    def issue(self, vectors: Floats, tenant: str) -> list[bytes]:
        """A token for each rotated row of float32[n, d]; `VectorInvalid` for one not of unit
        length."""
        vectors = check_vectors(vectors, self._vault.dim)
        row, now = self._row(tenant), self._clock()
        issued_at = _ISSUED_AT.pack(int(now))
        return [
            self._vault.seal_token(PLACE, row, issued_at + vector.tobytes(), now)
            for vector in np.ascontiguousarray(vectors, dtype=_FLOATS)
        ]

    def open(self, tokens: Sequence[bytes], tenant: str) -> list[Floats | TemplateInvalid]:
        """The rotated unit vector float32[d] of each token, or the same error for every other."""
        now, read_time, length = self._clock(), _ISSUED_AT.unpack_from, self._plain_bytes
        row = self._row(tenant)
        opened = [
            np.frombuffer(plain, _FLOATS, -1, _ISSUED_AT.size)
            if plain is not None
            and len(plain) == length
            and -MAX_AHEAD_S <= now - read_time(plain)[0] <= self._ttl_s
            else None
            for plain in (self._unseal(row, token) for token in tokens)
        ]
        # The one answer to every token that is none, so that nothing can be learnt from it.
        text = (
            "the template is not one that was issued to you here, or has expired: ask for a new one"
        )
        return [
            TemplateInvalid(text)
            if vector is None or not abs(vector @ vector - 1) <= 2 * UNIT_TOLERANCE
            else vector
            for vector in opened
        ]

    def _unseal(self, row: str, token: bytes) -> bytes | None:
        try:
            return self._vault.open_token(PLACE, row, token)
        except SealBroken:
            return None

    def _row(self, tenant: str) -> str:
        # The length keeps tenant and digest apart, whatever either holds.
        return f"{len(tenant)}:{tenant}:{self._model_digest}"


@frozen(kw_only=True, eq=False)
class Parts:
    """The parts of one ingress over an open deployment; `store` is read only, the registrar alone
    writes."""

    deployment: Deployment
    settings: ServeSettings
    registrar: RegistrarClient
    store: Reader
    vault: Vault
    thresholds: Thresholds
    thresholds_for: Callable[[int], Thresholds] | None
    """For searches of so many references, where `review` follows the gallery's size."""
    calibration: Calibration
    faces: ExtractionQueue
    templates: SealedTemplates
    authenticator: Authenticator
    meter: Meter
    log: FilteringBoundLogger
    version: str
    warnings: tuple[str, ...]
    """What `/version` says of the model's calibration."""
    authority: Authority | None
    """Whom documents are looked up at; None where their form is enough."""
    sign_in: SignIn | None
    """The way to the identity provider; None where there are only keys."""
    decisions: DecisionReader
    liveness: LivenessChecker
    proofs: ProofChecker
    people: PeopleRules
    embedder: Callable[[], Awaitable[EmbedderStatus]]
    """What embeds its faces."""
    tracer: Tracer = field(default_factory=Tracer)

    @classmethod
    def of(cls, deployment: Deployment, *, meter: Meter, **others: Any) -> Self:
        """The parts over an open deployment, by its settings; `others` has the rest, and parts to
        take instead."""
        settings, store, vault = deployment.settings, deployment.store, deployment.vault
        serve = settings.serve
        authenticator = Authenticator(
            store,
            cache_s=serve.key_cache_s,
            rate_limit=serve.rate_limit,
            accounts=store.accounts,
            idle=timedelta(minutes=settings.sign_in.idle_min),
        )
        own = {
            "settings": serve,
            "store": store,
            "vault": vault,
            "thresholds": deployment.thresholds,
            "thresholds_for": deployment.thresholds_for,
            "calibration": deployment.calibration,
            "templates": SealedTemplates(vault, store.model_digest, serve.template_ttl_h),
            "authenticator": authenticator,
            "version": version("sosie"),
            "warnings": tuple(warn_calibration(settings)),
            "authority": open_authority(settings.authority, vault, deployment.home, meter),
            "sign_in": open_sign_in(settings, vault, deployment.home),
            "decisions": DecisionReader(store),
            "liveness": deployment.liveness,
            "proofs": deployment.proofs,
            "people": deployment.people,
        }
        return cls(**{**own, "deployment": deployment, "meter": meter, **others})

    async def read_thresholds(self) -> Thresholds:
        """For the gallery as it is now."""
        if self.thresholds_for is None:
            return self.thresholds
        return self.thresholds_for((await self.registrar.status()).gallery_size)
