"""Which deployment a process of the service belongs to; small enough to travel to each of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from serving.compose import Deployment
from serving.settings import ServeSettings, Settings, find_cache, load_settings


@dataclass(frozen=True, slots=True)
class Site:
    """A home folder, and a settings file in place of the home's where one is given.

    On a cluster the same paths must lead there on every node that runs a part of the service.
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
        """The deployment, opened; what it needs is built when it is asked for."""
        return Deployment(Path(self.home), settings, find_cache(), **options)


def count_ingresses(settings: ServeSettings) -> int:
    """How many replicas the ingress has."""
    return settings.ingress_replicas or len(os.sched_getaffinity(0))
