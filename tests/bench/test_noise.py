"""What chance does to hundreds of figures at once: no false alarms, and no blindness."""

from __future__ import annotations

import statistics
from dataclasses import replace

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
    sample_ratio,
    sample_value,
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


def test_repeats_say_how_far_their_median_may_lie_off() -> None:
    """Of medians of so many normal values: the deviation, from the quartiles of each alone."""
    rng = np.random.default_rng(7)
    for repeats in (2, 3, 5, 15, 40):
        draws = rng.normal(10, 0.5, (1_500, repeats))
        known = [sample_value(Figure.of("it", "ms", row), 1) for row in draws]
        told = np.sqrt(np.mean([one.variance for one in known if one]))
        true = np.median(draws, axis=1).std() / 10
        assert true * 0.9 < told < true * 1.7, repeats
        assert {one.freedom for one in known if one} == {repeats - 1}


def test_of_repeats_whose_number_is_not_known_the_spread_of_one_is_taken() -> None:
    old = Figure("it", "ms", 10.0, 9.0, 11.0)
    known, fewer = sample_value(old, 1), sample_value(replace(old, repeats=15), 1)
    assert known
    assert fewer
    assert known.variance > 8 * fewer.variance


def test_blocks_of_one_process_are_its_noise_and_no_more_is_believed_of_it() -> None:
    """As the kernels are timed: their quartiles within a block are narrower than what blocks do."""
    kernel = Figure("kernel", "us", 10.0, 9.99, 10.01, 2.0, None, 0.2, 0.3, 1_000)
    value, ratio = sample_value(kernel, 1), sample_ratio(kernel, kernel, 1)
    assert value == Sample(0.2**2, 0)
    assert ratio == Sample(0.3**2, 0)
    assert Noise(None, 100).limit(value, value) > 1
    steady = Sample(0.001**2, 0)
    assert Noise(None, 100).limit(steady, steady) == FLOOR_REPEATS


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
