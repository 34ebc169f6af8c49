"""The suite `kernels` on few rows: who is timed, and whether wrong answers show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.reports import Result, load_goals
from bench.micro.kernels import list_scans, list_scorings
from bench.micro.micro_runner import MICRO, Sizes, Timing, count_wrong, list_results, time_actions
from bench.suites.kernels import KernelsConfig, run
from engine.errors import RequestError
from indexes.exact.scanner import available_kernels

pytest.importorskip("pytest_benchmark")

TINY = KernelsConfig(rows=2_048, queries=32, dim=64, blocks=2, most_s=0.002)

Run = tuple[tuple[Result, ...], dict[str, Any]]


@pytest.fixture(scope="module")
def done() -> Run:
    return run(TINY)


def test_every_kernel_of_this_machine_is_timed_beside_numpy_and_faiss(done: Run) -> None:
    results, _ = done
    (batch,) = (one for one in results if one.name == "Scan of 2,048 rows, a batch of 32")
    figures = {figure.name: figure for figure in batch.figures}
    assert next(iter(figures)) == "numpy float32"
    assert {"FAISS Flat, range search", "MatMulInteger alone"} < set(figures)
    assert {f"kernel {kernel}" for kernel in available_kernels()} < set(figures)
    assert figures["numpy float32"].ratio == 1
    assert batch.setup["rows"] == 2_048
    assert batch.setup["threads"] == 1
    for figure in batch.figures:
        assert figure.low is not None
        assert figure.value is not None
        assert figure.high is not None
        assert figure.noise is not None
        assert figure.low <= figure.value <= figure.high


def test_no_kernel_errs_and_every_goal_is_measured(done: Run) -> None:
    _, measured = done
    assert measured == {"wrong_kernels": 0}
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "kernels"}


def test_the_largest_scans_state_their_rates(done: Run) -> None:
    results, _ = done
    rates = [one for one in results if one.name.startswith("Rate")]
    assert [one.figures[0].unit for one in rates] == ["GB/s", "GOPS"]
    assert all((figure.value or 0) > 0 for one in rates for figure in one.figures)


def test_scores_and_k_th_bests_are_timed_too(done: Run) -> None:
    names = {one.name for one in done[0]}
    assert {"True scores of 4,096 pairs", "The 10th best of 65,536 pairs"} < names


def test_each_block_measures_everything_before_the_next_begins(tmp_path: Path) -> None:
    """By pytest alone, as somebody at a prompt would run it."""
    path = tmp_path / "benchmark.json"
    options = ["--rows=1024", "--queries=4", "--dim=64", "--blocks=2", f"--benchmark-json={path}"]
    quick = ["--benchmark-max-time=0.001", "--benchmark-min-rounds=1", "-q"]
    files = [str(MICRO / "test_search.py"), str(MICRO / "test_kernels.py")]
    command = [sys.executable, "-m", "pytest", *files, "-p", "no:cacheprovider"]
    prompt = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    ended = subprocess.run(
        [*command, *options, *quick], env=prompt, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stdout
    timings = [Timing.from_dict(one) for one in json.loads(path.read_text())["benchmarks"]]
    assert not count_wrong(timings)
    blocks = [one.block for one in timings]
    assert blocks == [0] * (len(blocks) // 2) + [1] * (len(blocks) // 2)
    results = {one.name: one for one in list_results(timings, {})}
    assert "True scores of 4,096 pairs" in results
    searches = results["One query, by pytest-benchmark, one thread"]
    assert searches.figures[-1].name == "exact8, the gallery"


def test_a_scan_that_loses_a_pair_and_a_wrong_score_are_told() -> None:
    sizes = Sizes(1_024, 8, 64, 0)
    scan = next(one for one in list_scans(sizes) if one.who == "kernel numba")
    act, is_right = scan.prepare()
    found = act()
    assert len(found) >= 1
    assert is_right(found[::-1])
    assert not is_right(found[1:])
    assert not is_right(np.concatenate([found, [[0, 0]]]))
    act, is_right = list_scorings(sizes)[1].prepare()
    answers = act()
    assert is_right(answers)
    answers[7] += np.float32(1e-3)
    assert not is_right(answers)


def test_a_broken_file_of_actions_is_told_in_one_line() -> None:
    with pytest.raises(RequestError, match="pytest ended with 4"):
        time_actions("test_nothing.py", 0.01, rows=1024)


def test_a_dimension_that_no_kernel_takes_is_refused() -> None:
    with pytest.raises(RequestError, match="multiple of 64"):
        run(KernelsConfig(dim=100))
