"""An ingress whose embedder is away, or whose worker is dead."""

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
from ray.exceptions import RayTaskError
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.batching import Call
from engine.errors import DeviceFailed
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.base import Floats, Octets
from serving.cluster import deployments, ingress_hook
from serving.cluster.deployments import IDLE_S, Embedder, Ingress, _call_embedder, open_crop_queue
from serving.cluster.environment import Site
from serving.errors import Interrupted, NotReady
from serving.ingress.embedding import FAILURES
from serving.ingress.extraction_queue import ExtractionQueue
from serving.settings.sections import ServeSettings
from serving.telemetry.metrics import Meter

pytestmark = pytest.mark.anyio

DEAD = DeviceFailed("the GPU failed under model sface: CUDA failure 700: its address")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ConnectionResetError("10.0.0.7"), Interrupted),
        (RayTaskError("embed", "Traceback of 10.0.0.7", DEAD).as_instanceof_cause(), DeviceFailed),
    ],
)
async def test_a_lost_embedder_is_interrupted_an_error_of_its_device_is_told_and_none_of_rays(
    raised: Exception, told: type[Exception]
) -> None:
    async def remote(*_: Any) -> Any:
        raise raised

    handle = SimpleNamespace(embed=SimpleNamespace(remote=remote), options=lambda **_: handle)
    with pytest.raises(told) as caught:
        await asyncio.to_thread(_call_embedder(handle), np.zeros((1, 112, 112, 3), np.uint8))
    assert "10.0.0.7" not in str(caught.value)
    assert told is Interrupted or str(caught.value) == str(DEAD)


def test_crops_of_all_calls_that_wait_are_embedded_together_and_each_gets_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    entered, gate = threading.Event(), threading.Event()

    def embed(crops: Octets) -> Floats:
        sizes.append(len(crops))
        entered.set()
        assert gate.wait(120)
        return crops.reshape(len(crops), -1).mean(axis=1, keepdims=True).astype(np.float32)

    monkeypatch.setattr("serving.cluster.deployments.BATCH_CROPS", 4)
    queue = open_crop_queue(embed)

    def call(*levels: int) -> Any:
        crops = np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])
        return queue.submit(Call(crops, len(crops)))

    first = call(1)
    assert entered.wait(120)
    others = [call(2, 3), call(4), call(5, 6)]
    gate.set()
    found = [one.result(120).ravel().tolist() for one in (first, *others)]
    assert found == [[1], [2, 3], [4], [5, 6]]
    assert sizes == [1, 3, 2]
    queue.close(10)


def session_of(run: Callable[[Any], Any]) -> Any:
    """A session on a GPU."""
    state = {"provider": "cuda", "precision": "float32", "fault": ""}
    return SimpleNamespace(batch_sizes=(), fixed_batch=None, run=run, **state)


async def test_an_embedder_looks_after_its_device_by_embedding_and_ends_when_that_fails(
    empty_home,
) -> None:
    replica = Embedder(Site.of(empty_home, None))
    real = replica._model._embedder.session

    def fail(_: Any) -> Any:
        raise DEAD

    await replica.check_health()
    replica._model.ran_at -= 2 * IDLE_S
    replica._model._embedder.session = real
    await replica.check_health()
    replica._model._embedder.session = session_of(fail)
    replica._model.ran_at -= 2 * IDLE_S
    for _ in range(FAILURES):
        with pytest.raises(DeviceFailed, match="CUDA failure 700"):
            await replica.check_health()
        assert "CUDA failure 700" in (await replica.status()).failure
    with pytest.raises(RuntimeError, match="again and again"):
        await replica.check_health()
    replica._queue.close(10)


async def test_an_embedder_whose_device_gives_no_numbers_ends_though_it_answers(empty_home) -> None:
    replica = Embedder(Site.of(empty_home, None))
    real = replica._model._embedder.session

    def spoil(inputs: Any) -> Any:
        return [one * np.float32(np.nan) for one in real.run(inputs)]

    replica._model._embedder.session = session_of(spoil)
    replica._model.ran_at -= 2 * IDLE_S
    for _ in range(FAILURES):
        with pytest.raises(RuntimeError, match="is to be replaced"):
            await replica.check_health()
    assert "no finite numbers" in (await replica.status()).failure
    replica._queue.close(10)


async def ask_after_photograph(raised: BaseException) -> None:
    """The health of an ingress whose extractor has answered a photograph with this."""

    class Extractor:
        threads = 1

        def extract(self, *_: Any) -> Any:
            raise raised

    log, vault = structlog.get_logger(), Vault(KeyRing.generate(), 32)
    faces = ExtractionQueue(Extractor(), vault, capacity=4, meter=Meter(), log=log)
    with closing(faces):
        with pytest.raises((Interrupted, NotReady)):
            await faces.sample([b"any"])
        assert not faces.is_alive
        await Ingress.check_health(SimpleNamespace(_faces=faces))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_ingress_whose_worker_has_ended_is_to_be_replaced() -> None:
    with pytest.raises(RuntimeError, match="replaced"):
        await ask_after_photograph(SystemExit())


def test_no_collection_looks_at_what_an_ingress_was_made_of(monkeypatch) -> None:
    parts = SimpleNamespace(settings=ServeSettings())
    monkeypatch.setattr("serving.api.app.build_app", lambda parts: [parts])
    try:
        assert Ingress.__serve_build_asgi_app__(SimpleNamespace(_parts=parts)) == [parts]
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(("most", "sent"), [(0, "ours"), (4, "serve")])
async def test_requests_pass_serves_wrapper_unless_it_counts_them_to_add_replicas(
    monkeypatch, most: int, sent: str
) -> None:
    asked = []

    def app(name: str) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            asked.append((name, scope["path"]))

        return answer

    monkeypatch.setattr(ingress_hook, "_applications", [])
    monkeypatch.setattr("serving.api.app.build_app", lambda _: app("ours"))
    monkeypatch.setattr(deployments, "keep_objects", lambda: None)
    (made,) = ingress_hook.list_middlewares()
    hooked = made.cls(app("serve"))
    parts = SimpleNamespace(settings=ServeSettings(ingress_replicas=1, max_ingress_replicas=most))

    await hooked({"type": "http", "path": "/v1/match"}, None, None)
    Ingress.__serve_build_asgi_app__(SimpleNamespace(_parts=parts))
    for path in ("/v1/match", "/-/healthz"):
        await hooked({"type": "http", "path": path}, None, None)
    assert asked == [("serve", "/v1/match"), (sent, "/v1/match"), ("serve", "/-/healthz")]


async def test_an_ingress_whose_embedder_is_away_stays() -> None:
    await ask_after_photograph(Interrupted("no answer"))
