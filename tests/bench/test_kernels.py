"""The suite `kernels` on few rows: who is timed, and whether wrong answers show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.core.reports import Result, load_goals
from bench.suites.kernels import Action, KernelsConfig, list_scans, run, time_actions
from engine.errors import RequestError
from indexes.exact.scanner import available_kernels

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


def test_a_wrong_answer_is_counted_in_every_block() -> None:
    actions = [
        Action(result="One", who=who, prepare=lambda is_right=is_right: (int, lambda _: is_right))
        for who, is_right in (("right", True), ("wrong", False))
    ]
    timings = time_actions(actions, blocks=2, most_s=0.002)
    assert [(one.action.who, one.wrong) for one in timings] == [("right", 0), ("wrong", 2)]
    assert all(len(one.blocks) == 2 for one in timings)


def test_a_scan_that_loses_or_invents_a_pair_is_wrong() -> None:
    sizes = KernelsConfig(rows=1_024, queries=8, dim=64)
    scan = next(one for one in list_scans(sizes) if one.who == "kernel numba")
    act, is_right = scan.prepare()
    found = act()
    assert len(found) >= 1
    assert is_right(found[::-1])
    assert not is_right(found[1:])
    assert not is_right(np.concatenate([found, [[0, 0]]]))


def test_a_dimension_that_no_kernel_takes_is_refused() -> None:
    with pytest.raises(RequestError, match="multiple of 64"):
        run(KernelsConfig(dim=100))
