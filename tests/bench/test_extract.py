"""The suite `extract` as a whole, as small as it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.checks import Skipped, load_goals
from bench.extract import ExtractConfig, run
from bench.report import Result

pytest.importorskip("pytest_benchmark")

Run = tuple[tuple[Result, ...], dict[str, Any]]


@pytest.fixture(scope="module")
def done(faces: Path) -> Run:
    sizes = {"pairs": 1, "rounds": 1, "crops": 2, "graph_rounds": 1}
    return run(ExtractConfig(faces=faces, action_s=0.001, action_blocks=1, **sizes))


def test_every_goal_is_measured_or_skipped_and_the_graphs_agree(done: Run) -> None:
    _, measured = done
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "extract"}
    assert measured["rewritten_difference"] < 1e-5
    skipped = {name for name, value in measured.items() if isinstance(value, Skipped)}
    assert skipped <= {"openvino_speedup", "deepface_speedup", "face_recognition_speedup"}


def test_both_faces_are_found_and_each_step_is_timed_by_itself(done: Run) -> None:
    results = {result.name: result for result in done[0]}
    (found, *_) = results["What they found"].figures
    assert (found.name, found.value) == ("Sosie, cpu: both faces found", 1)
    steps = [name for name in results if name.endswith("one photograph, by pytest-benchmark")]
    assert len(steps) == 5
    for name in steps:
        assert all((figure.value or 0) > 0 for figure in results[name].figures)


def test_every_result_states_data_seed_and_threads(done: Run, faces: Path) -> None:
    for result in done[0]:
        assert result.setup["photographs"] == f"{faces.parent.name}/{faces.name}", result.name
        assert result.setup["seed"] == 0
        assert result.setup["threads"] >= 1
