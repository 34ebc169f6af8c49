"""The knee is found within its resolution, in few steps, and confirmed by a longer one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.config import CONFIRM_TIMES, MOST_STEPS, find_knee
from loadtest.errors import LoadTestRefused

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


def test_a_knee_beyond_the_highest_rate_is_reported_as_that() -> None:
    knee = find_knee(lambda *_: True, 20, 100, RESOLUTION)
    assert (knee.rate, knee.failed, knee.is_confirmed) == (100, None, True)


@given(true=st.floats(1, 200), luck=st.floats(0.5, 1))
def test_the_rate_found_was_tried_and_held(true: float, luck: float) -> None:
    held = {0.0}

    def probe(rate: float, times: float) -> bool:
        holds = rate <= true * (luck if times > 1 else 1)
        held.update([rate] if holds else [])
        return holds

    knee = find_knee(probe, 20, 1_000, RESOLUTION)
    assert knee.rate in held
    assert knee.failed is not None
    assert knee.rate < knee.failed
    assert knee.steps <= MOST_STEPS


def test_a_rate_is_confirmed_at_its_first_try_or_a_lower_one_is() -> None:
    long: list[float] = []

    def probe(rate: float, times: float) -> bool:
        long.extend([rate] if times == CONFIRM_TIMES else [])
        return rate <= 100 and (times == 1 or len(long) > 1)

    knee = find_knee(probe, 20, 1_000, RESOLUTION)
    assert (knee.is_confirmed, knee.rate) == (True, long[1])
    assert long == [knee.failed, pytest.approx(long[0] * (1 - RESOLUTION))]


@given(often=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_the_search_takes_no_more_steps_than_promised(often: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    knee = find_knee(lambda *_: bool(rng.random() < often), 3, 1e9, 1e-9)
    assert knee.steps <= MOST_STEPS


def test_a_service_that_dies_ends_the_search_and_keeps_its_result() -> None:
    tried: list[float] = []

    def probe(rate: float, times: float) -> bool:
        del times
        tried.append(rate)
        if len(tried) == 4:
            raise LoadTestRefused("it died")
        return True

    knee = find_knee(probe, 20, 1_000, RESOLUTION)
    assert (knee.rate, knee.steps, knee.is_confirmed) == (tried[2], 3, False)
    assert knee.trouble == "it died"


def test_one_slow_moment_of_the_machine_does_not_end_the_ramp() -> None:
    tried: list[float] = []

    def probe(rate: float, times: float) -> bool:
        del times
        tried.append(rate)
        return rate <= 100 and len(tried) != 2

    knee = find_knee(probe, 20, 1_000, RESOLUTION)
    assert tried[1] == tried[2] < 100
    assert 96 <= knee.rate <= 100
