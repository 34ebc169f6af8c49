"""The benchmarks under pytest-benchmark, small: who is timed, and whether wrong answers show."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from bench.core.reports import Report, load_goals
from bench.micro.test_kernels import has_found, make, make_case
from indexes.exact.scanner import available_kernels

RunHere = Callable[..., tuple[int, str, str]]


def test_every_kernel_of_this_machine_is_timed_beside_numpy_and_faiss(run_here: RunHere) -> None:
    arguments = ("kernels", "--quick", "--n", "2048", "--dim", "64", "--no-stamp", "--json")
    status, out, err = run_here(*arguments)
    assert status == 0, err
    report = Report.from_dict(json.loads(out))
    (batch,) = (one for one in report.results if one.name == "Scan of 2,048 rows, a batch of 64")
    figures = {figure.name: figure for figure in batch.figures}
    assert next(iter(figures)) == "numpy float32"
    assert {"FAISS Flat, range search", "MatMulInteger alone"} < set(figures)
    assert {f"kernel {kernel}" for kernel in available_kernels()} < set(figures)
    assert figures["numpy float32"].ratio == 1
    assert batch.setup["threads"] == 1
    assert report.suite == "kernels"
    assert {check.name: check.value for check in report.checks} == {"wrong_kernels": 0}
    assert {one.name for one in report.checks} == {
        goal.name for goal in load_goals() if goal.suite == "kernels"
    }


def test_a_dimension_that_no_kernel_takes_is_refused_in_one_line(run_here: RunHere) -> None:
    status, _, err = run_here("kernels", "--quick", "--dim", "100")
    assert status == 2
    assert "multiple of 64" in err


def test_a_scan_that_loses_or_invents_a_pair_is_wrong() -> None:
    case = make_case(1_024, 8, 64, 0)
    scan = make("kernel numba", case)
    assert scan is not None
    found = scan()
    assert found is not None
    assert len(found) >= 1
    assert has_found(case.right, found[::-1])
    assert not has_found(case.right, found[1:])
    assert not has_found(case.right, np.concatenate([found, [[0, 0]]]))
