"""Fault: a model gives NaN. The service says so of itself, and not that the photograph is bad."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.faces.embedder import Embedder
from engine.faces.extractor import Extractor, open_detector, open_embedder
from tests.serving.api.conftest import serving


class BrokenEmbedder:
    """A real one, but for crops as bright as `broken`."""

    def __init__(self, real: Embedder) -> None:
        self._real = real
        self.broken: float | None = None
        self.value = np.nan
        self.card, self.flip, self.dim, self.side_px = real.card, real.flip, real.dim, real.side_px
        self.prefers_large_batches = real.prefers_large_batches

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors = self._real.embed(crops)
        if self.broken is not None:
            bright = crops.mean(axis=(1, 2, 3))
            vectors[np.abs(bright - self.broken) < 1e-6] *= self.value
        return vectors


@pytest.fixture(scope="module")
def embedder() -> BrokenEmbedder:
    return BrokenEmbedder(open_embedder())


@pytest.fixture(scope="module")
def service(keyed_home, embedder, tmp_path_factory) -> Iterator[Any]:
    home = Path(shutil.copytree(keyed_home[0], tmp_path_factory.mktemp("broken") / "served"))
    with (
        Extractor(open_detector(), embedder) as extractor,
        serving(home, keyed_home[1], extractor) as start,
    ):
        yield start()


@pytest.fixture(params=[np.nan, np.inf, 1000.0], ids=["nan", "infinite", "long"])
def broken(request, embedder, faces) -> Iterator[bytes]:
    """A photograph of which the embedder makes no unit vector."""
    with Extractor(open_detector(), embedder) as extractor:
        (one,) = extractor.extract([faces["stranger"]])
    embedder.broken, embedder.value = one.crop.mean(), request.param  # type: ignore[union-attr]
    yield faces["stranger"]
    embedder.broken = None


def test_it_is_an_internal_error_and_no_decision(service, activation, broken) -> None:
    answer = service.enroll(activation(), "nan")
    service.assert_refused(answer, 500, "MODEL.NOT_FINITE")
    body = {"probe": {"image": broken}, "reference": {"image": broken}}
    service.assert_refused(
        service.ask("POST", "/v1/verifications", body=body), 500, "MODEL.NOT_FINITE"
    )
    assert "a model gave no finite numbers" in service.log_text


def test_its_neighbours_in_a_batch_are_answered(service, faces, broken) -> None:
    good = {"image": faces["live"]}
    items = [{"probe": good, "reference": good}, {"probe": {"image": broken}, "reference": good}]
    answer = service.read(service.ask("POST", "/v1/match", body={"items": items}))
    first, second = answer["items"]
    assert first["verification"]["is_match"]
    assert second["error"]["code"] == "MODEL.NOT_FINITE"


def test_a_detector_that_gives_nan_has_not_found_that_there_is_no_face(
    embedder, faces, monkeypatch
) -> None:
    detector = open_detector()
    run = detector._session.run

    def fail(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [output * np.float32(np.nan) for output in run(inputs)]

    monkeypatch.setattr(detector._session, "run", fail)
    with Extractor(detector, embedder) as extractor:
        (found,) = extractor.extract([faces["live"]])
    assert getattr(found, "code", None) == "MODEL.NOT_FINITE"
