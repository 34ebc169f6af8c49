""""""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.accuracy.error_rates import (
    best_threshold,
    false_match_rate,
    false_nonmatch_rate,
    fold_accuracy,
    lowest_rate,
    require_support,
    threshold_at,
    thresholds_at,
    wilson_interval,
)
from engine.errors import RateUnsupported

decided_pairs = st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=1, max_size=40)


@given(decided_pairs)
def test_no_threshold_decides_more_pairs_rightly(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 10 for score, _ in pairs], np.float32)
    mated = np.array([is_mated for _, is_mated in pairs])

    def right(threshold: float) -> int:
        return int(((scores >= threshold) == mated).sum())

    # A threshold above all scores is no candidate: it would refuse everybody.
    assert right(best_threshold(scores, mated)) == max(map(right, scores))


def test_a_fold_is_judged_by_the_thresholds_of_the_others() -> None:
    # Fold 1 alone would choose 0.1 and be right; the others' threshold, 0.5, misses one of it.
    scores = np.array([0.5, 0.4, 0.1, 0.0, 0.5, 0.4], np.float32)
    mated = np.array([True, False] * 3)
    result = fold_accuracy(scores, mated, np.array([0, 0, 1, 1, 2, 2]))
    assert result.folds == (1.0, 0.5, 1.0)
    assert result.accuracy == np.mean(result.folds)
    assert result.accuracy_std == np.std(result.folds, ddof=1)


cosines = st.integers(-20, 20).map(lambda tenth: tenth / 20)
some_scores = st.lists(cosines, min_size=1, max_size=60).map(lambda s: np.array(s, np.float32))
rates = st.floats(0.01, 0.99)


@given(some_scores, rates)
def test_the_threshold_is_the_smallest_that_keeps_the_rate_ties_included(
    nonmated: np.ndarray, rate: float
) -> None:
    threshold = thresholds_at(nonmated, np.array([rate]))[0]
    assert false_match_rate(nonmated, threshold) <= rate * (1 + 1e-9)
    below = np.nextafter(threshold, np.float32(-2))
    assert false_match_rate(nonmated, below) > rate


@given(some_scores, cosines, cosines)
def test_fmr_falls_and_fnmr_rises_with_the_threshold(
    scores: np.ndarray, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert false_match_rate(scores, low) >= false_match_rate(scores, high)
    assert false_nonmatch_rate(scores, low) <= false_nonmatch_rate(scores, high)


@given(some_scores, cosines)
def test_a_score_equal_to_the_threshold_matches(scores: np.ndarray, threshold: float) -> None:
    at = np.float32(threshold)
    assert false_match_rate(scores, at) == sum(s >= at for s in scores) / len(scores)
    assert false_nonmatch_rate(scores, at) == sum(s < at for s in scores) / len(scores)


def test_ten_pairs_above_the_threshold_support_a_rate_and_nine_do_not() -> None:
    require_support(1e-5, 1_000_000)
    with pytest.raises(RateUnsupported, match=r"1e-06 .* the lowest is 1e-05"):
        require_support(1e-6, 1_000_000)
    with pytest.raises(RateUnsupported, match=r"lowest is 1\.1e-05"):
        require_support(1e-5, 900_000)


def test_an_unsupported_threshold_is_refused_not_guessed() -> None:
    scores = np.linspace(-1, 1, 1000, dtype=np.float32)
    assert threshold_at(scores, 0.01) == pytest.approx(0.98, abs=1e-3)
    with pytest.raises(RateUnsupported):
        threshold_at(scores, 0.001)
    assert lowest_rate(0) == np.inf


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_holds_its_share(counts: tuple[int, int]) -> None:
    events, trials = counts
    low, high = wilson_interval(events, trials)
    assert 0 <= low <= events / trials <= high <= 1
    assert low < high


def test_wilson_interval_of_a_known_case() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
