"""Five landmarks onto the template."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from engine.faces.alignment import align, arcface_template, estimate_similarity
from engine.faces.images import Pixels


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 40), st.floats(-3.1, 3.1))
def test_similarity_is_umeyamas(seed: int, scale: float, angle: float) -> None:
    """Against scikit-image's implementation by singular values, on noisy points."""
    rng = np.random.default_rng(seed)
    target = arcface_template(112)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    noise = rng.normal(0, 5, (5, 2))
    source = ((target + noise) @ turn.T * scale + rng.uniform(-500, 500, 2)).astype(np.float32)
    wanted = SimilarityTransform.from_estimate(source, target)
    found = estimate_similarity(source, target)
    # Where the points land, not the matrices: its parts are large, and cancel, where a small face
    # lies far from the origin.
    points = np.column_stack([source.astype(np.float64), np.ones(5)])
    np.testing.assert_allclose(points @ found.T, points @ wanted.params[:2].T, atol=2e-3)


def test_landmarks_on_the_template_leave_the_picture_as_it_is(astronaut: Pixels) -> None:
    crop = np.ascontiguousarray(astronaut[:112, :112])
    assert np.array_equal(align(crop, arcface_template(112), 112), crop)


def test_template_grows_with_the_crop() -> None:
    np.testing.assert_allclose(arcface_template(224), 2 * arcface_template(112))
    assert arcface_template(112).shape == (5, 2)


def test_what_lies_outside_of_the_picture_is_black(astronaut: Pixels) -> None:
    shifted = arcface_template(112) - np.float32([56, 0])
    crop = align(astronaut, shifted, 112)
    assert (crop[:, :55] == 0).all()
    assert np.array_equal(crop[:, 56:], astronaut[:112, :56])


@pytest.mark.parametrize("enlarged", [2, 3, 5])
def test_large_noisy_face_is_averaged_not_sampled(astronaut: Pixels, enlarged: int) -> None:
    landmarks = arcface_template(112) + np.float32([150, 40])
    wanted = align(astronaut, landmarks, 112).astype(int)
    big = np.kron(astronaut, np.ones((enlarged, enlarged, 1), dtype=np.uint8)).astype(float)
    noise = np.random.default_rng(0).normal(0, 20, big.shape)
    noisy = np.clip(big + noise, 0, 255).round().astype(np.uint8)
    in_big = (landmarks + 0.5) * enlarged - 0.5
    found = align(noisy, in_big.astype(np.float32), 112)
    assert np.abs(found - wanted).std() < 1.2 * 20 / enlarged


@pytest.mark.parametrize("shift", [-2000, -300, -60, 60, 300, 2000])
def test_large_face_over_the_edge_is_black_where_the_picture_ends(
    astronaut: Pixels, shift: int
) -> None:
    landmarks = arcface_template(112) * 4 + np.float32([shift, 40])
    crop = align(astronaut, landmarks, 112)
    for column in range(2, 110):
        x = shift + 4 * column
        if x < -8 or x > 520:
            assert not crop[:, column].any()
        elif 8 < x < 500:
            assert crop[:, column].any()


def test_landmarks_on_one_point_give_a_crop_instead_of_an_error(astronaut: Pixels) -> None:
    assert align(astronaut, np.full((5, 2), 100, dtype=np.float32), 112).shape == (112, 112, 3)
