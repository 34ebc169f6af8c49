"""The service as one Serve application, for `sosie serve` and for a Serve YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from engine.errors import RequestError
from serving.cluster.deployments import Embedder, Ingress, Registrar
from serving.cluster.node import registrar_timeout_s
from serving.cluster.site import Site, count_ingresses
from serving.settings import require_home

_ARGUMENTS = frozenset({"home", "config"})
HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 10.0}
"""An ended replica is detected within the period, one that hangs within the timeout."""

QUIET: dict[str, Any] = {"logging_config": {"log_level": "WARNING", "enable_access_log": False}}
"""The middleware logs each request; Serve's own line would be a second write."""

INGRESS_MARGIN = 64
"""Requests above its bound that an ingress accepts, to refuse them with our own answer."""

CALLS_ONGOING = 8192
"""Concurrent calls of the registrar: its own queues refuse long before."""

EMBEDDINGS_ONGOING = 64


def build(arguments: Mapping[str, Any]) -> Application:
    """The application of a Serve YAML: `home`, and `config` for another settings file."""
    unknown = set(arguments) - _ARGUMENTS
    if unknown:
        raise RequestError(f"unknown arguments {', '.join(sorted(unknown))}: give home, config")
    home = arguments.get("home")
    file = arguments.get("config")
    folder = require_home(None if home is None else Path(home))
    return compose(Site.of(folder, None if file is None else Path(file)))


def compose(site: Site) -> Application:
    """The deployments of a site, bound to each other."""
    settings = site.load().serve
    registrar = _deployment(
        Registrar,
        1,
        settings.requests_ongoing,
        max_ongoing_requests=CALLS_ONGOING,
        graceful_shutdown_timeout_s=registrar_timeout_s(settings.drain_s),
        graceful_shutdown_wait_loop_s=0.2,
    )
    embedder = _deployment(
        Embedder,
        settings.embedder_replicas,
        settings.photographs_waiting,
        max_ongoing_requests=EMBEDDINGS_ONGOING,
        ray_actor_options={"num_cpus": 0, "num_gpus": settings.embedder_gpus},
    )
    # Counted here, once: an ingress on another node may see other cores.
    replicas = count_ingresses(settings)
    ingress = _deployment(
        Ingress,
        replicas,
        settings.requests_ongoing,
        max_ongoing_requests=settings.requests_ongoing + INGRESS_MARGIN,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
    )
    has_embedder = settings.embedder == "deployment"
    bound = embedder.bind(site) if has_embedder else None
    return ingress.bind(site, registrar.bind(site), bound, replicas)


def _deployment(kind: type[Any], replicas: int, queued: int, **options: Any) -> serve.Deployment:
    """So many replicas of a class, before which `queued` requests may wait."""
    usual: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}, **HEALTH, **QUIET}
    return serve.deployment(
        kind,
        name=kind.__name__,
        num_replicas=replicas,
        max_queued_requests=queued,
        **(usual | options),
    )
