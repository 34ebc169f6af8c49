"""Deployments of Ray Serve: classes whose instances are replicas, each with its own parts."""

import asyncio
import gc
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve import get_replica_context
from ray.serve._private import replica
from ray.serve._private.common import DeploymentTargetInfo
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.long_poll import LongPollClient, LongPollNamespace
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ReplicaState
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from engine.batching import Batch, Batcher, Lane, Refusals, name_thread, share_out
from engine.capacity import EXTRACTING_THREADS
from engine.errors import DeviceFailed, RequestError, SosieError
from engine.faces.embedder import CropEmbedder
from engine.faces.extractor import Extractor
from indexes.base import Floats, Octets
from serving.cluster.environment import Site, count_enrolling, renew_proxy_config
from serving.cluster.haproxy import PLACE
from serving.cluster.ingress_hook import set_application
from serving.cluster.node import find_start_fault
from serving.cluster.proxy_metrics import ProxyCollector
from serving.cluster.registrar_client import RayRegistrar
from serving.deployment.deployment import Deployment
from serving.deployment.models import (
    build_extractor,
    embedder_card,
    extractor_config,
    model_digest,
    open_detector,
    open_embedder,
    open_liveness_judge,
    settle_ingress,
    without_accelerator,
)
from serving.errors import Busy, Interrupted
from serving.ingress.embedding import (
    STUCK_S,
    CropCall,
    EmbedderStatus,
    FallbackEmbedder,
    RemoteEmbedder,
    WatchedEmbedder,
    call_on_loop,
    describe_embedder,
    tell_unused,
)
from serving.ingress.extraction_queue import ExtractionQueue
from serving.ingress.parts import Parts
from serving.registrar.protocol import CallContext, Reply, Status
from serving.settings.settings import Settings, find_metrics_folder, find_node_folder
from serving.telemetry.logs import close_log
from serving.telemetry.metrics import BUILD, Exporter, Meter
from serving.telemetry.traces import open_tracer

EVENT_LOOP = "event-loop"
"""Name of the thread that answers all calls of a replica; Serve makes the replica on it."""
REMOTE_WORKERS = 4
"""Threads that wait for a remote embedder while others decode the next photographs."""


def open_meter(settings: Settings, log: FilteringBoundLogger) -> Meter:
    """The meter of this process; merges the metrics of the node's processes and its proxy."""
    meter = Meter(find_metrics_folder(), log)
    meter.set(BUILD, 1, version("sosie"), model_digest(settings))
    node = find_node_folder()
    if node is not None:
        meter.node_registry.register(ProxyCollector(node / PLACE))
    return meter


def listen_at_node() -> None:
    """Has this replica take the others' calls at its node's address alone, which is loopback where
    Sosie starts Ray. Serve listens on every interface, has no setting for it, and does so once the
    replica is built."""
    host = ray.util.get_node_ip_address()
    everywhere = replica.add_port_to_grpc_server

    def add(server: object, address: str) -> int:
        assert address == "[::]:0", "Serve listens for other replicas elsewhere: see its replica.py"
        port: int = everywhere(server, f"{host}:0")
        return port

    if everywhere.__module__ != __name__:
        replica.add_port_to_grpc_server = add


def keep_objects() -> None:
    """What this process has imported and made is for good: the garbage collector looks at it no
    more, which would stop every request for 50 ms and more each time."""
    gc.collect()
    gc.freeze()


def watch_replicas(tell: Callable[[int, int], None], each_node: int) -> LongPollClient:
    """Tells how many replicas this deployment has, and how many if at most `each_node` of a node
    count (0: all), now and on every change: each takes a share. Serve's public interface would have
    to be polled, at 13 ms of its controller each time."""
    context = get_replica_context()
    # Until Serve says so: as many as there were to be.
    replicas = context.world_size or 1
    tell(replicas, min(replicas, each_node or replicas))

    def count(targets: DeploymentTargetInfo) -> None:
        nodes = Counter(replica.node_id for replica in targets.running_replicas)
        found = max(1, nodes.total())
        tell(found, sum(min(own, each_node) for own in nodes.values()) or found)

    return LongPollClient(
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE),
        {(LongPollNamespace.DEPLOYMENT_TARGETS, context.replica_id.deployment_id): count},
        call_in_event_loop=asyncio.get_running_loop(),
        client_id=f"sosie:{context.replica_tag}",
    )


_LIVING = {ReplicaState.STARTING, ReplicaState.UPDATING, ReplicaState.RUNNING}


def has_successor(application: str, deployment: str) -> bool:
    """True where another replica of this one, which Serve is ending, has come or is coming."""
    try:
        found = serve.status().applications.get(application)
    except Exception:  # noqa: BLE001 - Ray's many ways to be gone
        return False
    if found is None or found.status is ApplicationStatus.DELETING:
        return False
    own = found.deployments.get(deployment)
    return own is not None and any(own.replica_states.get(one) for one in _LIVING)


EMBEDDER_TIMEOUT_S = 15.0
BATCH_CROPS = 256
IDLE_S = 2.0
"""An embedder that has embedded nothing for so long is asked to."""
PROBE_TIMEOUT_S = STUCK_S
ASK_TIMEOUT_S = 1.5
"""For an embedder to say how it is: less than a check of readiness takes."""


@serve.ingress()
class Ingress:
    """Replica for HTTP and all work that does not need the registrar: reads the registry, has
    models, admits keys."""

    def __init__(
        self, site: Site, registrar: DeploymentHandle[Any], embedder: DeploymentHandle[Any] | None
    ) -> None:
        name_thread(EVENT_LOOP)
        listen_at_node()
        settings = site.load()
        serve = settings.serve
        # What is opened first is closed last, after the photographs that are being extracted.
        self._opened = opened = ExitStack()
        log = site.open_log(serve, "ingress")
        opened.callback(close_log, log)
        if renew_proxy_config(serve, find_node_folder()):
            # Serve reloads the proxy for this ingress.
            log.info("proxy_renewed")
        meter = open_meter(settings, log)
        tracer = open_tracer(serve, "ingress")
        opened.callback(tracer.close)
        deployment = opened.enter_context(
            # An audit chain that is broken is told by readiness; the registrar refuses it.
            site.open(
                settings, warn=lambda line: log.warning("deployment", detail=line), is_examined=True
            )
        )
        extractor, find_embedder = _open_extractor(settings, embedder, meter, log, opened)
        opened.enter_context(extractor)
        extractor.liveness_judge = open_liveness_judge(settings)
        if serve.metrics_port:
            opened.enter_context(Exporter(meter.node_registry, serve.metrics_port))
        self._faces = ExtractionQueue(
            extractor,
            deployment.vault,
            capacity=serve.photographs_waiting,
            meter=meter,
            log=log,
            workers=1 if embedder is None else REMOTE_WORKERS,
            with_crops=settings.crops.keeps_any,
            second=deployment.second_embedder,
            key_share=serve.key_share,
        )
        opened.callback(self._faces.close)
        self._registrar = RayRegistrar(
            # Both sides can import what travels: no need to look for code to send along, as Ray's
            # own serializer does.
            registrar.options(request_serialization="pickle", response_serialization="pickle"),
            capacity=serve.requests_ongoing,
            timeout_s=serve.request_timeout_s,
            meter=meter,
            log=log,
            tracer=tracer,
        )
        self._parts = Parts.of(
            deployment,
            registrar=self._registrar,
            faces=self._faces,
            meter=meter,
            log=log,
            tracer=tracer,
            embedder=find_embedder,
        )
        self._ingresses = watch_replicas(self._parts.authenticator.share, count_enrolling(serve))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        # Neither the node nor the registrar needs it, or the third of a second that it takes.
        from serving.api.app import build_app  # noqa: PLC0415

        app = build_app(self._parts)
        # Where there may be more of them, Serve adds replicas by what its wrapper counts.
        if not self._parts.settings.max_ingress_replicas:
            set_application(app)
        keep_objects()
        return app

    async def check_health(self) -> None:
        """Raises where a new process must take over; not if the embedder or the registrar is away,
        which a new process could not change."""
        if not self._faces.is_whole:
            raise RuntimeError(
                "a thread for photographs has ended or is stuck: this replica is to be replaced"
            )

    async def __del__(self) -> None:
        self._ingresses.stop()
        await self._registrar.close()
        if self._parts.authority is not None:
            await self._parts.authority.close()
        await asyncio.to_thread(self._opened.close)


class Registrar:
    """Replica of the single writer; its service opens in the background."""

    def __init__(self, site: Site) -> None:
        name_thread(EVENT_LOOP)
        listen_at_node()
        # An ingress needs neither, nor what they load.
        from serving.cluster.shards import shard_opener  # noqa: PLC0415
        from serving.registrar.service import RegistrarService  # noqa: PLC0415

        context = get_replica_context()
        if (context.world_size or 1) > 1:
            raise RequestError("there is one writer: give the deployment Registrar one replica")
        settings = site.load()
        self._drain_s = settings.serve.drain_s
        self._has_successor = partial(has_successor, context.app_name, context.deployment)
        self._log = site.open_log(settings.serve, "registrar")

        def open_deployment() -> Deployment:
            return site.open(
                settings,
                warn=lambda line: self._log.warning("deployment", detail=line),
                open_index=shard_opener(settings, read_settings=site.load),
            )

        self._tracer = open_tracer(settings.serve, "registrar")
        self._service = RegistrarService(
            open_deployment,
            settings.serve,
            open_meter(settings, self._log),
            self._log,
            self._tracer,
        )
        keep_objects()

    async def perform(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        """`RegistrarService.perform`; errors are values."""
        return await self._service.perform(method, arguments, context)

    async def perform_all(
        self, calls: Sequence[tuple[str, tuple[Any, ...], CallContext]]
    ) -> list[Reply]:
        """The same of several calls, side by side; their replies when all are there."""
        return await asyncio.gather(*(self._service.perform(*call) for call in calls))

    async def status(self) -> Status:
        """The status, in every phase."""
        return await self._service.status()

    async def check_health(self) -> None:
        """Healthy in every phase: the service reopens itself, and a new process could do no more
        about an unreachable database."""
        await self._service.status()

    async def __del__(self) -> None:
        # A deploy replaces it: what comes next finds its shards with what they hold.
        await self._service.drain(self._drain_s, keep_shards=self._has_successor)
        await asyncio.to_thread(self._tracer.close)
        close_log(self._log)


class Embedder:
    """Replica that embeds the crops of all ingresses in batches, on a GPU if it has one."""

    def __init__(self, site: Site) -> None:
        listen_at_node()
        settings = site.load()
        self._log = site.open_log(settings.serve, "embedder")
        try:
            model = open_embedder(settings)
            self._model = WatchedEmbedder(model, open_meter(settings, self._log), self._log)
        except SosieError as error:
            self._log.error("embedder_unusable", code=error.code, detail=str(error))
            raise
        self._queue = open_crop_queue(self._model.embed, model.session.batch_sizes)

    async def embed(self, crops: Octets) -> Floats:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], as the model gives them."""
        return await self._queue.ask(crops, len(crops))

    async def status(self) -> EmbedderStatus:
        """The place where it embeds, and its fault."""
        return self._model.status()

    async def check_health(self) -> None:
        """Embeds a crop, unless others were just now; raises where a new process must take over,
        which Serve starts when this one has raised three times in a row."""
        if not self._queue.is_alive:
            raise RuntimeError("the thread of the model has ended: this replica is to be replaced")
        if time.monotonic() - self._model.ran_at > IDLE_S and not self._model.must_end:
            await self._probe()
        if self._model.must_end:
            raise RuntimeError("the model fails again and again: this replica is to be replaced")

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                self._model.judge_probe(await self.embed(self._model.probe))
        except TimeoutError:
            # Else it gets on with what came before.
            if time.monotonic() - self._model.ran_at > PROBE_TIMEOUT_S:
                raise


def open_crop_queue(
    embed: Callable[[Octets], Floats], sizes: tuple[int, ...] = ()
) -> Batcher[Octets, Floats]:
    """Queue that batches crops before a model, by its `sizes` if any; the event loop stays free, so
    that a replica can say that it is alive. Ray bounds how many calls wait."""

    def embed_all(batch: Batch[Octets, Floats]) -> list[Floats]:
        return share_out(batch, embed(np.concatenate([call.payload for call in batch])))

    ended = Interrupted("the embedder was lost meanwhile: ask again")
    refusals = Refusals(full=ended, late=ended, closed=ended, ended=ended)
    return Batcher(
        embed_all,
        [Lane(BATCH_CROPS, sizes=sizes)],
        refusals,
        name="embedder",
        # One batch is prepared while a device has the other.
        workers=2 if sizes else 1,
    )


def _call_embedder(handle: DeploymentHandle[Any]) -> CropCall:
    # As for the registrar: both sides can import what travels.
    handle = handle.options(request_serialization="pickle", response_serialization="pickle")

    async def send(crops: Octets) -> Floats:
        try:
            vectors: Floats = await handle.embed.remote(crops)
        except BackPressureError:
            raise Busy("too many photographs wait for the embedder: ask again later") from None
        except DeviceFailed as error:
            # Ray's own has the replica's traceback for its text.
            raise getattr(error, "cause", error) from None
        except Exception as error:
            raise Interrupted("the embedder was lost meanwhile: ask again") from error
        return vectors

    return call_on_loop(send, asyncio.get_running_loop(), EMBEDDER_TIMEOUT_S)


def _open_extractor(
    settings: Settings,
    handle: DeploymentHandle[Any] | None,
    meter: Meter,
    log: FilteringBoundLogger,
    opened: ExitStack,
) -> tuple[Extractor, Callable[[], Awaitable[EmbedderStatus]]]:
    """The extractor of an ingress, and what finds how its embedder is."""
    if handle is not None:
        remote = RemoteEmbedder(
            embedder_card(settings),
            settings.models.flip,
            _call_embedder(handle),
            EMBEDDER_TIMEOUT_S,
        )
        opened.callback(remote.close)
        embedder: CropEmbedder = remote
        if settings.serve.embedder_fallback:
            embedder = FallbackEmbedder(
                remote,
                open_embedder(without_accelerator(settings)),
                lambda error: log.warning("embedder_replaced", detail=str(error)),
            )
        # All but the embedding is done here.
        extractor = Extractor(open_detector(settings), embedder, extractor_config(settings, 1))
        return extractor, lambda: _ask_embedder(handle, settings)
    settled, unused = settle_ingress(settings)
    tell_unused(unused, meter, log)
    extractor = build_extractor(
        settled, threads=min(EXTRACTING_THREADS, len(os.sched_getaffinity(0)))
    )
    status = replace(describe_embedder(extractor.embedder), fault=unused)

    async def find() -> EmbedderStatus:
        return status

    return extractor, find


async def _ask_embedder(handle: DeploymentHandle[Any], settings: Settings) -> EmbedderStatus:
    """Asks an embedder of the deployment for its state; `Interrupted` where none answers, with the
    reason, if known."""
    reason = ""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            status: EmbedderStatus = await handle.status.remote()
            reason = status.failure
            if not reason:
                return status
    except Exception:  # noqa: BLE001 - Ray's many ways to be gone
        reason = await asyncio.to_thread(find_start_fault)
    reason = reason or "no embedder answers"
    if settings.serve.embedder_fallback:
        return EmbedderStatus("cpu", "float32", f"faces are embedded in the ingresses: {reason}")
    raise Interrupted(reason)
