"""The suite `sweep` on few references: what is hidden, and whether it is found."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.reports import load_goals
from bench.suites import sweeps
from bench.suites.sweeps import (
    Planted,
    SweepConfig,
    adjusted_rand,
    is_trap,
    plant,
    run,
    sweep_planted,
)
from engine.errors import RequestError

THRESHOLD = 0.62
PLAN = SweepConfig(references=4_000, rings=20, traps=6, newcomers=200, threshold=THRESHOLD, seed=3)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(PLAN)


def test_a_small_suite_finds_what_it_hid_and_measures_every_goal(tmp_path) -> None:
    config = SweepConfig(references=4_000, rings=20, traps=6, newcomers=200, folder=tmp_path)
    results, measured = run(config)
    goals = {goal.name for goal in load_goals() if goal.suite == "sweep"}
    assert goals == set(measured)
    assert measured["planted_pairs_found"] == 1.0
    assert measured["new_pairs_found"] == 1.0
    assert measured["sprung_traps"] == 0
    assert measured["adjusted_rand"] > 0.95
    costs, found, _ = results
    assert {figure.name: figure.value for figure in costs.figures}["the sweep"]
    figures = {figure.name: figure.value for figure in found.figures}
    assert figures["connected components: chains joined"] == 6
    assert not list(tmp_path.iterdir()), "the checkpoints are gone afterwards"


def test_a_grouping_that_joins_chains_and_a_join_that_loses_pairs_fail_the_suite(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(sweeps, "label_groups", lambda size, _: np.zeros(size, np.int64))
    join = sweeps.join_gallery

    def forget(*arguments: object, **options: object) -> object:
        joined = join(*arguments, **options)  # type: ignore[arg-type]
        joined.pairs.records["left"] = -1
        return joined

    monkeypatch.setattr(sweeps, "join_gallery", forget)
    _, measured = sweep_planted(PLAN, tmp_path)
    assert measured["sprung_traps"] == 6
    assert measured["adjusted_rand"] < 0.1
    assert measured["planted_pairs_found"] == 0
    assert measured["new_pairs_found"] == 0


def test_only_neighbours_of_a_trap_reach_the_threshold(planted) -> None:
    assert sorted({len(rows) for rows in planted.traps}) == [3, 5]
    for rows in planted.traps:
        assert is_trap(planted.vectors[rows], THRESHOLD)
    close = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0]], np.float32)
    assert not is_trap(close, 0.55)


def test_the_same_plan_gives_the_same_gallery(planted) -> None:
    again = plant(PLAN)
    assert np.array_equal(again.vectors, planted.vectors)
    assert np.array_equal(again.people, planted.people)


def test_a_gallery_too_small_for_its_rings_is_refused() -> None:
    with pytest.raises(RequestError, match="raise --n"):
        plant(SweepConfig(references=100, rings=20, traps=1, newcomers=20, threshold=0.62, seed=0))


labelled = st.integers(1, 9).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.integers(0, 3), min_size=size, max_size=size).map(np.array)] * 2
    )
)


@given(labelled)
def test_agreement_is_what_counting_pairs_gives(labels: tuple[np.ndarray, np.ndarray]) -> None:
    truth, found = labels
    pairs = list(combinations(range(len(truth)), 2))
    together = sum(truth[i] == truth[j] and found[i] == found[j] for i, j in pairs)
    of_truth = sum(truth[i] == truth[j] for i, j in pairs)
    of_found = sum(found[i] == found[j] for i, j in pairs)
    expected = of_truth * of_found / len(pairs) if pairs else 0
    most = (of_truth + of_found) / 2
    if most == expected:
        assert adjusted_rand(truth, found) == 1
    else:
        assert adjusted_rand(truth, found) == pytest.approx(
            (together - expected) / (most - expected)
        )
