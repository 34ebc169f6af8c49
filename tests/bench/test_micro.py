"""The benchmarks under pytest-benchmark, small: who is timed, and whether wrong answers show."""

import json
import os
import subprocess
import sys

import pytest

from bench.conftest import pytest_benchmark_compare_machine_info
from bench.core.reports import Figure, Report, load_goals
from bench.datasets import default_thresholds
from indexes.exact.scanner import available_kernels


def test_every_kernel_of_this_machine_is_timed_beside_numpy(run_here) -> None:
    arguments = ("kernels", "--quick", "--n", "2048", "--dim", "64", "--json")
    status, out, err = run_here(*arguments)
    assert status == 0, err
    report = Report.from_dict(json.loads(out))
    (batch,) = (one for one in report.results if one.name == "Scan of 2,048 rows, a batch of 64")
    figures = {figure.name: figure for figure in batch.figures}
    assert next(iter(figures)) == "numpy float32"
    assert {f"kernel {kernel}" for kernel in available_kernels()} < set(figures)
    assert figures["numpy float32"].ratio == 1
    assert batch.setup["threads"] == 1
    assert report.suite == "kernels"
    assert {check.name: check.value for check in report.checks} == {"wrong_kernels": 0}
    assert {one.name for one in report.checks} == {
        goal.name for goal in load_goals() if goal.suite == "kernels"
    }


def test_another_load_of_one_processor_is_no_other_machine() -> None:
    now = {"cpu": "one", "cores": 2, "load_at_start": 0.1}
    alike, other = ({"machine_info": now | one} for one in ({"load_at_start": 9.0}, {"cores": 4}))
    for saved in (alike, other):
        pytest_benchmark_compare_machine_info(now, saved)
    assert alike["machine_info"] == now
    assert other["machine_info"] != now


def test_nothing_tunes_the_blas_of_a_benchmark() -> None:
    show = (
        "import os, sys, bench.conftest as c; config = type('C', (), {'stash': {}});"
        "c.pytest_configure(config); sys.exit('OPENBLAS_CORETYPE' in os.environ)"
    )
    tuned = os.environ | {"OPENBLAS_CORETYPE": "Haswell"}
    subprocess.run([sys.executable, "-c", show], env=tuned, check=True)
    refused = subprocess.run(
        [sys.executable, "-c", f"import numpy; {show}"], env=tuned, capture_output=True, check=False
    )
    assert b"unset OPENBLAS_CORETYPE" in refused.stderr


SEARCH = ("search", "--quick", "--n", "3000", "--dim", "32")
OURS = ("exact8, the gallery", "exact8, one segment")


@pytest.fixture(scope="module")
def searched() -> Report:
    command = [sys.executable, "-m", "bench", *SEARCH, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return Report.from_dict(json.loads(done.stdout))


def figures_of(report: Report, name: str) -> dict[str, Figure]:
    (result,) = (one for one in report.results if one.name.partition(" to ")[0] == name)
    return {figure.name: figure for figure in result.figures}


@pytest.mark.slow
def test_every_goal_of_search_is_measured_or_skipped_for_the_size(searched) -> None:
    checks = {check.name: check for check in searched.checks}
    assert set(checks) == {goal.name for goal in load_goals() if goal.suite == "search"}
    assert checks.pop("identical_answers").value == 1
    reasons = {check.skipped for check in checks.values()}
    assert reasons == {"promised for the default sizes, not for this references"}


@pytest.mark.slow
def test_ours_and_the_others_stand_in_one_table(searched) -> None:
    names = list(figures_of(searched, "A batch"))
    assert names[0] == "FAISS Flat"
    for one in (*OURS, "FAISS Flat Panorama", "FAISS IVF", "FAISS RaBitQ", "usearch"):
        assert any(name.startswith(one) for name in names), one
    assert figures_of(searched, "A batch")["FAISS Flat"].ratio == 1


@pytest.mark.slow
def test_the_exact_ones_find_every_mate_near_the_threshold(searched) -> None:
    figures = figures_of(searched, f"Recall of mates, score {default_thresholds().review:.2f}")
    assert [figures[name].value for name in OURS] == [1.0, 1.0]


def test_too_many_references_for_the_memory_are_refused(run_here) -> None:
    status, _, err = run_here("search", "--n", str(10**9))
    assert status == 2
    assert "lower --n" in err
