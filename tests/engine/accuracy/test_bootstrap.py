"""Operating points: the estimate inside its interval, the interval the right width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from engine.accuracy import bootstrap
from engine.accuracy.bootstrap import operating_points, rate_grid
from engine.accuracy.metrics import false_match_rate, false_nonmatch_rate
from engine.accuracy.pairs import PairScores, compare_all
from engine.accuracy.templates import single_templates
from engine.errors import RateUnsupported
from indexes.intervals import wilson_interval

RATES = np.array([0.1, 0.01, 0.001])


def test_a_point_is_what_counting_gives(scores: PairScores) -> None:
    for point in operating_points(scores, RATES):
        assert false_match_rate(scores.nonmated, point.threshold) == pytest.approx(
            point.fmr, abs=1 / len(scores.nonmated)
        )
        assert point.fnmr == false_nonmatch_rate(scores.mated, point.threshold)


def test_intervals_hold_their_estimates(scores: PairScores) -> None:
    for point in operating_points(scores, RATES):
        assert point.fmr_low <= point.fmr <= point.fmr_high
        assert point.threshold_low <= point.threshold <= point.threshold_high
        assert point.fnmr_low <= point.fnmr <= point.fnmr_high
        assert point.fnmr_low < point.fnmr_high


def test_the_same_seed_gives_the_same_intervals(scores: PairScores) -> None:
    one, again, other = (operating_points(scores, RATES, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_matrix_and_pairwise_sums_agree(
    scores: PairScores, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairwise = operating_points(scores, RATES)
    monkeypatch.setattr(bootstrap, "DENSE_PAIRS", 100)
    for one, other in zip(operating_points(scores, RATES), pairwise, strict=True):
        assert asdict(one) == pytest.approx(asdict(other), rel=1e-6)


def test_no_miss_leaves_an_upper_bound_by_the_rule_of_three(
    draw_faces: Callable[..., tuple],
) -> None:
    easy = compare_all(single_templates(*draw_faces(60, 3, noise=0.02)))
    point = operating_points(easy, np.array([0.01]))[0]
    assert (point.fnmr, point.fnmr_low, point.fnmr_high) == (0.0, 0.0, 3 / 60)


def test_a_few_misses_leave_the_upper_bound_of_as_many_people(
    draw_faces: Callable[..., tuple],
) -> None:
    easy = compare_all(single_templates(*draw_faces(60, 3, noise=0.02)))
    mated = easy.mated.copy()
    mated[:2] = -1
    point = operating_points(replace(easy, mated=mated), np.array([0.01]))[0]
    assert point.fnmr == 2 / 180
    assert point.fnmr_high == pytest.approx(wilson_interval(60 * 2 / 180, 60)[1])


def test_the_interval_covers_the_truth_where_one_of_independent_pairs_would_not(
    draw_faces: Callable[..., tuple],
) -> None:
    """Forty samples of one distribution whose FMR is known."""
    fixed = 0.30
    large = compare_all(single_templates(*draw_faces(1500, 3, seed=999)))
    truth = false_match_rate(large.nonmated, fixed)
    covered, covered_by_pairs = 0, 0
    for seed in range(40):
        sample = compare_all(single_templates(*draw_faces(60, 6, seed=seed)))
        own = false_match_rate(sample.nonmated, fixed)
        point = operating_points(sample, np.array([own]), seed=seed)[0]
        covered += point.fmr_low <= truth <= point.fmr_high
        deviation = np.sqrt(own * (1 - own) / len(sample.nonmated))
        covered_by_pairs += abs(own - truth) <= 1.96 * deviation
    assert covered >= 36
    assert covered_by_pairs < 30


def test_a_grid_ends_at_the_lowest_supported_rate() -> None:
    grid = rate_grid(0.1, 23_752_290)
    assert grid[0] == 0.1
    assert grid[-1] == 10 / 23_752_290
    assert (np.diff(grid) < 0).all()
    for rate in (1e-3, 1e-4, 1e-5, 1e-6):
        assert np.isclose(grid, rate, rtol=1e-9).any()
    with pytest.raises(RateUnsupported):
        rate_grid(0.1, 99)


def test_an_unsupported_rate_is_refused(scores: PairScores) -> None:
    with pytest.raises(RateUnsupported, match="1e-09"):
        operating_points(scores, np.array([1e-9]))
