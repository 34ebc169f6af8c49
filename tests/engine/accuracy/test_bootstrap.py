"""Operating points: the estimate inside its interval, the interval the right width."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from engine.accuracy import bootstrap
from engine.accuracy.bootstrap import (
    count_strangers,
    draw_people,
    operating_points,
    pair_share_of,
    rate_grid,
    share_of,
)
from engine.accuracy.pair_scores import PairScores, compare_all, single_templates, wilson_interval
from engine.errors import RateUnsupported

RATES = np.array([0.1, 0.01, 0.001])


@pytest.fixture
def easy(draw_faces: Callable[..., tuple]) -> PairScores:
    return compare_all(single_templates(*draw_faces(60, 3, noise=0.02)))


def test_a_point_is_what_counting_gives_inside_its_interval(scores) -> None:
    for point in operating_points(scores, RATES):
        assert (scores.nonmated >= point.threshold).mean() == pytest.approx(
            point.fmr, abs=1 / len(scores.nonmated)
        )
        assert point.fnmr == pytest.approx((scores.mated < point.threshold).mean())
        assert point.fmr_low <= point.fmr <= point.fmr_high
        assert point.threshold_low <= point.threshold <= point.threshold_high
        assert point.fnmr_low <= point.fnmr <= point.fnmr_high
        assert point.fnmr_low < point.fnmr_high


def test_matrix_and_pairwise_sums_agree(scores, monkeypatch) -> None:
    pairwise = operating_points(scores, RATES)
    monkeypatch.setattr(bootstrap, "DENSE_PAIRS", 100)
    for one, other in zip(operating_points(scores, RATES), pairwise, strict=True):
        assert structs.asdict(one) == pytest.approx(structs.asdict(other), rel=1e-6)


def test_no_miss_leaves_an_upper_bound_by_the_rule_of_three(easy) -> None:
    point = operating_points(easy, np.array([0.01]))[0]
    assert (point.fnmr, point.fnmr_low, point.fnmr_high) == (0.0, 0.0, 3 / 60)


def test_a_few_misses_leave_the_upper_bound_of_as_many_people(easy) -> None:
    mated = easy.mated.copy()
    mated[:2] = -1
    point = operating_points(replace(easy, mated=mated), np.array([0.01]))[0]
    assert point.fnmr == pytest.approx(2 / 180)
    assert point.fnmr_high == pytest.approx(wilson_interval(60 * 2 / 180, 60)[1])


def test_the_interval_covers_the_truth_where_one_of_independent_pairs_would_not(
    draw_faces: Callable[..., tuple],
) -> None:
    """Forty samples of one distribution whose FMR is known."""
    fixed = 0.30
    large = compare_all(single_templates(*draw_faces(1500, 3, seed=999)))
    truth = (large.nonmated >= fixed).mean()
    covered, covered_by_pairs = 0, 0
    for seed in range(40):
        sample = compare_all(single_templates(*draw_faces(60, 6, seed=seed)))
        own = (sample.nonmated >= fixed).mean()
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


def test_a_share_is_what_counting_gives() -> None:
    people = np.repeat(np.arange(40), 5)
    happened = np.arange(200) % 4 == 0
    found = share_of(people, happened, draw_people(people, 40))
    assert (found.events, found.trials, found.people, found.value) == (50, 200, 40, 0.25)
    assert found.low <= found.value <= found.high


def test_nothing_happened_leaves_three_over_the_people_not_over_the_trials() -> None:
    people = np.repeat(np.arange(50), 20)
    weights = draw_people(people, 60)
    never = share_of(people, np.zeros(1000, bool), weights)
    assert (never.value, never.low, never.high) == (0, 0, 3 / 50)
    always = share_of(people, np.ones(1000, bool), weights)
    assert (always.value, always.low, always.high) == (1, 1 - 3 / 50, 1)


def test_the_interval_covers_where_one_of_independent_trials_would_not() -> None:
    """Each person fails always or never, in ten trials: there are sixty outcomes, not 600."""
    truth, covered, covered_by_trials = 0.3, 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        people = np.repeat(np.arange(60), 10)
        happened = (rng.random(60) < truth)[people]
        found = share_of(people, happened, draw_people(people, 60, seed=seed))
        covered += found.low <= truth <= found.high
        low, high = wilson_interval(found.events, found.trials)
        covered_by_trials += low <= truth <= high
    assert covered >= 53
    assert covered_by_trials < 40


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(0, 2**20))
def test_strangers_are_counted_as_a_loop_would(sizes: list[int], seed: int) -> None:
    """Also those of different groups only."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    groups = rng.integers(0, 2, len(owners))
    pairs = [(i, j) for i in range(len(owners)) for j in range(i) if owners[i] != owners[j]]
    across = sum(groups[i] != groups[j] for i, j in pairs)
    counts = np.bincount(owners, minlength=len(sizes))
    assert count_strangers(counts) == len(pairs)
    if not across:
        return
    within = [np.bincount(owners[groups == g], minlength=len(sizes)) for g in (0, 1)]
    nobody = np.empty(0, np.int64)
    weights = draw_people(np.arange(len(sizes)), len(sizes))
    found = pair_share_of(nobody, nobody, counts, weights, without=within)
    assert found.trials == across
    assert found.value == 0 < found.high


def test_a_pair_of_people_weighs_as_often_as_both_are_drawn() -> None:
    """One look-alike pair among 30 people: a replicate has it nine times, once, or not at all."""
    counts = np.ones(30, np.int64)
    weights = draw_people(np.arange(30), 30, seed=1)
    found = pair_share_of(np.array([3]), np.array([7]), counts, weights)
    assert found.value == pytest.approx(1 / 435)
    assert found.low == 0
    assert found.high > 3 / 435
