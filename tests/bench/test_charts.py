"""Pictures of reports: those that the figures are there for, and none besides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.reports import REPORTS, Figure, Report, Result, find_figure, read_reports
from bench.docs.plots import VERSUS, draw_all, list_times


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return read_reports(REPORTS)


def test_without_reports_nothing_is_drawn(tmp_path: Path) -> None:
    assert draw_all({}, tmp_path) == {}
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
    rates = (
        Figure("Sosie, cpu", "pairs/s", 80.0),
        Figure("deepface", "pairs/s", 20.0),
    )
    extract = replace(search, results=(Result("Pairs of photographs", {}, rates),))
    (times,) = list_times({"extract": extract})
    assert (times.value, times.low, times.high) == (4, 4, 4)
