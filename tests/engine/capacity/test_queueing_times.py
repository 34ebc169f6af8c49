"""Times add up as independent times do, and what is beyond the grid is infinite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.capacity.queueing import GRID, Times, slowest_of

STEP = 1e-3


def mean_s(times: Times) -> float:
    return float(times.masses @ np.arange(GRID)) * times.step_s


def test_the_mean_of_a_sum_is_the_sum_of_the_means() -> None:
    rng = np.random.default_rng(1)
    one = Times.of(rng.exponential(0.1, 500), np.ones(500), STEP)
    other = Times.constant(0.3, STEP).jittered(0.4)
    summed = one.plus(other)
    assert mean_s(summed) == pytest.approx(mean_s(one) + mean_s(other), rel=1e-6)
    assert summed.quantile(0.99) < one.quantile(0.99) + other.quantile(0.99)
    assert summed.masses.sum() == pytest.approx(1)


def test_quantiles_are_those_of_the_moments_given() -> None:
    times = Times.of(np.arange(1, 101) / 100, np.ones(100), STEP)
    assert times.quantile(0.5) == pytest.approx(0.5, abs=STEP)
    assert times.quantile(0.99) == pytest.approx(0.99, abs=STEP)
    assert Times.constant(0.25, STEP).quantile(0.01) == pytest.approx(0.25)


def test_spread_keeps_the_mean_and_widens() -> None:
    times = Times.constant(0.5, STEP).jittered(0.3)
    assert mean_s(times) == pytest.approx(0.5, abs=STEP)
    assert times.quantile(0.9) > 0.6 > 0.5 > times.quantile(0.3)


def test_what_lies_beyond_the_grid_is_never_in_time() -> None:
    late = Times.constant(2 * GRID * STEP, STEP)
    assert late.quantile(0.5) == math.inf
    half = Times.of(np.array([0.1, 2 * GRID * STEP]), np.ones(2), STEP)
    assert half.quantile(0.4) == pytest.approx(0.1)
    assert half.plus(half).quantile(0.5) == math.inf


def test_the_slowest_of_many_is_the_median_of_their_greatest() -> None:
    drawn = np.exp(np.random.default_rng(2).normal(0, 0.2, (20_000, 12))).max(axis=1)
    assert slowest_of(12, 0.2) == pytest.approx(float(np.median(drawn)), rel=0.01)
    assert slowest_of(1, 0.2) == slowest_of(0, 0.2) == 1
