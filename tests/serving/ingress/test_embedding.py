"""A model that is watched while it embeds, and the CPU in the place of one that is away."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from engine.errors import DeviceFailed, RequestError
from engine.faces.embedder import Embedder
from indexes.base import Floats, Octets
from serving.deployment.models import (
    INGRESS_UNUSED,
    open_embedder,
    require_agreement,
    settle_ingress,
    without_accelerator,
)
from serving.errors import Busy, Interrupted
from serving.ingress.embedding import (
    FAILURES,
    FallbackEmbedder,
    RemoteEmbedder,
    WatchedEmbedder,
    tell_unused,
)
from serving.settings.settings import make_settings
from serving.telemetry.logs import close_log, open_log
from serving.telemetry.metrics import (
    ACCELERATOR_UNUSED,
    BATCH_SIZE,
    EMBEDDINGS_FAILED,
    STAGE_SECONDS,
)
from tests.serving.meters import RecordingMeter
from tests.serving.telemetry.test_logs import lines

DEAD = DeviceFailed("the GPU failed under model sface: CUDA failure 700: an illegal address")
CROPS = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def local() -> Embedder:
    return open_embedder(make_settings({}))


@pytest.fixture
def session(local) -> Iterator[Any]:
    """The model's session; what a test sets to be raised is raised by its next calls."""

    class Session:
        raised: Exception | None = None

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __setattr__(self, name: str, value: Any) -> None:
            object.__setattr__(self if name == "raised" else real, name, value)

        def run(self, inputs: Any) -> Any:
            if self.raised is not None:
                raise self.raised
            return real.run(inputs)

    real = local.session
    local.session = Session()  # type: ignore[assignment]
    yield local.session
    local.session = real


def test_a_device_that_fails_is_told_by_name_until_it_embeds_again(
    local, session, tmp_path
) -> None:
    meter, wanted = RecordingMeter(), local.embed(CROPS)
    log = open_log(tmp_path / "log", "info", "test")
    watched = WatchedEmbedder(local, meter, log)
    assert watched.status().failure == ""
    session.raised = DEAD
    for _ in range(FAILURES):
        assert not watched.must_end
        with pytest.raises(DeviceFailed):
            watched.embed(CROPS)
    assert watched.must_end
    assert watched.status().failure == str(DEAD)
    session.raised = None
    assert np.array_equal(watched.embed(CROPS), wanted)
    close_log(log)
    told = lines(tmp_path / "log")
    assert not watched.must_end
    assert watched.status().failure == ""
    assert len(meter.values(EMBEDDINGS_FAILED, "MODEL.DEVICE_FAILED")) == FAILURES
    assert meter.values(BATCH_SIZE, "embed") == [1, 3]
    assert len(meter.values(STAGE_SECONDS, "embed")) == 2
    assert [line["event"] for line in told] == ["embedder"] + ["embedding_failed"] * FAILURES
    assert told[0]["provider"] == "cpu"
    assert told[-1]["detail"] == str(DEAD)


def test_a_model_that_cannot_embed_one_crop_is_not_there(local, session, tmp_path) -> None:
    session.raised = DEAD
    log = open_log(tmp_path / "log", "error", "test")
    with pytest.raises(DeviceFailed):
        WatchedEmbedder(local, RecordingMeter(), log)
    close_log(log)


@pytest.mark.parametrize("raised", [Interrupted("the embedder was lost"), DEAD])
def test_the_cpu_embeds_while_the_embedder_is_away_and_its_vectors_are_the_same(
    local, raised: Exception
) -> None:
    asked: list[int] = []

    def call(crops: Octets) -> Floats:
        asked.append(len(crops))
        raise raised

    noted: list[Exception] = []
    with closing(RemoteEmbedder(local.card, False, call, 120)) as remote:
        fallback = FallbackEmbedder(remote, local, noted.append)
        for _ in range(2):
            assert np.array_equal(fallback.embed(CROPS), local.embed(CROPS))
    assert asked == [3]  # the second time it was known
    assert noted == [raised]


def test_an_embedder_that_is_busy_is_there(local) -> None:
    def call(_: Octets) -> Floats:
        raise Busy("too many photographs wait")

    with closing(RemoteEmbedder(local.card, False, call, 120)) as remote, pytest.raises(Busy):
        FallbackEmbedder(remote, local, lambda _: None).embed(CROPS)


def test_an_ingress_takes_no_gpu_and_says_that_it_leaves_one(monkeypatch, tmp_path) -> None:
    settings = make_settings({})
    monkeypatch.setattr("serving.deployment.models.available_providers", lambda: ("cpu",))
    assert settle_ingress(settings) == (settings, "")
    monkeypatch.setattr("serving.deployment.models.available_providers", lambda: ("cpu", "cuda"))
    assert settle_ingress(settings) == (without_accelerator(settings), INGRESS_UNUSED)
    meter = RecordingMeter()
    log = open_log(tmp_path / "log", "info", "test")
    tell_unused(INGRESS_UNUSED, meter, log)
    close_log(log)
    assert meter.values(ACCELERATOR_UNUSED) == [1]
    (line,) = lines(tmp_path / "log")
    assert (line["event"], line["detail"]) == ("accelerator_unused", INGRESS_UNUSED)


@pytest.mark.parametrize(
    ("serve", "advice"),
    [
        ({}, 'set embedder = "deployment"'),
        ({"embedder": "deployment"}, "set embedder_gpus"),
        ({"embedder": "deployment", "embedder_gpus": 0.5}, ""),
    ],
)
def test_cuda_is_refused_where_ray_would_not_know_whose_gpu_it_is(
    serve: dict[str, Any], advice: str
) -> None:
    settings = make_settings({"models": {"provider": "cuda"}, "serve": serve})
    if not advice:
        require_agreement(settings)
        return
    with pytest.raises(RequestError, match=advice):
        require_agreement(settings)
