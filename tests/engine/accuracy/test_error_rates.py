"""Error rates and the thresholds that keep them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.accuracy.pair_scores import lowest_rate, require_support, thresholds_at, wilson_interval
from engine.errors import RateUnsupported

cosines = st.integers(-20, 20).map(lambda tenth: tenth / 20)
some_scores = st.lists(cosines, min_size=1, max_size=60).map(lambda s: np.array(s, np.float32))
rates = st.floats(0.01, 0.99)


@given(some_scores, rates)
def test_the_threshold_is_the_smallest_that_keeps_the_rate_ties_included(
    nonmated: np.ndarray, rate: float
) -> None:
    threshold = thresholds_at(nonmated, np.array([rate]))[0]
    assert (nonmated >= threshold).mean() <= rate * (1 + 1e-9)
    below = np.nextafter(threshold, np.float32(-2))
    assert (nonmated >= below).mean() > rate


def test_ten_pairs_above_the_threshold_support_a_rate_and_nine_do_not() -> None:
    require_support(1e-5, 1_000_000)
    with pytest.raises(RateUnsupported, match=r"1e-06 .* the lowest is 1e-05"):
        require_support(1e-6, 1_000_000)
    with pytest.raises(RateUnsupported, match=r"lowest is 1\.1e-05"):
        require_support(1e-5, 900_000)
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
