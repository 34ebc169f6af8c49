"""The sandbox: the real service in one process, over a home of its own, but for two parts:
photographs are decoded and not looked at, and the registrar gets faces that the document's serial
asks for."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn

from engine.errors import ImageError, RequestError
from engine.faces.extractor import Extracted, Extraction, Extractor, Kinds
from engine.faces.images import Decoder
from engine.faces.quality import Quality
from engine.matching.samples import Sample
from engine.registry.accounts import ApiKey, Carrier
from engine.registry.database import utc_now
from engine.registry.store import PERSONAL_ROLES
from schema import frozen
from schema.options import NO_LIMITS
from schema.reasons import Reason
from serving.access.authentication import make_key
from serving.api.app import build_app
from serving.deployment.deployment import Deployment, create_home, load_vault
from serving.ingress.embedding import EmbedderStatus
from serving.ingress.extraction_queue import ExtractionQueue
from serving.ingress.parts import Parts
from serving.registrar.service import RegistrarService
from serving.sandbox import outcomes
from serving.sandbox.outcomes import (
    ANYBODY,
    RESIDENT,
    STRANGER,
    draw_picture,
    make_face,
    make_near,
    read_marker,
)
from serving.sandbox.sandbox_registrar import (
    ACTOR,
    CARRIER,
    CLOSED_OUTLET,
    OTHER_CARRIER,
    OUTLET,
    OUTLETS,
    SandboxDeployment,
    SandboxRegistrar,
)
from serving.settings.sections import AuditSettings, RegistrySettings, SweepSettings
from serving.settings.settings import SANDBOX_FILE, Settings, load_settings
from serving.telemetry.logs import close_log, open_log
from serving.telemetry.metrics import Meter
from serving.webhooks.receiver import LOOPBACK

LOG_FILE, PICTURE_FOLDER = "sandbox.jsonl", "pictures"
WARNING = "a sandbox: no face is looked at, and document numbers say how an enrollment ends"
KEYS = {
    "outlet": ("outlet", CARRIER, OUTLET),
    "carrier": ("carrier", CARRIER, None),
    "other": ("carrier", OTHER_CARRIER, None),
    "fraud": ("fraud", None, None),
    "second": ("fraud", None, None),
    "operator": ("operator", None, None),
}
"""Role, carrier and outlet of each key; `second` is of another person than `fraud`."""


def make_sandbox(home: Path) -> dict[str, str]:
    """Makes a sandbox in a new or empty folder; its keys by their names in `KEYS`."""
    create_home(home, load_settings(None).model_copy(update={"registry": RegistrySettings()}))
    keys = {}
    with Deployment(home, _load(home)) as deployment:
        store = deployment.store
        for carrier, outlet in OUTLETS.items():
            store.add_carrier(Carrier(carrier, carrier), actor=ACTOR)
            store.add_outlet(outlet, carrier, actor=ACTOR)
        store.add_outlet(CLOSED_OUTLET, CARRIER, actor=ACTOR)
        store.close_outlet(CLOSED_OUTLET, actor=ACTOR)
        for name, (role, carrier_code, outlet_code) in KEYS.items():
            made = make_key(deployment.vault, is_of_sandbox=True)
            fields = (made.id, made.digest, role, carrier_code, outlet_code, utc_now())
            person = f"{ACTOR} {name}" if role in PERSONAL_ROLES else None
            store.add_api_key(ApiKey(*fields, label=ACTOR, person=person), actor=ACTOR)
            keys[name] = made.text
        deployment_id = deployment.vault.deployment_id
    folder = home / PICTURE_FOLDER
    folder.mkdir()
    for number in range(1, 4):
        (folder / f"anybody-{number}.png").write_bytes(draw_picture(f"anybody {number}"))
    for marker in outcomes.PICTURES:
        path = folder / f"{marker.lower().replace('_', '-')}.png"
        path.write_bytes(draw_picture(marker, marker))
    # Last: a home without it is no sandbox.
    text = json.dumps({"sandbox": deployment_id, "keys": keys}, indent=2)
    descriptor = os.open(home / SANDBOX_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
    return keys


def read_keys(home: Path) -> dict[str, str]:
    """The keys of a sandbox; `RequestError` where the folder is something else."""
    refusal = f"{home} is no sandbox: a sandbox needs a folder of its own, new or empty"
    try:
        mark = json.loads((home / SANDBOX_FILE).read_text("utf-8"))
        keys = {name: str(mark["keys"][name]) for name in KEYS}
        deployment_id = mark["sandbox"]
    except (OSError, ValueError, TypeError, KeyError):
        raise RequestError(refusal) from None
    # A mark that was copied into a real home is of another key ring.
    if load_vault(home, _load(home)).deployment_id != deployment_id:
        raise RequestError(refusal)
    return keys


def prepare(home: Path) -> dict[str, str]:
    """The keys of the sandbox in this folder, which is made where there is none."""
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        return read_keys(home)
    return make_sandbox(home)


def _load(home: Path, host: str = "") -> Settings:
    """Its settings, whatever registry, files of sweeps and places for the audit chain the
    environment names: those are of people. What a test repeats is not bounded."""
    settings = load_settings(home)
    webhooks = settings.webhooks
    if host in LOOPBACK:
        # This machine is nobody else's network.
        own = tuple(map(ip_network, ("127.0.0.0/8", "::1/128")))
        carriers = {one: webhooks.networks_of(one) + own for one in OUTLETS}
        opened = {
            "allowed_networks": webhooks.allowed_networks + own,
            "carrier_networks": webhooks.carrier_networks | carriers,
        }
        webhooks = webhooks.model_copy(update=opened)
    changes = {
        "registry": RegistrySettings(),
        "sweep": SweepSettings(),
        "audit": AuditSettings(),
        "limits": NO_LIMITS,
        # Each enrollment is judged by rules of its own.
        "registrar": settings.registrar.model_copy(update={"batch_size": 1}),
        "webhooks": webhooks,
    }
    return settings.model_copy(update=changes)


class PictureReader(Extractor):
    """Decodes photographs as an extractor does, and takes the face from what they say."""

    def __init__(self, dimension: int) -> None:
        self.dim, self.threads = dimension, 1
        self.liveness_judge = None
        self._decoder = Decoder()

    def close(self) -> None:
        self._decoder.close()

    def extract(
        self, images: Sequence[bytes], kinds: Kinds = (), judged: Sequence[bool] = ()
    ) -> list[Extracted]:
        """An Extraction or ImageError for each, in order; nobody judges whether they are alive."""
        del kinds, judged
        return [self._read(data) for data in images]

    def _read(self, data: bytes) -> Extracted:
        try:
            with self._decoder.decode(data) as image:
                size_px = image.size_px
        except ImageError as error:
            return error
        said = read_marker(data)
        problems = (Reason(said),) if said in outcomes.UNFIT else ()
        shown = Extraction(size_px, problems)
        if Reason.NO_FACE in problems:
            return shown
        name = Sample.unseen(data).digest.hex()
        if said == STRANGER:
            vector = make_face(name, self.dim)
        else:
            who = RESIDENT if said == RESIDENT.upper() else ANYBODY
            vector = make_near(make_face(who, self.dim), name, outcomes.ALIKE)
        return replace(shown, vector=vector, quality=_QUALITY)


_QUALITY = Quality(80.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.9, 2000.0, 0.0)


@frozen
class Sandbox:
    """An open sandbox: its application, for a server or for a test."""

    parts: Parts
    registrar: SandboxRegistrar
    host: str

    def run(self, port: int, ready: Callable[[str], None], stop: threading.Event) -> None:
        """Serves until `stop` is set; `ready` gets the address."""
        host = self.host
        config = uvicorn.Config(
            build_app(self.parts),
            lifespan="off",
            # httptools loses the body of a request that offers HTTP/2, as Java's client does.
            http="h11",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            # Of none of a service's answers.
            headers=[("sosie-sandbox", "no face is looked at")],
        )
        server = uvicorn.Server(config)

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise RequestError(
                f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port"
            ) from None

        async def serve() -> None:
            await self.registrar.settle()
            served = asyncio.create_task(server.serve([listener]))
            while not server.started and not served.done():
                await asyncio.sleep(0.01)
            if server.started:
                shown = f"[{host}]" if ":" in host else host
                ready(f"http://{shown}:{listener.getsockname()[1]}")
                await asyncio.to_thread(stop.wait)
                server.should_exit = True
            await served
            if self.parts.authority is not None:
                await self.parts.authority.close()

        with listener:
            asyncio.run(serve())


@contextmanager
def open_sandbox(home: Path, host: str) -> Iterator[Sandbox]:
    """The sandbox in this folder, open and ready for requests on the loop that is its."""
    settings = _load(home, host)
    serve = settings.serve
    with ExitStack() as opened:
        log = open_log(home / LOG_FILE, serve.log_level, ACTOR)
        opened.callback(close_log, log)
        reading = opened.enter_context(SandboxDeployment(home, settings))
        store, vault = reading.store, reading.vault
        if store.has_writer():
            raise RequestError(
                "another process has this sandbox open: use that one, or another DIR"
            )
        meter = Meter(None, log)
        service = RegistrarService(lambda: SandboxDeployment(home, settings), serve, meter, log)
        opened.callback(service.close)
        reader = PictureReader(vault.dim)
        opened.callback(reader.close)
        faces = ExtractionQueue(
            reader, vault, capacity=serve.photographs_waiting, meter=meter, log=log
        )
        opened.callback(faces.close)
        registrar = SandboxRegistrar(service)
        parts = Parts.of(
            reading,
            registrar=registrar,
            faces=faces,
            meter=meter,
            log=log,
            version=f"{version('sosie')}+sandbox",
            warnings=(WARNING,),
            sign_in=None,
            embedder=_describe,
        )
        yield Sandbox(parts, registrar, host)


async def _describe() -> EmbedderStatus:
    return EmbedderStatus("sandbox", "no face is looked at")


def serve_sandbox(
    folder: Path | None, host: str, port: int, ready: Callable[[str, Path, Mapping[str, str]], None]
) -> None:
    """Serves a sandbox until SIGINT or SIGTERM comes, one that is thrown away where no folder is
    given. `ready` gets its address, its home and its keys."""
    stop = threading.Event()
    with ExitStack() as stack:
        for name in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(name, lambda *_: stop.set())
            stack.callback(signal.signal, name, before)
        if folder is None:
            parent = stack.enter_context(TemporaryDirectory(prefix="sosie-sandbox-"))
            folder = Path(parent) / "home"
        home = folder
        keys = prepare(home)
        sandbox = stack.enter_context(open_sandbox(home, host))
        # In a thread: uvicorn takes the signals of a main thread for itself.
        thread = stack.enter_context(ThreadPoolExecutor(1))
        thread.submit(sandbox.run, port, lambda url: ready(url, home, keys), stop).result()
