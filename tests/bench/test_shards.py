"""The suite `shards` on few references: what it kills comes back whole, a difference is seen."""

import os

import numpy as np
import pytest

from bench.core.reports import load_goals
from bench.datasets import Faces
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex

suite = pytest.importorskip("bench.suites.shards")

RIGHT = {"identical_answers": 1, "gallery_difference": 0, "replayed_needlessly": 0}


def test_a_reference_that_one_of_two_lacks_is_a_difference() -> None:
    faces = Faces(600, 32, 0).references
    whole, lacking = (Gallery(SegmentedIndex(32)) for _ in range(2))
    whole.add(np.arange(600), faces, 1)
    lacking.add(np.arange(600), faces, 1)
    assert suite.share_same(whole, lacking, faces, 0.57) == 1
    lacking.remove(np.array([300]), 2)
    assert suite.share_same(whole, lacking, faces, 0.57) < 1


# tests/serving/cluster kills the same; CI has twenty minutes for everything.
@pytest.mark.skipif("CI" in os.environ, reason="three minutes of Ray: run by hand")
@pytest.mark.slow
def test_parts_are_killed_and_nothing_is_lost(tmp_path) -> None:
    config = suite.ShardsConfig(
        references=500, visitors=1_000, probes=64, rounds=2, folder=tmp_path
    )
    results, measured = suite.run(config)
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "shards"}
    assert {name: measured[name] for name in RIGHT} == RIGHT
    names = [result.name for result in results]
    assert names == ["One shard is killed"]
    assert not list(tmp_path.iterdir()), "the home is gone afterwards"
