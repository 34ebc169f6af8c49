"""An extractor whose embedder runs elsewhere."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from engine.errors import ModelDamaged
from engine.faces.embedder import Embedder
from engine.faces.extractor import Extractor
from engine.models.catalog import ModelCard, builtin_card, read_model
from indexes.base import Floats, Octets
from serving.deployment.models import (
    build_extractor,
    extractor_config,
    model_digest,
    open_detector,
    open_embedder,
)
from serving.errors import Interrupted
from serving.ingress import embedding
from serving.ingress.embedding import (
    CALLS_AT_ONCE,
    MAX_PART_BYTES,
    MAX_PART_CROPS,
    CropCall,
    RemoteEmbedder,
    call_on_loop,
)
from serving.settings.settings import Settings, make_settings
from tests.waiting import wait_until

CARD = builtin_card("sface")


class Recorded:
    """A call to a real embedder that remembers what travelled."""

    def __init__(self, embedder: Embedder) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self._embedder = embedder

    def __call__(self, crops: Octets) -> Floats:
        self.shapes.append(crops.shape)
        return self._embedder.embed(crops)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return make_settings({})


@pytest.fixture
def remote(settings) -> Recorded:
    return Recorded(open_embedder(settings))


@pytest.fixture
def place() -> Iterator[Callable[..., RemoteEmbedder]]:
    """`place(call, timeout_s=120)`: an embedder elsewhere; closed at the end."""
    with ExitStack() as opened:

        def make(call: CropCall, timeout_s: float = 120) -> RemoteEmbedder:
            made = RemoteEmbedder(CARD, False, call, timeout_s)
            opened.callback(made.close)
            return made

        yield make


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def crops_of(count: int, side: int = 112) -> Octets:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_faces_embedded_elsewhere_are_those_embedded_here_and_only_crops_travel(
    settings, remote, place, photographs
) -> None:
    files = [getattr(photographs, name).read_bytes() for name in ("live", "faceless", "stranger")]
    with (
        build_extractor(settings, threads=1) as local,
        Extractor(open_detector(settings), place(remote), extractor_config(settings, 1)) as split,
    ):
        here, there = local.extract(files), split.extract(files)
        assert split.model_digest == local.model_digest == model_digest(settings)
        assert split.dim == local.dim
    assert remote.shapes == [(2, 112, 112, 3)]
    for one, other in zip(here, there, strict=True):
        assert one.problems == other.problems
        if one.vector is not None and other.vector is not None:
            assert one.vector @ other.vector == pytest.approx(1, abs=1e-5)
    assert there[1].vector is None  # type: ignore[union-attr]


def test_an_ingress_reads_no_weights_of_the_embedder(settings, remote, place, monkeypatch) -> None:
    read: list[str] = []

    def read_and_note(card: ModelCard) -> bytes:
        read.append(card.name)
        return read_model(card)

    monkeypatch.setattr("engine.models.onnx_sessions.read_model", read_and_note)
    Extractor(open_detector(settings), place(remote)).close()
    assert read == ["yunet"]


def test_many_crops_travel_in_parts(remote, place) -> None:
    embedder = place(remote)
    crops = crops_of(MAX_PART_CROPS + 3)
    vectors = embedder.embed(crops)
    assert sorted(shape[0] for shape in remote.shapes) == [3, MAX_PART_CROPS]
    assert vectors.shape == (MAX_PART_CROPS + 3, embedder.dim)
    assert np.allclose(vectors[-3:], remote(crops[-3:]), atol=1e-5)


def test_no_crops_are_no_call(remote, place) -> None:
    assert place(remote).embed(crops_of(0)).shape == (0, 128)
    assert remote.shapes == []


def test_a_part_of_large_crops_stays_below_what_one_call_may_carry(place, monkeypatch) -> None:
    sizes: list[int] = []

    def call(crops: Octets) -> Floats:
        sizes.append(crops.nbytes)
        return np.zeros((len(crops), 128), np.float32)

    monkeypatch.setattr(embedding, "MAX_PART_BYTES", 5 * 112 * 112 * 3)
    place(call).embed(crops_of(12))
    assert sorted(size // (112 * 112 * 3) for size in sizes) == [2, 5, 5]
    assert MAX_PART_CROPS * 112 * 112 * 3 < MAX_PART_BYTES < 4 << 20


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros((1, 128), np.float32),
        np.zeros((2, 512), np.float32),
        np.zeros((2, 128), np.float64),
    ],
)
def test_an_answer_that_is_none_of_this_model_is_refused(place, answer: Any) -> None:
    with pytest.raises(Interrupted):
        place(lambda _: answer).embed(crops_of(2))


def test_a_call_may_be_made_on_the_loop_that_it_belongs_to(loop, remote, place) -> None:
    seen: list[asyncio.AbstractEventLoop] = []

    async def send(crops: Octets) -> Floats:
        seen.append(asyncio.get_running_loop())
        return remote(crops)

    embedder = place(call_on_loop(send, loop, timeout_s=30))
    assert embedder.embed(crops_of(2)).shape == (2, 128)
    assert seen == [loop]


def test_crops_that_are_asked_for_meanwhile_travel_in_one_call_and_each_asker_gets_its_own(
    place,
) -> None:
    sizes: list[int] = []
    begun, goes_on = threading.Semaphore(0), threading.Semaphore(0)

    def call(crops: Octets) -> Floats:
        sizes.append(len(crops))
        begun.release()
        assert goes_on.acquire(timeout=120)
        if (crops == 66).any():
            raise Interrupted("lost")
        return np.repeat(crops[:, 0, 0, :1].astype(np.float32), 128, axis=1)

    embedder = place(call)

    def ask(level: int, count: int) -> list[float]:
        vectors = embedder.embed(np.full((count, 112, 112, 3), level, np.uint8))
        return [*sorted(set(vectors.ravel().tolist())), len(vectors)]

    with ThreadPoolExecutor(8) as pool:
        first = []
        for level in range(CALLS_AT_ONCE):
            first.append(pool.submit(ask, level, 2))
            assert begun.acquire(timeout=120)
        # More than fits one call.
        others, waiting = [], 0
        for level, count in ((10, 2), (11, 3), (12, MAX_PART_CROPS - 5), (66, 2), (67, 1)):
            others.append(pool.submit(ask, level, count))
            waiting += count
            wait_until(lambda: embedder._queue.queued() == waiting)  # noqa: B023 - at once
        for _ in range(4):
            goes_on.release()
        assert [one.result(120) for one in first] == [[0, 2], [1, 2]]
        assert [one.result(120) for one in others[:3]] == [[10, 2], [11, 3], [12, 59]]
        for lost in others[3:]:
            with pytest.raises(Interrupted):
                lost.result(120)
    assert sorted(sizes) == [2, 2, 3, MAX_PART_CROPS]


def test_a_call_without_an_answer_in_time_is_interrupted(loop, place) -> None:
    cancelled = threading.Event()

    async def send(_: Octets) -> Floats:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        raise AssertionError

    with pytest.raises(Interrupted, match="in time"):
        place(call_on_loop(send, loop, timeout_s=0.2), timeout_s=0.05).embed(crops_of(1))
    assert cancelled.wait(120)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(OSError("lost"), Interrupted), (ModelDamaged("a file is damaged"), ModelDamaged)],
)
def test_a_lost_embedder_may_be_asked_again_and_an_error_of_ours_stays_what_it_is(
    loop, failure: Exception, expected: type[Exception]
) -> None:
    async def send(_: Octets) -> Floats:
        raise failure

    with pytest.raises(expected) as refused:
        call_on_loop(send, loop, timeout_s=5)(crops_of(1))
    assert "lost" not in str(refused.value)
    assert refused.value is failure or refused.value.__cause__ is failure
