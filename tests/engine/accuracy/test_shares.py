"""Shares over people: what counting gives, with intervals as wide as people make them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.accuracy.bootstrap import draw_people
from engine.accuracy.shares import count_strangers, pair_share_of, share_of
from indexes.intervals import wilson_interval


def test_a_share_is_what_counting_gives() -> None:
    people = np.repeat(np.arange(40), 5)
    happened = np.arange(200) % 4 == 0
    found = share_of(people, happened, draw_people(people, 40, seed=0))
    assert (found.events, found.trials, found.people, found.value) == (50, 200, 40, 0.25)
    assert found.low <= found.value <= found.high


def test_nothing_happened_leaves_three_over_the_people_not_over_the_trials() -> None:
    people = np.repeat(np.arange(50), 20)
    weights = draw_people(people, 60, seed=0)
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
    weights = draw_people(np.arange(len(sizes)), len(sizes), seed=0)
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
