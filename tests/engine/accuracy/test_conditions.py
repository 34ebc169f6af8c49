"""FNMR by quality, each comparison in the band of its worse photograph."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.accuracy.conditions import QualityBands, band_quality
from engine.accuracy.dataset import QUALITIES
from engine.accuracy.pair_scores import compare_mated, single_templates

Faces = Callable[..., tuple[np.ndarray, np.ndarray]]
SHARPNESS = QUALITIES.index("sharpness")


def band(vectors: np.ndarray, people: np.ndarray, sharpness: np.ndarray) -> QualityBands:
    """All measures at random but for sharpness."""
    qualities = np.random.default_rng(0).random((len(people), len(QUALITIES)), np.float32)
    qualities[:, SHARPNESS] = sharpness
    found = band_quality(single_templates(vectors, people), qualities, 0.4)
    assert found is not None
    return found


def test_blurred_photographs_are_missed_more_and_other_measures_know_nothing_of_it(
    draw_faces: Faces,
) -> None:
    vectors, people = draw_faces(400, 3, noise=0.4)
    sharpness = np.random.default_rng(1).random(len(people), np.float32)
    noise, _ = draw_faces(400, 3, noise=1.0, seed=9)
    vectors += 1.5 * (1 - sharpness[:, None]) ** 2 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = band(vectors, people, sharpness)
    by_name = {one.measure: [b.fnmr for b in one.bands] for one in found.measures}
    best, *_, worst = by_name["sharpness"]
    assert worst.low > best.high
    best, *_, worst = by_name["yaw_deg"]
    assert worst.low < best.high


def test_each_comparison_is_in_one_band_of_each_measure(draw_faces: Faces) -> None:
    vectors, people = draw_faces(100, 4)
    sharpness = np.random.default_rng(1).random(len(people), np.float32)
    found = band(vectors, people, sharpness)
    mated = compare_mated(single_templates(vectors, people))
    for one in found.measures:
        assert sum(part.mated_pairs for part in one.bands) == len(mated) == 600
    worst = found.measures[1].bands[-1]
    edge = np.sort(sharpness)[len(people) // 10]
    worse = np.minimum(sharpness[mated.left], sharpness[mated.right])
    assert worst.mated_pairs == (worse < edge).sum()
    assert worst.worst == pytest.approx(sharpness.min())


def test_a_band_of_few_people_is_refused(draw_faces: Faces) -> None:
    vectors, people = draw_faces(20, 2)
    found = band(vectors, people, np.linspace(0, 1, 40, dtype=np.float32))
    assert all(part.fnmr is None for one in found.measures for part in one.bands)
    assert found.measures[0].bands[0].refused is not None


def test_without_a_mated_comparison_there_are_no_bands(draw_faces: Faces) -> None:
    vectors, people = draw_faces(20, 1)
    qualities = np.zeros((20, len(QUALITIES)), np.float32)
    singles = single_templates(vectors, people)
    assert band_quality(singles, qualities, 0.4) is None
