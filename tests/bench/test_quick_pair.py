"""Two quick runs of one machine, as they were measured."""

from __future__ import annotations

import json

from bench.core.compare import compare
from bench.core.reports import REPORTS, SUMMARY, read_reports
from bench.core.run_all import SUITES

FIRST, SECOND = REPORTS / "quick" / "first", REPORTS / "quick" / "second"
MOST_S = 300


def test_two_quick_runs_agree_within_the_noise_that_they_state() -> None:
    comparison = compare(read_reports(FIRST), read_reports(SECOND))
    assert {pair.suite for pair in comparison.pairs} == {suite.name for suite in SUITES}
    assert comparison.regressions == ()
    assert comparison.missing == ()


def test_a_quick_run_of_everything_takes_five_minutes_at_most() -> None:
    for folder in (FIRST, SECOND):
        summary = json.loads((folder / SUMMARY).read_text("utf-8"))
        taken = [sum(suite["seconds"]) for suite in summary["suites"].values()]
        assert len(taken) == len(SUITES)
        assert sum(taken) <= MOST_S
