"""Alignment to the template, and crops to unit vectors by the card's input contract."""

import asyncio
import time
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform

from engine.batching import Batch, Batcher, Lane, Refusals, share_out, weigh
from engine.errors import ModelCardInvalid
from engine.faces.embedder import (
    Embedder,
    align,
    arcface_template,
    estimate_similarity,
    measure_lengths,
    normalise,
    plan_batches,
    prepare,
)
from engine.models.catalog import InputContract, builtin_card, without_transform
from engine.models.onnx_sessions import Session, SessionOptions, open_session

Crops = NDArray[np.uint8]


class RecordingSession:
    """Answers with fixed arithmetic instead of a network, to see what reaches the model."""

    provider = "cpu"
    output_names = ("vector",)
    prefers_large_batches = False
    batch_sizes = ()

    def __init__(self, fixed_batch: int | None = None) -> None:
        self.fixed_batch = fixed_batch
        self.inputs: list[NDArray[np.float32]] = []

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        self.inputs.append(inputs)
        return [inputs.reshape(len(inputs), -1)[:, :128]]


@pytest.fixture(scope="module")
def crops(astronaut) -> Crops:
    """Ten different pieces of a photograph, the first of them around the face."""
    corners = [(60, 165), *((20 * i, 30 * i) for i in range(9))]
    return np.stack([astronaut[y : y + 112, x : x + 112] for y, x in corners])


def contract(**changes: Any) -> Any:
    card = builtin_card("sface")
    return structs.replace(card, input=structs.replace(card.input, **changes))


@pytest.mark.parametrize("flip", [False, True])
def test_vectors_do_not_depend_on_their_neighbours_and_tell_a_face_by_their_length(
    embedder_session, crops, flip: bool
) -> None:
    embedder = Embedder(embedder_session, builtin_card("sface"), flip)
    together = embedder.embed(crops)
    assert together.shape == (10, 128)
    assert together.dtype == np.float32
    alone = np.concatenate([embedder.embed(crops[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert (measure_lengths(together) > 1).all()
    np.testing.assert_allclose(measure_lengths(normalise(together)), 1, atol=1e-6)


def test_sface_agrees_with_opencvs_runtime(embedder_session, crops, tmp_path) -> None:
    """The same weights, rewritten, in another inference engine."""
    from engine.models.catalog import Step, locate
    from engine.models.rewriting import rewrite

    card = without_transform(builtin_card("sface"))
    path = tmp_path / "sface.onnx"
    path.write_bytes(rewrite(locate(card).read_bytes(), (Step.FOLD_WEIGHTS,)))
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(cv2.dnn.blobFromImage(crops[0]))
    wanted = np.asarray(net.forward())[0]
    found = Embedder(embedder_session, card).embed(crops[:1])[0]
    lengths = np.linalg.norm(wanted) * np.linalg.norm(found)
    assert found @ wanted / lengths > 0.9999


def test_flip_makes_a_face_and_its_mirror_image_the_same(embedder_session, crops) -> None:
    embedder = Embedder(embedder_session, builtin_card("sface"), flip=True)
    np.testing.assert_allclose(embedder.embed(crops), embedder.embed(crops[:, :, ::-1]), atol=1e-4)


def test_no_crops_give_no_vectors(embedder_session, crops) -> None:
    found = Embedder(embedder_session, builtin_card("sface")).embed(crops[:0])
    assert found.shape == (0, 128)


def test_contract_of_sface_is_rgb_planes_of_0_to_255(crops) -> None:
    session = RecordingSession()
    Embedder(session, builtin_card("sface")).embed(crops[:2])
    (given,) = session.inputs
    assert given.dtype == np.float32
    assert given.flags.c_contiguous
    assert np.array_equal(given, crops[:2].transpose(0, 3, 1, 2))


def test_contract_of_another_model_is_kept(crops) -> None:
    session = RecordingSession()
    card = contract(channels="bgr", layout="nhwc", mean=(10.0, 20.0, 30.0), scale=(0.1, 0.2, 0.5))
    Embedder(session, card).embed(crops[:2])
    bgr = crops[:2, :, :, ::-1].astype(np.float32)
    wanted = (bgr - np.float32([10, 20, 30])) * np.float32([0.1, 0.2, 0.5])
    np.testing.assert_allclose(session.inputs[0], wanted, rtol=1e-6)


SIZES = (16, 64, 256)


@pytest.fixture(scope="module")
def fixed_session() -> Session:
    """What an accelerator runs, on the CPU: pixels in, a session for each size of a batch."""
    options = SessionOptions(provider="cpu", batch_sizes=(2, 8))
    return open_session(builtin_card("sface"), options)


def test_pixels_that_the_graph_prepares_give_the_same_vectors_bit_for_bit(
    embedder_session, fixed_session, crops
) -> None:
    card = builtin_card("sface")
    (wanted,) = embedder_session.run(prepare(card.input, crops[:8]))
    (found,) = fixed_session.run(crops[:8])
    assert np.array_equal(found, wanted)


def test_padded_batches_give_the_vectors_of_whole_ones(
    embedder_session, fixed_session, crops
) -> None:
    card = builtin_card("sface")
    wanted = normalise(Embedder(embedder_session, card).embed(crops))
    padded = Embedder(fixed_session, card)
    for count in (1, 2, 3, 7, 10):
        found = normalise(padded.embed(crops[:count]))
        np.testing.assert_allclose(found, wanted[:count], atol=1e-6)


def test_batches_have_the_known_sizes_alone_and_hold_all_crops_with_few_to_spare() -> None:
    assert plan_batches(256, SIZES) == [256]
    assert plan_batches(36, SIZES) == [64]
    assert plan_batches(20, SIZES) == [16, 16]
    for count in range(1, 1200):
        batches = plan_batches(count, SIZES)
        assert set(batches) <= set(SIZES)
        assert count <= sum(batches) < count + 64
        assert batches == sorted(batches, reverse=True)


class FixedSession(RecordingSession):
    """One that takes fixed batches of pixels, and the time of a device."""

    batch_sizes = SIZES

    def run(self, inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        self.inputs.append(np.broadcast_to(np.float32(0), inputs.shape))
        time.sleep(2e-4 + 1e-5 * len(inputs))
        return [inputs.reshape(len(inputs), -1)[:, :128].astype(np.float32)]


def test_sixty_four_callers_of_pairs_make_three_shapes_and_hardly_any_padding() -> None:
    session = FixedSession()
    embedder = Embedder(session, without_transform(builtin_card("sface")))
    ended = RuntimeError("ended")
    batches: list[int] = []

    def embed(batch: Batch[Crops, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        batches.append(weigh(batch))
        return share_out(batch, embedder.embed(np.concatenate([one.payload for one in batch])))

    async def call(queue: Batcher[Crops, Any], value: int) -> None:
        pair = np.full((2, 112, 112, 3), value, np.uint8)
        for _ in range(20):
            vectors = await queue.ask(pair, 2)
            assert vectors.shape == (2, 128)
            assert (vectors == value).all()

    async def load() -> None:
        lane = Lane(max(SIZES), sizes=SIZES)
        queue = Batcher(embed, [lane], Refusals(*[ended] * 4), name="embedder")
        await asyncio.gather(*(call(queue, value) for value in range(64)))
        await asyncio.to_thread(queue.close)

    asyncio.run(load())
    sizes = [len(given) for given in session.inputs[len(SIZES) :]]  # after those that warm it
    assert sum(batches) == 64 * 20 * 2
    assert set(sizes) <= set(SIZES)
    assert sum(sizes) <= 1.15 * sum(batches)


def test_model_with_a_batch_of_one_is_run_face_by_face(crops) -> None:
    session = RecordingSession(fixed_batch=1)
    vectors = Embedder(session, builtin_card("sface")).embed(crops)
    assert [given.shape[0] for given in session.inputs] == [1] * 10
    assert vectors.shape == (10, 128)


def test_model_with_another_fixed_batch_is_refused() -> None:
    with pytest.raises(ModelCardInvalid, match="batches of 8 only; export it with a free batch"):
        Embedder(RecordingSession(fixed_batch=8), builtin_card("sface"))


def test_model_of_another_dimension_than_its_card_says_is_refused(crops) -> None:
    card = structs.replace(without_transform(builtin_card("sface")), dimension=512)
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


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 40), st.floats(-3.1, 3.1))
def test_similarity_is_umeyamas(seed: int, scale: float, angle: float) -> None:
    """Against scikit-image's implementation by singular values, on noisy points."""
    rng = np.random.default_rng(seed)
    target = arcface_template(112)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    noise = rng.normal(0, 5, (5, 2))
    source = ((target + noise) @ rotation.T * scale + rng.uniform(-500, 500, 2)).astype(np.float32)
    wanted = SimilarityTransform.from_estimate(source, target)
    found = estimate_similarity(source, target)
    # Where the points land, not the matrices: its parts are large, and cancel, where a small face
    # lies far from the origin.
    points = np.column_stack([source.astype(np.float64), np.ones(5)])
    np.testing.assert_allclose(points @ found.T, points @ wanted.params[:2].T, atol=2e-3)


def test_landmarks_on_the_template_leave_the_picture_as_it_is(astronaut) -> None:
    crop = np.ascontiguousarray(astronaut[:112, :112])
    assert np.array_equal(align(crop, arcface_template(112), 112), crop)


def test_the_template_scales_with_the_crop() -> None:
    np.testing.assert_allclose(arcface_template(224), 2 * arcface_template(112))
    assert arcface_template(112).shape == (5, 2)


def test_what_lies_outside_of_the_picture_is_black(astronaut) -> None:
    shifted = arcface_template(112) - np.float32([56, 0])
    crop = align(astronaut, shifted, 112)
    assert (crop[:, :55] == 0).all()
    assert np.array_equal(crop[:, 56:], astronaut[:112, :56])


@pytest.mark.parametrize("enlarged", [2, 3, 5])
def test_large_noisy_face_is_averaged_not_sampled(astronaut, enlarged: int) -> None:
    landmarks = arcface_template(112) + np.float32([150, 40])
    wanted = align(astronaut, landmarks, 112).astype(int)
    big = np.kron(astronaut, np.ones((enlarged, enlarged, 1), dtype=np.uint8)).astype(float)
    noise = np.random.default_rng(0).normal(0, 20, big.shape)
    noisy = np.clip(big + noise, 0, 255).round().astype(np.uint8)
    in_big = (landmarks + 0.5) * enlarged - 0.5
    found = align(noisy, in_big.astype(np.float32), 112)
    assert np.abs(found - wanted).std() < 1.2 * 20 / enlarged


@pytest.mark.parametrize("shift", [-2000, -300, -60, 60, 300, 2000])
def test_large_face_over_the_edge_is_black_where_the_picture_ends(astronaut, shift: int) -> None:
    landmarks = arcface_template(112) * 4 + np.float32([shift, 40])
    crop = align(astronaut, landmarks, 112)
    for column in range(2, 110):
        x = shift + 4 * column
        if x < -8 or x > 520:
            assert not crop[:, column].any()
        elif 8 < x < 500:
            assert crop[:, column].any()


def test_landmarks_on_one_point_give_a_crop_instead_of_an_error(astronaut) -> None:
    assert align(astronaut, np.full((5, 2), 100, dtype=np.float32), 112).shape == (112, 112, 3)
