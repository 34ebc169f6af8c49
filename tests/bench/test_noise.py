"""What chance does to hundreds of figures at once: no false alarms, and no blindness."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from bench.blocks import spread
from bench.noise import (
    CHANCE,
    FLOOR_BLOCKS,
    FLOOR_REPEATS,
    Noise,
    Sample,
    find_prior,
    find_quantile,
    sample_ratio,
    sample_value,
    share_below,
)
from bench.report import Figure

FIGURES, BLOCKS, TRIALS = 300, 3, 40


def run_once(deviations: np.ndarray, rng: np.random.Generator) -> list[Figure]:
    """Every figure measured in blocks: some tremble by 1 %, some by a third."""
    draws = np.exp(deviations[:, None] * rng.standard_normal((len(deviations), BLOCKS)))
    values = [[float(value) for value in row] for row in draws]
    return [Figure("it", "ms", statistics.median(row), noise=spread(row)) for row in values]


def count_alarms(deviations: np.ndarray, rng: np.random.Generator, factor: float = 1.0) -> int:
    """How many of the figures of two runs seem to differ, where one is `factor` times slower."""
    old, new = run_once(deviations, rng), run_once(deviations, rng)
    samples = [
        (sample_value(one, BLOCKS), sample_value(two, BLOCKS))
        for one, two in zip(old, new, strict=True)
    ]
    known = [(one, two) for one, two in samples if one and two]
    noise = Noise(find_prior([one for both in known for one in both]), FIGURES)
    alarms = 0
    for (before, after), one, two in zip(known, old, new, strict=True):
        assert one.value is not None
        assert two.value is not None
        alarms += factor * two.value / one.value - 1 > noise.limit(before, after)
    return alarms


def test_two_runs_of_one_thing_seldom_differ_though_hundreds_of_figures_are_compared() -> None:
    rng = np.random.default_rng(5)
    deviations = np.exp(rng.normal(np.log(0.03), 0.7, FIGURES))
    alarms = [count_alarms(deviations, rng) for _ in range(TRIALS)]
    assert sum(one > 0 for one in alarms) <= 3 * CHANCE * TRIALS


def test_a_doubled_time_is_seen_in_nearly_every_figure() -> None:
    rng = np.random.default_rng(6)
    deviations = np.full(FIGURES, 0.03)
    assert count_alarms(deviations, rng, factor=2.0) == FIGURES
    assert count_alarms(deviations, rng, factor=1.3) > 0.9 * FIGURES


def test_students_distribution_is_that_of_the_tables() -> None:
    assert find_quantile(0.975, 4) == pytest.approx(2.776, abs=2e-3)
    assert find_quantile(0.9999, 8) == pytest.approx(6.442, abs=2e-3)
    assert share_below(0.0, 7) == 0.5
    assert share_below(1.812, 10) == pytest.approx(0.95, abs=1e-4)


def test_three_blocks_that_agree_by_luck_are_not_believed() -> None:
    lucky, usual = Sample(1e-8, BLOCKS), Sample(0.03**2, BLOCKS)
    prior = find_prior([usual] * 20)
    assert prior is not None
    assert Noise(prior, 100).limit(lucky, lucky) > 0.6 * Noise(prior, 100).limit(usual, usual)
    assert Noise(None, 100).limit(lucky, lucky) == FLOOR_BLOCKS
    assert find_prior([usual] * 3) is None


def test_the_more_figures_are_judged_the_more_one_may_change() -> None:
    one = Sample(0.05**2, BLOCKS)
    limits = [Noise(0.05**2, judged).limit(one, one) for judged in (1, 10, 100, 1000)]
    assert limits == sorted(limits)
    assert limits[0] < limits[-1] < 6 * limits[0]


def test_the_less_is_known_of_the_noise_the_more_is_allowed() -> None:
    once = Figure("a search", "ms", 10.0, ratio=2.0)
    repeats = Figure("a search", "ms", 10.0, 9.9, 10.1, ratio=2.0)
    blocks = Figure("a search", "ms", 10.0, 9.9, 10.1, 2.0, None, 0.001, 0.002)
    assert sample_value(once, 1) is None
    assert sample_ratio(once, repeats, 1) is None
    known = sample_value(repeats, 1)
    measured = sample_value(blocks, BLOCKS)
    ratio = sample_ratio(blocks, blocks, BLOCKS)
    assert known
    assert measured
    assert ratio
    assert Noise(None, 1).limit(known, known) == FLOOR_REPEATS
    assert Noise(None, 1).limit(known, measured) == FLOOR_REPEATS
    assert Noise(None, 1).limit(measured, measured) == FLOOR_BLOCKS
    assert ratio.variance == pytest.approx(4 * measured.variance)
