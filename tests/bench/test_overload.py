"""What a storm tells where there is nothing to tell: JSON has neither NaN nor infinity."""

from __future__ import annotations

import json
from dataclasses import asdict

from bench.core.reports import Figure
from bench.suites.serve.overload import OverloadRun
from tests.bench.test_serve_measures import make_record


def tell(overload_run: OverloadRun) -> dict[str, Figure]:
    figures = overload_run.list_figures()
    json.dumps([asdict(one) for one in figures], allow_nan=False)
    return {one.name: one for one in figures}


def test_a_p99_that_never_came_back_and_a_storm_without_refusals_are_skipped_by_name() -> None:
    calm = make_record([200] * 100, [10.0] * 100)
    slow = make_record([200] * 150, [80.0] * 150)
    figures = tell(OverloadRun(rate=10.0, calm=calm, storm=calm, after=slow))
    back = figures["afterwards: p99 is back after"]
    assert (back.value, back.skipped) == (None, "never within 15 s")
    refused = figures["3 times the load: refused, p99"]
    assert (refused.value, refused.skipped) == (None, "none was refused")
    assert figures["3 times the load: refused (429)"].value == 0


def test_a_storm_that_refuses_everybody_has_no_latency_of_the_accepted() -> None:
    calm = make_record([200] * 100, [10.0] * 100)
    storm = make_record([429] * 100, [2.0] * 100, retry_s=1)
    figures = tell(OverloadRun(rate=10.0, calm=calm, storm=storm, after=calm))
    for name in ("p50", "p99"):
        assert figures[f"3 times the load: accepted, {name}"].skipped == "none was accepted"
    assert figures["3 times the load: refused, p99"].value is not None
