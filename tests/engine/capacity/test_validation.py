"""The simulation is compared with a measured run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.capacity.figures import USUAL, PlanFigures, gather_figures, read_report, read_reports
from engine.capacity.validation import TOLERANCE, ComparedFigure, check_report
from engine.errors import RequestError

COMMITTED = Path(__file__).parents[3] / "bench" / "reports"
SERVED = COMMITTED / "serve.json"
Write = Callable[..., Path]


@pytest.fixture
def served(write_report: Write) -> Callable[..., Path]:
    """A run of 65 a second with 10 connections: 2 cores, 30 ms of them for each."""

    def write(
        rate: float = 65.0, p50_ms: float = 44.0, p99_ms: float = 70.0, own_ms: float = 26.3
    ) -> Path:
        setup: dict[str, Any] = {"references": 100_000, "connections": 10}
        return write_report(
            {
                "Enrollments with two photographs": (setup, {"over HTTP": ("1/s", rate)}),
                "Processor time of an enrollment": (
                    setup,
                    {
                        "in process: all": ("ms of a core", own_ms),
                        "over HTTP: all": ("ms of a core", 30.0),
                    },
                ),
                "Enrollments below and far above what it can do": (
                    setup,
                    {
                        "100 %: answers in a closed loop": ("1/s", rate),
                        "70 %: p50": ("ms", p50_ms),
                        "70 %: p99": ("ms", p99_ms),
                    },
                ),
            }
        )

    return write


def test_a_run_as_simulated_is_within_a_fifth(
    served: Callable[..., Path], figures: PlanFigures
) -> None:
    check = check_report(read_report(served()), figures)
    held = {row.name: row.holds for row in check.rows}
    assert held == {
        "closed loop, rate": True,
        "at 70 %, p50": None,
        "at 70 %, p99": None,
        "load of this p50": True,
        "load of this p99": True,
    }
    assert check.holds
    document = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert document["rows"][0]["measured"] == 65
    assert document["holds"] is True
    predicted = {row["name"]: row["is_predicted"] for row in document["rows"]}
    assert {name for name, is_predicted in predicted.items() if not is_predicted} == {
        "closed loop, rate"
    }
    assert document["given"]["arrivals at 70 %, evenly spaced"] == "45.5 a second"
    assert any("follows from the processor time given" in note for note in document["notes"])


def test_the_tail_that_is_predicted_is_held_to(
    served: Callable[..., Path], figures: PlanFigures
) -> None:
    check = check_report(read_report(served(p99_ms=200.0)), figures)
    assert [row.holds for row in check.rows] == [True, None, None, True, False]
    assert not check.holds


def test_a_row_that_is_not_checked_is_never_off() -> None:
    near, far = ComparedFigure("p50", "ms", 100.0, 119.0), ComparedFigure("p50", "ms", 100.0, 79.0)
    assert (near.holds, near.verdict) == (True, "within 20 %")
    assert (far.holds, far.verdict) == (False, "off")
    unchecked = ComparedFigure("p99", "ms", 100.0, 300.0, is_held=False)
    assert (unchecked.holds, unchecked.verdict) == (None, "not checked")


def test_a_service_that_is_slower_than_its_processor_time_is_seen(
    served: Callable[..., Path], figures: PlanFigures
) -> None:
    check = check_report(read_report(served(rate=40.0, p50_ms=150.0, p99_ms=300.0)), figures)
    assert [row.holds for row in check.rows] == [False, None, None, False, False]
    assert all(check.rows[place].ratio > 1 + TOLERANCE for place in (0, 3, 4))
    assert all(check.rows[place].ratio < 1 - TOLERANCE for place in (1, 2))
    assert not check.holds


def test_a_report_of_another_suite_cannot_be_checked(
    write_report: Write, figures: PlanFigures
) -> None:
    with pytest.raises(RequestError, match="sosie bench serve"):
        check_report(read_report(write_report({})), figures)
    other = {"another": ("1/s", 1.0)}
    empty = {"Enrollments with two photographs": ({"references": 1, "connections": 1}, other)}
    with pytest.raises(RequestError, match="lacks figures"):
        check_report(read_report(write_report(empty)), figures)


def test_the_committed_run_of_the_service_is_simulated_within_a_fifth() -> None:
    report = read_report(SERVED)
    figures = PlanFigures(report.machine, USUAL, gather_figures(read_reports(COMMITTED)))
    check = check_report(report, figures)
    rows = {row.name: row for row in check.rows}
    held = {name: row.holds for name, row in rows.items()}
    assert held == {
        "closed loop, rate": True,
        "closed loop, p50": True,
        "closed loop, p99": None,
        "at 70 %, p50": None,
        "at 70 %, p99": None,
        "load of this p50": True,
        "load of this p99": True,
    }
