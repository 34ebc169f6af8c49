"""The whole application over a registry, a registrar, models and keys of its own, in process."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from engine.faces.extractor import Extractor
from engine.registry.accounts import ApiKey
from engine.registry.database import utc_now
from engine.registry.store import PERSONAL_ROLES
from schema.options import NO_LIMITS
from serving.access.authentication import Authenticator, make_key
from serving.api.app import build_app
from serving.deployment.deployment import Deployment
from serving.deployment.models import open_liveness_judge
from serving.ingress.embedding import EmbedderStatus
from serving.ingress.extraction_queue import ExtractionQueue
from serving.ingress.parts import Parts
from serving.registrar.service import RegistrarService
from serving.settings.settings import Settings, load_settings
from serving.telemetry.logs import close_log, open_log
from serving.telemetry.metrics import Meter
from serving.telemetry.traces import open_tracer
from tests.serving.api.driver import KEYS, Service
from tests.serving.local_registrar import LocalRegistrar
from tests.waiting import wait_until

settings.register_profile("long", max_examples=1000)


@pytest.fixture(scope="session")
def extractor(enrolled_home) -> Iterator[Extractor]:
    home, _ = enrolled_home
    with Deployment(home, load_settings(home)) as deployment:
        yield deployment.extractor


@pytest.fixture(scope="session")
def keyed_home(enrolled_home, sosie, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The home with one person, with an outlet more and every key of KEYS; not to be changed."""
    # Each folder of tests that takes this fixture makes one of its own.
    home = tmp_path_factory.mktemp("keyed") / "home"
    shutil.copytree(enrolled_home[0], home)
    for code in ("b2", "b3"):
        assert sosie("outlet", "add", code, "--carrier", "blue", "--home", home).code == 0
    assert sosie("outlet", "close", "b3", "--home", home).code == 0
    texts = {}
    with Deployment(home, load_settings(home)) as deployment:
        for name, (role, carrier, outlet) in KEYS.items():
            made = make_key(deployment.vault)
            texts[name] = made.text
            fields = (made.id, made.digest, role, carrier, outlet, utc_now())
            person = name if role in PERSONAL_ROLES else None
            deployment.store.add_api_key(ApiKey(*fields, label=name, person=person), actor="test")
    return home, texts


Start = Callable[..., Service]


async def describe_embedder() -> EmbedderStatus:
    return EmbedderStatus("cpu", "float32")


@contextmanager
def serving(home: Path, keys: dict[str, str], extractor: Extractor) -> Iterator[Any]:
    """`start(**settings)`, for one service over a home."""
    undo: list[Callable[[], Any]] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def start(*, is_ready: bool = True, **changes: Any) -> Service:
        own = {name: changes.pop(name) for name in set(changes).difference(Settings.model_fields)}
        # Tests that share a service fail with one holder again and again.
        loaded = load_settings(home).model_copy(update={"limits": NO_LIMITS, **changes})
        serve = loaded.serve.model_copy(update={"key_cache_s": 0.0, **own})
        whole = loaded.model_copy(update={"serve": serve})
        log_file = home / "service.jsonl"
        log = open_log(log_file, "debug", "test")
        undo.append(lambda: close_log(log))
        reading = Deployment(home, whole)
        undo.append(reading.close)
        meter = Meter(None, log)
        tracer, its_tracer = open_tracer(serve, "ingress"), open_tracer(serve, "registrar")
        undo.extend((tracer.close, its_tracer.close))
        match = RegistrarService(lambda: Deployment(home, whole), serve, meter, log, its_tracer)
        undo.append(match.close)
        # One for all tests: each has its own judge, or none.
        extractor.liveness_judge = open_liveness_judge(whole)
        faces = ExtractionQueue(
            extractor,
            reading.vault,
            capacity=serve.photographs_waiting,
            meter=meter,
            log=log,
            with_crops=whole.crops.keep != "none",
        )
        undo.append(faces.close)
        registrar = LocalRegistrar(match)
        store = reading.store
        parts = Parts.of(
            reading,
            registrar=registrar,
            faces=faces,
            authenticator=Authenticator(store, cache_s=serve.key_cache_s, accounts=store.accounts),
            meter=meter,
            log=log,
            version="0.1.0",
            warnings=(),
            tracer=tracer,
            embedder=describe_embedder,
        )
        if (asked := parts.authority) is not None:
            undo.append(lambda: asyncio.run_coroutine_threadsafe(asked.close(), loop).result(60))
        service = Service(parts, registrar, match, build_app(parts), loop, keys, log_file)
        if is_ready:
            wait_until_ready(service)
        return service

    try:
        yield start
    finally:
        for step in reversed(undo):
            step()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def wait_until_ready(service: Service) -> None:
    wait_until(lambda: service.ask("GET", "/health/ready").status_code == 200)


@pytest.fixture(scope="session")
def service(keyed_home, extractor) -> Iterator[Service]:
    """One service for all tests that leave it as it is."""
    home = keyed_home[0].with_name("served")
    shutil.copytree(keyed_home[0], home)
    with serving(home, keyed_home[1], extractor) as start:
        yield start()


@pytest.fixture(scope="module")
def own_service(keyed_home, extractor, tmp_path_factory) -> Iterator[Service]:
    """One service for the tests of a module, which may change it."""
    home = tmp_path_factory.mktemp("own") / "served"
    shutil.copytree(keyed_home[0], home)
    with serving(home, keyed_home[1], extractor) as start:
        yield start()


@pytest.fixture
def start_service(keyed_home, extractor, tmp_path) -> Iterator[Start]:
    """`start_service(**settings)`: a service over a copy that this test may change."""
    home = tmp_path / "served"
    shutil.copytree(keyed_home[0], home)
    with serving(home, keyed_home[1], extractor) as start:
        yield start


@pytest.fixture
def fresh(start_service) -> Service:
    """A service that this test may change."""
    return start_service()


@pytest.fixture(scope="session")
def faces(photographs) -> dict[str, bytes]:
    """The bytes of each photograph, by name."""
    names = ("live", "portrait", "later", "stranger", "stranger_again", "faceless")
    return {name: getattr(photographs, name).read_bytes() for name in names}


def make_activation(**changes: Any) -> dict[str, Any]:
    """The body of a stranger's honest enrollment at outlet b1, but for the photographs."""
    body = {
        "outlet": "b1",
        "document": {"type": "cn-ric", "number": "110105198503071257", "name": "Stan Stranger"},
        "msisdn": "+8613800138001",
        "consent_ref": "C-1",
        "captured_at": datetime.now(UTC).isoformat(),
    }
    return {name: value for name, value in (body | changes).items() if value is not None}


@pytest.fixture
def activation(faces) -> Callable[..., dict[str, Any]]:
    """`activation(**changes)`: the same with the photographs."""
    return partial(make_activation, live=faces["stranger"], portrait=faces["stranger_again"])


def case_of(service: Any, enrollment: dict[str, Any]) -> str:
    """The case that an enrollment went into, which no tenant is told."""
    enrollment_id = enrollment["enrollment_id"]
    return str(service.parts.store.cases.of_attempts([enrollment_id])[enrollment_id].id)


@pytest.fixture
def open_case(faces, activation) -> Callable[..., str]:
    """`open_case(service)`: a duplicate is enrolled; the id of the case about both documents."""

    def make(service: Any, key: str = "k") -> str:
        body = activation(live=faces["live"], portrait=faces["portrait"])
        answer = service.enroll(body, key)
        return case_of(service, service.read(answer))

    return make
