"""The knee is found within its resolution, in few steps, and held for longer before it is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import LoadTestRefused
from loadtest.knee import MOST_STEPS, find_knee

RESOLUTION = 0.04


@given(true=st.floats(1, 5_000), first=st.floats(1, 100))
def test_a_service_of_any_rate_is_found_within_the_resolution(true: float, first: float) -> None:
    tried: list[float] = []

    def probe(rate: float, times: float) -> bool:
        del times
        tried.append(rate)
        return rate <= true

    knee = find_knee(probe, first, 10_000, RESOLUTION)
    assert knee.is_confirmed
    assert knee.rate <= true <= knee.rate * (1 + RESOLUTION) + 1e-9
    assert knee.failed is not None
    assert len(tried) == knee.steps <= MOST_STEPS


def test_a_rate_that_holds_only_for_a_short_step_is_not_the_knee() -> None:
    knee = find_knee(lambda rate, times: rate * times <= 100, 20, 1_000, RESOLUTION)
    assert not knee.is_confirmed
    assert knee.rate < 95
    knee = find_knee(lambda rate, times: rate <= (100 if times == 1 else 98), 20, 1_000, RESOLUTION)
    assert (knee.is_confirmed, knee.rate <= 98) == (True, True)


def test_a_service_beyond_the_highest_rate_is_told_as_that() -> None:
    knee = find_knee(lambda *_: True, 20, 100, RESOLUTION)
    assert (knee.rate, knee.failed, knee.is_confirmed) == (100, None, True)


def test_a_service_that_holds_nothing_has_no_knee() -> None:
    with pytest.raises(LoadTestRefused, match="look at the service"):
        find_knee(lambda *_: False, 20, 100, RESOLUTION)


def test_one_slow_moment_of_the_machine_does_not_end_the_ramp() -> None:
    tried: list[float] = []

    def probe(rate: float, times: float) -> bool:
        del times
        tried.append(rate)
        return rate <= 100 and len(tried) != 2

    knee = find_knee(probe, 20, 1_000, RESOLUTION)
    assert tried[1] == tried[2] < 100
    assert 96 <= knee.rate <= 100
