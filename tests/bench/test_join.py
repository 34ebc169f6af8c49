"""The suite `join` on few references: what is joined, and whether it is right."""

import numpy as np

from bench.core.reports import load_goals
from bench.datasets import Faces, find_pairs
from bench.suites.join import JoinConfig, run, share_same

TINY = JoinConfig(references=4_000, dim=32, compared=2_000, rounds=1, product_s=0.01)


def test_a_small_join_finds_the_pairs_of_brute_force() -> None:
    results, measured = run(TINY)
    assert measured["identical_pairs"] == 1.0
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "join"}
    speed, _ = results
    figures = {figure.name: figure.value for figure in speed.figures}
    assert figures["one segment: rate"]


def test_a_lost_an_invented_and_a_wrongly_scored_pair_each_lower_the_share() -> None:
    right = find_pairs(Faces(1_500, 32, 0).references, 0.7)
    left, other, scores = right
    assert share_same(right, right) == 1.0
    assert share_same((left[1:], other[1:], scores[1:]), right) < 1
    assert share_same(right, (left[1:], other[1:], scores[1:])) < 1
    assert share_same((left, other, scores + np.float32(1e-5)), right) == 0
