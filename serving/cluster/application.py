"""The service as one Serve application: all that Serve is told of it comes from the settings."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from engine.capacity import EXTRACTING_THREADS
from engine.errors import RequestError
from engine.models.catalog import locate
from serving.cluster.deployments import Embedder, Ingress, Registrar
from serving.cluster.environment import Site, count_ingresses, registrar_timeout_s
from serving.cluster.node import KEEP_ALIVE_S, NAME
from serving.deployment.models import (
    detector_card,
    embedder_card,
    require_agreement,
    second_settings,
)
from serving.settings.sections import ENROLLMENTS_ONGOING, ServeSettings
from serving.settings.settings import require_home

HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 10.0}
"""An ended replica is detected within the period, one that hangs within the timeout."""

QUIET: dict[str, Any] = {"logging_config": {"log_level": "WARNING", "enable_access_log": False}}
"""The middleware logs each request; Serve's own line would be a second write."""

INGRESS_MARGIN = 64
"""Requests above its bounds that an ingress accepts, to refuse them with our own answer."""

CALLS_ONGOING = 8192
"""Concurrent calls of the registrar: its own queues refuse long before."""

EMBEDDINGS_ONGOING = 64
EMBEDDER_END_S = 5.0

ONE_BY_ONE: dict[str, Any] = {"rolling_update_percentage": 0.001}
"""A new version takes over replica by replica."""
ONE_MORE = ONE_BY_ONE | {"max_surge_percent": 1}
"""The same, each beside the one that it replaces."""

LOOK_BACK_S, UPSCALE_S = 12.0, 5.0
"""The load is a mean of so long, which must be above what the replicas are for so long."""


def build(arguments: Mapping[str, Any]) -> Application:
    """The application of a Serve file: `home`, and `config` for another settings file; `revision`
    is of no meaning but that another one replaces every replica (`sosie serve-config`)."""
    unknown = set(arguments) - {"home", "config", "revision"}
    if unknown:
        raise RequestError(f"unknown arguments {', '.join(sorted(unknown))}: give home, config")
    home = arguments.get("home")
    file = arguments.get("config")
    folder = require_home(None if home is None else Path(home))
    return compose(Site.of(folder, None if file is None else Path(file)))


def require_sound(site: Site) -> None:
    """Raises what is wrong with keys, registry, models or calibration of a site, in one line."""
    settings = site.load()
    second = second_settings(settings)
    for card in (detector_card(settings), *map(embedder_card, filter(None, (settings, second)))):
        locate(card)
    with site.open(settings) as deployment:
        _ = deployment.thresholds, deployment.second


def compose(site: Site) -> Application:
    """The deployments of a site, bound to each other."""
    loaded = site.load()
    require_agreement(loaded)
    settings, site = loaded.serve, site.agreed_with(loaded)
    cpus = {"num_cpus": settings.replica_cpus}
    registrar = _deployment(
        Registrar,
        settings.requests_ongoing,
        num_replicas=1,
        max_ongoing_requests=CALLS_ONGOING,
        graceful_shutdown_timeout_s=registrar_timeout_s(settings.drain_s),
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options=cpus,
        # The next one has started, and waits for the lease, before this one gives it back.
        **ONE_MORE,
    )
    embedder = _deployment(
        Embedder,
        settings.photographs_waiting,
        **_count(
            settings, settings.embedder_replicas, settings.max_embedder_replicas, EMBEDDINGS_ONGOING
        ),
        max_ongoing_requests=EMBEDDINGS_ONGOING,
        # One whose device does not answer keeps its GPU from the next for so long.
        graceful_shutdown_timeout_s=EMBEDDER_END_S,
        ray_actor_options=cpus | {"num_gpus": settings.embedder_gpus},
        # No GPU need be free for one more.
        **(ONE_BY_ONE if settings.embedder_gpus else ONE_MORE),
    )
    each_node = settings.ingresses_per_node
    ingress = _deployment(
        Ingress,
        settings.requests_ongoing,
        # Counted here, once: an ingress on another node may see other cores.
        **_count(
            settings,
            count_ingresses(settings),
            settings.max_ingress_replicas,
            # Where nothing is bounded, an ingress is full at the usual bound.
            settings.enrollments_ongoing or ENROLLMENTS_ONGOING,
        ),
        # All that the proxy sends it while bodies come, with the enrollments for other ingresses.
        max_ongoing_requests=settings.requests_ongoing
        + settings.matches_ongoing
        + settings.enrollments_admitted * EXTRACTING_THREADS
        + INGRESS_MARGIN,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
        ray_actor_options=cpus,
        # Where each node has as many as it may there is no place for one more.
        **(ONE_BY_ONE | {"max_replicas_per_node": each_node} if each_node else ONE_MORE),
    )
    has_embedder = settings.embedder == "deployment"
    bound = embedder.bind(site) if has_embedder else None
    return ingress.bind(site, registrar.bind(site), bound)


def _deployment(kind: type[Any], queued: int, **options: Any) -> serve.Deployment:
    """Replicas of a class, before which `queued` requests may wait."""
    return serve.deployment(
        kind, name=kind.__name__, max_queued_requests=queued, **HEALTH, **QUIET, **options
    )


def _count(settings: ServeSettings, least: int, most: int, full: int) -> dict[str, Any]:
    """So many replicas; where there may be more, one more as soon as they are half full."""
    if not most:
        return {"num_replicas": least}
    scaling = AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=max(1.0, full / 2),
        upscale_delay_s=UPSCALE_S,
        downscale_delay_s=settings.scale_down_after_s,
        look_back_period_s=LOOK_BACK_S,
    )
    return {"autoscaling_config": scaling}


def describe(site: Site, python: Path | None = None) -> dict[str, Any]:
    """The Serve file of a site, for `serve deploy` and a RayService: it names the home and where to
    listen, the service reads the rest from its settings. Replicas run in another environment than
    Ray, by its `python`."""
    settings = site.load()
    # Another revision for other settings, without what is secret.
    text = json.dumps(
        settings.model_dump(),
        default=lambda value: "" if isinstance(value, SecretStr) else str(value),
        sort_keys=True,
    )
    arguments = {
        "home": site.home,
        "config": site.file,
        "revision": hashlib.sha256(f"{version('sosie')} {text}".encode()).hexdigest()[:12],
    }
    environment = {} if python is None else {"runtime_env": {"py_executable": str(python)}}
    return {
        "proxy_location": "EveryNode",
        "http_options": {
            "host": settings.serve.host,
            "port": settings.serve.port,
            "keep_alive_timeout_s": KEEP_ALIVE_S,
        },
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "import_path": f"{__name__}:{build.__name__}",
                "args": {name: value for name, value in arguments.items() if value is not None},
                **environment,
            }
        ],
    }
