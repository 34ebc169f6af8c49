from __future__ import annotations

import json

import pytest

from bench.machine import Machine, look
from bench.report import Check, Figure, Report, Result

GOOD = Check("a", 2.0, 1.0, True)
BAD = Check("b", 0.5, 1.0, False)
SKIPPED = Check("c", None, 1.0, None, "not here")


@pytest.fixture(scope="module")
def machine() -> Machine:
    return look()


def test_a_figure_of_repeats_is_their_median_with_quartiles() -> None:
    figure = Figure.of("speed", "ms", [5.0, 1.0, 2.0, 3.0, 4.0], ratio=1.5)
    assert figure == Figure("speed", "ms", 3.0, 2.0, 4.0, 1.5, repeats=5)


def test_one_missed_goal_fails_the_report_and_a_skipped_one_does_not(machine: Machine) -> None:
    assert Report(machine, (), (GOOD, SKIPPED)).holds
    assert not Report(machine, (), (GOOD, BAD, SKIPPED)).holds


def test_the_document_has_the_suite_machine_results_and_checks_and_is_read_back(
    machine: Machine,
) -> None:
    figures = (Figure("one", "ms", 1.0), Figure.skip("two", "ms", "not here"))
    results = (Result("Speed", {"n": 3}, figures),)
    report = Report(machine, results, (GOOD, SKIPPED), "search", 2)
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(document) == ["suite", "blocks", "machine", "results", "checks"]
    assert document["results"][0]["setup"] == {"n": 3}
    assert document["results"][0]["figures"][1]["skipped"] == "not here"
    assert list(document["checks"][0]) == ["name", "value", "goal", "holds"]
    assert document["checks"][1]["skipped"] == "not here"
    assert Report.from_dict(document) == report


def test_a_report_of_an_earlier_version_is_read_with_what_it_has(machine: Machine) -> None:
    document = json.loads(json.dumps(Report(machine, (), (GOOD,)).to_dict()))
    for name in ("suite", "blocks"):
        del document[name]
    for name in ("read_gb_per_s", "int8_gops"):
        del document["machine"][name]
    document["machine"]["shoe_size"] = 43
    assert Report.from_dict(document) == Report(machine, (), (GOOD,))
