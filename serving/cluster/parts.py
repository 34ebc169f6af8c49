"""The parts of one ingress, opened in its process and closed with it."""

from __future__ import annotations

from importlib.metadata import version

from structlog.typing import FilteringBoundLogger

from serving.access.gate import KeyGate
from serving.cluster.proxy_metrics import ProxyCollector
from serving.cluster.proxy_socket import PLACE
from serving.cluster.site import Site
from serving.ingress.faces import FacesQueue
from serving.ingress.remote_embedder import CropCall, open_remote_extractor
from serving.ingress.templates import SealedTemplates
from serving.models import build_extractor, model_digest
from serving.parts import Parts
from serving.retention.terms import read_crop_policy
from serving.service.desk import Desk
from serving.settings import Settings, find_cache, find_metrics_folder
from serving.telemetry.exporter import start_exporter
from serving.telemetry.logs import close_log
from serving.telemetry.metrics import PrometheusMeter
from serving.telemetry.traces import Tracer

REMOTE_WORKERS = 4
"""Threads that wait for an embedder elsewhere, so that the next photographs are decoded."""


def find_version() -> str:
    """The version of this program."""
    return version("sosie")


def open_meter(settings: Settings) -> PrometheusMeter:
    """The meter of this process; it counts with the node's other processes, and shows what the
    node's proxy counts."""
    folder = find_metrics_folder()
    meter = PrometheusMeter(folder, version=find_version(), model=model_digest(settings))
    if folder is not None:
        # Both lie in the folder of the node.
        meter.rendered.register(ProxyCollector(folder.parent / PLACE))
    return meter


class IngressParts:
    """Opens the registry to read, the models and the access of one ingress; `close` ends them."""

    def __init__(
        self,
        site: Site,
        settings: Settings,
        desk: Desk,
        meter: PrometheusMeter,
        log: FilteringBoundLogger,
        tracer: Tracer,
        embed: CropCall | None,
        replicas: int,
    ) -> None:
        self._log, self._tracer = log, tracer
        self._deployment = site.open(
            settings, warn=lambda line: log.warning("deployment", detail=line)
        )
        self._extractor = (
            # One thread: there is an ingress for each core.
            build_extractor(settings, find_cache(), threads=1)
            if embed is None
            else open_remote_extractor(settings, find_cache(), embed, threads=1)
        )
        serve, store, vault = settings.serve, self._deployment.store, self._deployment.vault
        self._faces = FacesQueue(
            self._extractor,
            vault,
            capacity=serve.photographs_waiting,
            meter=meter,
            log=log,
            workers=1 if embed is None else REMOTE_WORKERS,
            with_crops=read_crop_policy(settings.crops).keeps_any,
        )
        self._exporter = (
            start_exporter(meter.rendered, serve.metrics_port) if serve.metrics_port else None
        )
        self.parts = Parts(
            settings=serve,
            desk=desk,
            store=store,
            vault=vault,
            thresholds=self._deployment.thresholds,
            faces=self._faces,
            templates=SealedTemplates(vault, store.model_digest, serve.template_ttl_h),
            gate=KeyGate(
                store,
                cache_s=serve.key_cache_s,
                rate_limit=serve.rate_limit,
                replicas=replicas,
            ),
            meter=meter,
            log=log,
            model_digest=store.model_digest,
            version=find_version(),
            calibration=self._deployment.calibration,
            tracer=tracer,
        )

    @property
    def is_whole(self) -> bool:
        """False where something has ended that only a new process has again."""
        return self._faces.is_whole

    def close(self) -> None:
        """Waits for the photographs that are being looked at."""
        self._faces.close()
        if self._exporter is not None:
            self._exporter.close()
        self._extractor.close()
        self._deployment.close()
        self._tracer.close()
        close_log(self._log)
