"""Parts of an ingress, built once per process and passed to the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Self

from structlog.typing import FilteringBoundLogger

from engine.cases.precision import DecisionReader
from engine.lifecycle.reverification import SimChangeTerms
from engine.matching.calibration import Calibration, Thresholds
from engine.matching.checks.authority import Authority
from engine.matching.checks.liveness import LivenessChecker
from engine.registry.store import Reader
from engine.registry.vault import Vault
from schema.cases import DueDates
from schema.options import NO_RULES, PeopleRules
from serving.access.authentication import Authenticator
from serving.access.sign_in import SignIn, open_sign_in
from serving.deployment.deployment import Deployment
from serving.deployment.models import warn_calibration
from serving.ingress.embedding import EmbedderStatus
from serving.ingress.extraction_queue import ExtractionQueue
from serving.ingress.http_authority import open_authority
from serving.ingress.templates import SealedTemplates
from serving.registrar.protocol import RegistrarClient
from serving.settings.sections import ServeSettings
from serving.telemetry.metrics import Meter
from serving.telemetry.traces import Tracer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """The parts of one ingress; `store` is read only, the registrar alone writes."""

    settings: ServeSettings
    registrar: RegistrarClient
    store: Reader
    vault: Vault
    thresholds: Thresholds
    faces: ExtractionQueue
    templates: SealedTemplates
    authenticator: Authenticator
    meter: Meter
    log: FilteringBoundLogger
    model_digest: str
    version: str
    liveness: LivenessChecker
    authority: Authority | None = None
    """Whom documents are looked up at; None where their form is enough."""
    people: PeopleRules = NO_RULES
    """Whose guardians are looked up, too."""
    calibration: Calibration | None = None
    """Gives the expected false candidates of a search; without it answers have null."""
    warnings: tuple[str, ...] = ()
    """What `/version` says of the model's calibration."""
    tracer: Tracer = field(default_factory=Tracer)
    sign_in: SignIn | None = None
    """The way to the identity provider; None where there are only keys."""
    due: DueDates = field(default_factory=DueDates)
    thresholds_for: Callable[[int], Thresholds] | None = None
    """For searches of so many references, where `review` follows the gallery's size."""
    embedder: Callable[[], Awaitable[EmbedderStatus]] | None = None
    """What embeds its faces; None in a test that embeds none."""
    is_sandbox: bool = False
    """Nothing is about anybody: the console says so on every page."""
    sim_changes: SimChangeTerms = field(default_factory=SimChangeTerms)
    """Which carriers report changes of SIM, and since when."""
    decisions: DecisionReader = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decisions", DecisionReader(self.store))

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
            "templates": SealedTemplates(vault, store.model_digest, serve.template_ttl_h),
            "authenticator": authenticator,
            "sign_in": open_sign_in(settings, vault, deployment.home),
            "model_digest": store.model_digest,
            "version": version("sosie"),
            "liveness": deployment.liveness,
            "authority": open_authority(settings.authority, vault, deployment.home, meter),
            "people": settings.people,
            "calibration": deployment.calibration,
            "warnings": tuple(warn_calibration(settings)),
            "due": settings.cases,
            "sim_changes": deployment.sim_changes,
        }
        return cls(**{**own, "meter": meter, **others})

    async def read_thresholds(self) -> Thresholds:
        """For the gallery as it is now."""
        if self.thresholds_for is None:
            return self.thresholds
        return self.thresholds_for((await self.registrar.status()).gallery_size)
