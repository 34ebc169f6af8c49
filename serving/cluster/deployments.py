"""What Ray Serve runs: classes whose instances are replicas. Each opens its own parts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serving.api.app import build_app
from serving.cluster.desk import RayDesk
from serving.cluster.gathering import CropGatherer, Crops, Vectors
from serving.cluster.parts import IngressParts, open_meter
from serving.cluster.segments import install_protocol
from serving.cluster.shards import shard_opener
from serving.cluster.site import Site
from serving.compose import Deployment
from serving.ingress.remote_embedder import CropCall, call_on_loop
from serving.models import open_embedder
from serving.refusals import Busy, Interrupted
from serving.service.desk import Status
from serving.service.match_service import MatchService
from serving.service.replies import Reply
from serving.settings import find_cache
from serving.telemetry.logs import close_log, open_log
from serving.telemetry.traces import open_tracer

EMBEDDER_TIMEOUT_S = 15.0
BATCH_CROPS = 256


@serve.ingress()
class Ingress:
    """HTTP, and all that one core can do for a request without the registrar."""

    def __init__(
        self,
        site: Site,
        registrar: DeploymentHandle[Any],
        embedder: DeploymentHandle[Any] | None,
        replicas: int,
    ) -> None:
        install_protocol()
        settings = site.load()
        log = open_log(
            Path(site.home) / settings.serve.log_file, settings.serve.log_level, "ingress"
        )
        meter = open_meter(settings)
        tracer = open_tracer(settings.serve, "ingress")
        self._desk = RayDesk(
            registrar,
            capacity=settings.serve.requests_ongoing,
            timeout_s=settings.serve.request_timeout_s,
            meter=meter,
            log=log,
            tracer=tracer,
        )
        call = None if embedder is None else _call_embedder(embedder)
        self._parts = IngressParts(site, settings, self._desk, meter, log, tracer, call, replicas)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._parts.parts)

    async def check_health(self) -> None:
        """Raises where a new process must take over; not for an embedder or a registrar that is
        away, about which it could do no more."""
        if not self._parts.is_whole:
            raise RuntimeError("a thread for photographs has ended: this replica is to be replaced")

    async def __del__(self) -> None:
        await self._desk.close()
        await asyncio.to_thread(self._parts.close)


class Registrar:
    """The one writer, as a service that opens itself in the background."""

    def __init__(self, site: Site) -> None:
        settings = site.load()
        self._drain_s = settings.serve.drain_s
        self._log = open_log(
            Path(site.home) / settings.serve.log_file, settings.serve.log_level, "registrar"
        )

        def open_deployment() -> Deployment:
            return site.open(
                settings,
                warn=lambda line: self._log.warning("deployment", detail=line),
                open_index=shard_opener(settings),
            )

        self._tracer = open_tracer(settings.serve, "registrar")
        self._service = MatchService(
            open_deployment, settings.serve, open_meter(settings), self._log, self._tracer
        )

    async def perform(self, method: str, arguments: tuple[Any, ...]) -> Reply:
        """`MatchService.perform`; errors are values."""
        return await self._service.perform(method, arguments)

    async def status(self) -> Status:
        """How far it is, in every phase."""
        return await self._service.status()

    async def check_health(self) -> None:
        """Answers whatever the phase: the service opens itself again, and a new process could do
        no more about a database that is away."""
        await self._service.status()

    async def __del__(self) -> None:
        await self._service.drain(self._drain_s)
        await asyncio.to_thread(self._service.close)
        await asyncio.to_thread(self._tracer.close)
        close_log(self._log)


class Embedder:
    """Crops of all ingresses to vectors, in batches; on a GPU where it is given one."""

    def __init__(self, site: Site) -> None:
        self._gatherer = CropGatherer(open_embedder(site.load(), find_cache()).embed, BATCH_CROPS)

    async def embed(self, crops: Crops) -> Vectors:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], unit rows."""
        return await self._gatherer.embed(crops)


def _call_embedder(handle: DeploymentHandle[Any]) -> CropCall:
    async def send(crops: Crops) -> Vectors:
        try:
            vectors: Vectors = await handle.embed.remote(crops)
        except BackPressureError:
            raise Busy("too many photographs wait for the embedder: ask again later") from None
        except Exception as error:
            raise Interrupted("the embedder was lost meanwhile: ask again") from error
        return vectors

    return call_on_loop(send, asyncio.get_running_loop(), EMBEDDER_TIMEOUT_S)
