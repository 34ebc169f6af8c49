"""FNMR by quality, each comparison in the band of its worse photograph; and by years between."""

from collections.abc import Callable

import numpy as np
import pytest

from engine.accuracy.conditions import Ageing, QualityBands, band_quality, measure_ageing
from engine.accuracy.dataset import QUALITIES
from engine.accuracy.pair_scores import ComparedPairs, compare_mated, single_templates

Faces = Callable[..., tuple[np.ndarray, np.ndarray]]
SHARPNESS = QUALITIES.index("sharpness")
FALL = 0.012


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


def age(people: int, *, fall: float) -> Ageing:
    """Four photographs each; a score falls by `fall` a year."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(people), 4)
    reach = rng.uniform(1, 18, people)
    years = rng.uniform(0, 1, (people, 4)) * reach[:, None]
    days = np.datetime64("2000-01-01", "D") + (years.ravel() * 365.25).astype(int)
    one, other = np.triu_indices(4, 1)
    left = (4 * np.arange(people)[:, None] + one).ravel()
    right = (4 * np.arange(people)[:, None] + other).ravel()
    gap = np.abs(years[:, one] - years[:, other])
    scores = 0.7 - fall * gap
    scores += rng.normal(0, 0.05, people)[:, None] + rng.normal(0, 0.03, gap.shape)
    mated = ComparedPairs(left, right, scores.ravel().astype(np.float32))
    return measure_ageing(mated, owners, days, 0.55)


def test_spans_hold_every_comparison_once_and_miss_more_with_the_years() -> None:
    found = age(200, fall=FALL)
    assert sum(span.mated_pairs for span in found.spans) == 200 * 6
    assert [span.from_years for span in found.spans] == [0, 1, 2, 5, 10]
    rates = [span.fnmr.value for span in found.spans if span.fnmr]
    assert rates[-1] > rates[0]
    assert found.spans[-1].median < found.spans[0].median


def test_few_people_in_a_span_are_refused() -> None:
    found = age(24, fall=FALL)
    assert found.spans[0].fnmr is None
    assert found.spans[0].refused is not None
    assert "30 are needed" in found.spans[0].refused


def test_photographs_without_a_date_count_nowhere() -> None:
    mated = ComparedPairs(np.array([0, 0]), np.array([1, 2]), np.array([0.5, 0.9], np.float32))
    days = np.array(["2001-01-01", "2004-01-01", "NaT"], "datetime64[D]")
    found = measure_ageing(mated, np.zeros(3, np.int64), days, 0.4)
    assert found.undated == 1
    (span,) = found.spans
    assert (span.from_years, span.to_years, span.mated_pairs) == (2, 5, 1)
    assert span.median == pytest.approx(0.5)
    nothing = measure_ageing(mated, np.zeros(3, np.int64), days[[2, 2, 2]], 0.4)
    assert nothing.spans == ()
