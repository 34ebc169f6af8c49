"""The deployment that a process of the service belongs to; sent to each of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from structlog.typing import FilteringBoundLogger

from serving.compose import Deployment
from serving.sections import ServeSettings
from serving.settings import Settings, find_metrics_folder, load_settings
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

    @classmethod
    def of(cls, home: Path, file: Path | None) -> Self:
        return cls(str(home.resolve()), None if file is None else str(file.resolve()))

    def load(self) -> Settings:
        """Its settings; `RequestError` where they are not valid."""
        return load_settings(Path(self.home), None if self.file is None else Path(self.file))

    def open(self, settings: Settings, **options: Any) -> Deployment:
        """Opens the deployment; its parts are built on first use."""
        return Deployment(Path(self.home), settings, **options)

    def find_log(self, settings: ServeSettings) -> Path | None:
        """The log's file; None for standard output."""
        return Path(self.home) / settings.log_file if settings.log_file else None

    def open_log(self, settings: ServeSettings, process: str) -> FilteringBoundLogger:
        """The log of a process: through the supervisor if this node has one."""
        metrics = find_metrics_folder()
        pipe = None if metrics is None else metrics.parent / LOG_PIPE
        path = pipe if pipe is not None and pipe.is_fifo() else self.find_log(settings)
        return open_log(path, settings.log_level, process)


def count_ingresses(settings: ServeSettings) -> int:
    """The number of ingress replicas."""
    return settings.ingress_replicas or len(os.sched_getaffinity(0))
