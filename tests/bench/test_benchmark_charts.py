"""Charts of reports: those that the figures are there for, and what they say besides."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.machine import look
from bench.core.reports import (
    REPORTS,
    Check,
    Figure,
    Report,
    Result,
    Setup,
    find_figure,
    read_reports,
)
from bench.docs.benchmark_charts import VERSUS, draw_versus, list_times, name_machines, name_sizes


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return read_reports(REPORTS)


def test_without_reports_nothing_is_drawn(tmp_path: Path) -> None:
    assert not draw_versus({}, tmp_path / "versus.png")
    assert list(tmp_path.iterdir()) == []


def test_what_is_compared_is_there_in_the_committed_reports(reports: dict[str, Report]) -> None:
    for one in VERSUS:
        if one.suite in reports:
            for name in (one.ours, one.other):
                assert find_figure(reports, one.suite, one.result, name), (one.result, name)


def test_a_ratio_lies_between_its_quartiles_and_goes_the_right_way(
    reports: dict[str, Report],
) -> None:
    search = reports["search"]
    ours = Figure("exact8, the gallery", "ms", 2.0, 1.0, 4.0)
    flat = Figure("FAISS Flat", "ms", 10.0, 8.0, 20.0)
    only = replace(search, results=(Result("One query", {}, (flat, ours)),))
    (times,) = list_times({"search": only})
    assert (times.value, times.low, times.high) == (5, 2, 20)
    rates = (Figure("Sosie, cpu", "pairs/s", 80.0), Figure("deepface", "pairs/s", 20.0))
    extract = replace(search, results=(Result("Pairs of photographs", {}, rates),))
    (times,) = list_times({"extract": extract})
    assert (times.value, times.low, times.high) == (4, 4, 4)


def make_report(suite: str, *checks: Check, results: tuple[Result, ...] = ()) -> Report:
    return Report(look(), results, checks, suite)


def test_a_ratio_is_that_of_the_rounds_and_a_promised_one_as_promised() -> None:
    ours = Figure("exact8, the gallery", "ms", 2.0, ratio=5.5)
    figures = (
        Figure("FAISS Flat", "ms", 10.0, ratio=1.0),
        Figure("FAISS Flat by BLAS", "ms", 4.0, ratio=2.5),
        Figure("FAISS PQ4fs+refine, k_factor 20", "ms", 3.0, ratio=3.0),
        ours,
    )
    promise = Check("batch_fastscan_speedup", 1.8, 1.0, True)
    report = make_report("search", promise, results=(Result("A batch", {}, figures),))
    flat, blas, scan = list_times({"search": report})
    assert flat.value == 5.5
    assert blas.value == 5.5 / 2.5
    assert scan.value == 1.8


def test_machines_are_named_with_their_suites_and_sizes_with_the_seed() -> None:
    report = make_report("search", results=(Result("One query", {"seed": 3}, ()),))
    other = replace(report, machine=replace(report.machine, cpu="Another", cores=7))
    reports = {"search": report, "extract": other, "join": report}
    here = f"{report.machine.cpu}, {report.machine.cores} cores"
    assert name_machines(reports, reports) == f"search, join: {here}\nextract: Another, 7 cores"
    setup: Setup = {"references": 1_000_000, "dim": 128, "threads": 2, "seed": 0, "kernel": "vnni"}
    assert name_sizes(setup) == "1,000,000 x 128, threads 2, seed 0"
