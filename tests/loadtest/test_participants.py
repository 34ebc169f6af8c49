"""Scores of fused photographs follow from the cosines of single ones."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadtest.participants import ALONE, fuse_both


def _draw(seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((4, 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_mean_of_two_photographs_scores_what_is_predicted(seed: int) -> None:
    a, b, c, d = _draw(seed)
    one, two = a + b, c + d
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    cross = a @ c + a @ d + b @ c + b @ d
    assert np.isclose(fuse_both(cross, a @ b, c @ d), one @ two)
    assert np.isclose(fuse_both(c @ a + c @ b, ALONE, a @ b), c @ one)


def test_exchanged_photographs_have_the_same_mean() -> None:
    a, b, _, _ = _draw(0)
    assert np.isclose(fuse_both(2 + 2 * (a @ b), a @ b, b @ a), 1)
