"""Match and templates, through the application, over a real store, gallery, keys and extractor."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import msgpack
import numpy as np
import pytest
import structlog

from engine.matching.identification import Identification, identify
from engine.registry.records import ApiKey, utc_now
from serving.access.authentication import Authenticator, make_key
from serving.api.app import build_app
from serving.api.body import JSON, MSGPACK
from serving.compose import Deployment
from serving.ingress.extraction_queue import ExtractionQueue
from serving.ingress.templates import SealedTemplates
from serving.parts import Parts
from serving.registrar.protocol import CallContext, Probes
from serving.settings import ServeSettings, load_settings
from serving.telemetry.metrics import Meter
from serving.wire.fields import read as read_wire
from serving.wire.matching import MatchResults

DIM = 128


KEYS = {
    "blue": ("carrier", "blue", None),
    "b1": ("outlet", "blue", "b1"),
    "red": ("carrier", "red", None),
    "fraud": ("fraud", None, None),
    "operator": ("operator", None, None),
}


class GalleryRegistrar:
    """The part of a registrar that these routes use, over a real gallery."""

    def __init__(self, deployment: Deployment) -> None:
        self.fault: Exception | None = None
        self.calls: list[tuple[int, float, CallContext]] = []
        self._deployment = deployment

    async def identify(
        self, probes: Probes, threshold: float, context: CallContext
    ) -> list[Identification]:
        self.calls.append((len(probes), threshold, context))
        if self.fault is not None:
            raise self.fault
        gallery, store = self._deployment.restored.gallery, self._deployment.store
        return identify(probes, gallery, store, threshold=threshold)


@dataclass
class Service:
    """An application over real parts, and a key for each of KEYS."""

    parts: Parts
    registrar: GalleryRegistrar
    keys: dict[str, str]

    def post(self, path: str, body: object, key: str | None = "fraud", **options: Any) -> Any:
        """The answer to one call; MessagePack if `packed`, `content` as it is where given."""
        app = build_app(self.parts)
        is_packed = options.pop("packed", False)
        headers = {"content-type": MSGPACK if is_packed else JSON, **options.pop("headers", {})}
        if key is not None:
            headers["authorization"] = f"Bearer {self.keys.get(key, key)}"
        content = options.pop("content", None)
        if content is None:
            content = msgpack.packb(body) if is_packed else json.dumps(body).encode()

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post(path, content=content, headers=headers)

        return asyncio.run(ask())

    def match(self, *items: object, **options: Any) -> list[Any]:
        """The results of a call that must be answered."""
        answer = self.post("/v1/match", {"items": list(items)}, **options)
        assert answer.status_code == 200, answer.text
        value = read(answer)
        read_wire(value, MatchResults)
        results: list[Any] = value["items"]
        assert len(results) == len(items)
        return results

    def tokens(self, vectors: Any, tenant: str = "role:fraud") -> list[bytes]:
        return self.parts.templates.issue(vectors, tenant)


def read(answer: httpx.Response) -> Any:
    """What an answer says, in either type."""
    if answer.headers["content-type"] == MSGPACK:
        return msgpack.unpackb(answer.content)
    return answer.json()


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, read(answer)["code"]


@pytest.fixture(scope="session")
def deployment(
    enrolled_home: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("matching")
    home = Path(shutil.copytree(enrolled_home[0], folder / "home"))
    with Deployment(home, load_settings(home), folder / "cache") as opened:
        yield opened


@pytest.fixture(scope="session")
def keys(deployment: Deployment) -> dict[str, str]:
    made = {name: make_key(deployment.vault) for name in KEYS}
    for name, (role, carrier, outlet) in KEYS.items():
        key, now = made[name], utc_now()
        deployment.store.add_api_key(
            ApiKey(key.id, key.digest, name, role, carrier, outlet, None, now), actor="test"
        )
    return {name: key.text for name, key in made.items()}


@pytest.fixture(scope="session")
def queue(deployment: Deployment) -> Iterator[ExtractionQueue]:
    log = structlog.get_logger()
    made = ExtractionQueue(
        deployment.extractor, deployment.vault, capacity=64, meter=Meter(), log=log
    )
    yield made
    made.close()


@pytest.fixture
def service(deployment: Deployment, keys: dict[str, str], queue: ExtractionQueue) -> Service:
    digest = deployment.store.model_digest
    registrar = GalleryRegistrar(deployment)
    parts = Parts(
        settings=ServeSettings(),
        registrar=cast(Any, registrar),
        store=deployment.store,
        vault=deployment.vault,
        thresholds=deployment.thresholds,
        faces=queue,
        templates=SealedTemplates(deployment.vault, digest, 24),
        authenticator=Authenticator(deployment.store, cache_s=5),
        meter=Meter(),
        log=structlog.get_logger(),
        model_digest=digest,
        version="0",
        calibration=deployment.calibration,
    )
    return Service(parts, registrar, keys)


@pytest.fixture
def pictures(photographs: Any) -> dict[str, bytes]:
    names = ("live", "portrait", "later", "stranger", "faceless")
    return {name: getattr(photographs, name).read_bytes() for name in names}


def unit_rows(count: int, seed: int = 0) -> Any:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes) -> dict[str, object]:
    return {"image": data}


def template(token: bytes) -> dict[str, object]:
    return {"template": token}
