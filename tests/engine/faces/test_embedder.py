"""Crops to unit vectors, as the card's input contract says."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ModelCardInvalid
from engine.faces.embedder import Embedder
from engine.faces.images import Pixels
from engine.models.catalog import InputContract, builtin_card
from engine.models.session import Session

Crops = NDArray[np.uint8]


class RecordingSession:
    """Answers with fixed arithmetic instead of a network, to see what reaches the model."""

    provider = "cpu"
    output_names = ("vector",)
    prefers_large_batches = False

    def __init__(self, fixed_batch: int | None = None) -> None:
        self.fixed_batch = fixed_batch
        self.inputs: list[NDArray[np.float32]] = []

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        self.inputs.append(inputs)
        return [inputs.reshape(len(inputs), -1)[:, :128]]


@pytest.fixture(scope="module")
def crops(astronaut: Pixels) -> Crops:
    """Ten different pieces of a photograph, the first of them around the face."""
    corners = [(60, 165), *((20 * i, 30 * i) for i in range(9))]
    return np.stack([astronaut[y : y + 112, x : x + 112] for y, x in corners])


def contract(**changes: Any) -> Any:
    card = builtin_card("sface")
    return dataclasses.replace(card, input=dataclasses.replace(card.input, **changes))


@pytest.mark.parametrize("flip", [False, True])
def test_vectors_are_unit_rows_and_do_not_depend_on_their_neighbours(
    embedder_session: Session, crops: Crops, flip: bool
) -> None:
    embedder = Embedder(embedder_session, builtin_card("sface"), flip)
    together = embedder.embed(crops)
    assert together.shape == (10, 128)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([embedder.embed(crops[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_sface_agrees_with_opencvs_runtime(
    embedder_session: Session, crops: Crops, tmp_path: Any
) -> None:
    """The same weights, rewritten, in another inference engine."""
    from engine.models.catalog import Step, locate
    from engine.models.graph import rewrite

    card = builtin_card("sface")
    path = tmp_path / "sface.onnx"
    path.write_bytes(rewrite(locate(card).read_bytes(), (Step.FOLD_WEIGHTS,)))
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(cv2.dnn.blobFromImage(crops[0]))
    wanted = np.asarray(net.forward())[0]
    found = Embedder(embedder_session, card).embed(crops[:1])[0]
    assert found @ wanted / np.linalg.norm(wanted) > 0.9999


def test_flip_makes_a_face_and_its_mirror_image_the_same(
    embedder_session: Session, crops: Crops
) -> None:
    embedder = Embedder(embedder_session, builtin_card("sface"), flip=True)
    np.testing.assert_allclose(embedder.embed(crops), embedder.embed(crops[:, :, ::-1]), atol=1e-5)


def test_no_crops_give_no_vectors(embedder_session: Session, crops: Crops) -> None:
    found = Embedder(embedder_session, builtin_card("sface")).embed(crops[:0])
    assert found.shape == (0, 128)


def test_contract_of_sface_is_rgb_planes_of_0_to_255(crops: Crops) -> None:
    session = RecordingSession()
    Embedder(session, builtin_card("sface")).embed(crops[:2])
    (given,) = session.inputs
    assert given.dtype == np.float32
    assert given.flags.c_contiguous
    assert np.array_equal(given, crops[:2].transpose(0, 3, 1, 2))


def test_contract_of_another_model_is_kept(crops: Crops) -> None:
    session = RecordingSession()
    card = contract(channels="bgr", layout="nhwc", mean=(10.0, 20.0, 30.0), scale=(0.1, 0.2, 0.5))
    Embedder(session, card).embed(crops[:2])
    bgr = crops[:2, :, :, ::-1].astype(np.float32)
    wanted = (bgr - np.float32([10, 20, 30])) * np.float32([0.1, 0.2, 0.5])
    np.testing.assert_allclose(session.inputs[0], wanted, rtol=1e-6)


def test_model_with_a_batch_of_one_is_run_face_by_face(crops: Crops) -> None:
    session = RecordingSession(fixed_batch=1)
    vectors = Embedder(session, builtin_card("sface")).embed(crops)
    assert [given.shape[0] for given in session.inputs] == [1] * 10
    assert vectors.shape == (10, 128)


def test_model_with_another_fixed_batch_is_refused() -> None:
    with pytest.raises(ModelCardInvalid, match="batches of 8 only; export it with a free batch"):
        Embedder(RecordingSession(fixed_batch=8), builtin_card("sface"))


def test_model_of_another_dimension_than_its_card_says_is_refused(crops: Crops) -> None:
    card = dataclasses.replace(builtin_card("sface"), dimension=512)
    with pytest.raises(ModelCardInvalid, match="gives 128 numbers, its card says dimension 512"):
        Embedder(RecordingSession(), card).embed(crops[:1])


def test_detector_is_no_embedder() -> None:
    with pytest.raises(ModelCardInvalid, match="yunet is a detector; choose an embedder"):
        Embedder(RecordingSession(), builtin_card("yunet"))


def test_zero_output_stays_finite() -> None:
    black = np.zeros((1, 112, 112, 3), dtype=np.uint8)
    card = contract()
    assert isinstance(card.input, InputContract)
    assert np.isfinite(Embedder(RecordingSession(), card).embed(black)).all()
