"""Tables of reports: units, and what a ratio is to."""

from dataclasses import replace

import pytest

from bench.core.machine import look
from bench.core.render import name_base, tabulate_promises, tabulate_result, write_goal, write_value
from bench.core.reports import Check, Direction, Figure, Goal, Report, Result


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (1.0, "share", "100 %"),
        (47.66, "1/s", "47.66 /s"),
        (0.9984, "of 1", "0.9984"),
        (3.576e-7, "absolute", "3.576e-07"),
        (54.4, "ms", "54.4 ms"),
    ],
)
def test_a_value_has_a_unit_that_people_read(value: float, unit: str, told: str) -> None:
    assert write_value(value, unit) == told


def test_a_goal_is_written_as_what_is_held_against_it() -> None:
    goal = Goal("a", "serve", 0.85, Direction.AT_LEAST, "share", "a share")
    assert write_goal(goal) == "≥ 85 %"
    assert write_goal(replace(goal, goal=3.0, direction=Direction.AT_MOST, unit="s")) == "≤ 3"


def test_the_quartiles_of_a_share_are_percent_too() -> None:
    table = tabulate_result(Result("A", {}, (Figure("one", "share", 0.5, 0.25, 0.75),)))
    assert "| one | 50 % | 25 to 75 |" in table


def test_a_column_of_ratios_names_its_base_wherever_that_stands() -> None:
    ours, other = Figure("ours", "ms", 1.0, ratio=3.0), Figure("theirs", "ms", 3.0, ratio=1.0)
    assert name_base(Result("A", {}, (ours, other))) == "times as good as theirs"
    assert name_base(Result("A", {}, (ours,))) == "times as good as a row of another table"


def test_a_promise_that_never_came_is_said_to_be_missed() -> None:
    check = Check("match_recovery_over_storm", None, 1.0, False)
    table = tabulate_promises({"serve": Report(look(), (), (check,), "serve")})
    assert "| never | ≤ 1 | **✗** |" in table
