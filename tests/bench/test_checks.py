from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.checks import Direction, Goal, Skipped, check_goals, load_goals
from engine.errors import RequestError

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)
ENTRY = """
[[figure]]
name = "speed"
suite = "tiny"
goal = 2
direction = "at_least"
unit = "times"
description = "how fast"
"""


def make_goal(direction: Direction, goal: float = 2.0) -> Goal:
    return Goal("speed", "tiny", goal, direction, "times", "how fast")


@given(NUMBERS, NUMBERS)
def test_a_goal_holds_on_its_good_side_and_at_its_own_value(goal: float, value: float) -> None:
    at_least, at_most = (make_goal(direction, goal) for direction in Direction)
    assert at_least.is_met(goal)
    assert at_most.is_met(goal)
    assert at_least.is_met(value) == (value >= goal)
    assert at_most.is_met(value) == (value <= goal)


def test_a_measured_figure_is_held_against_its_goal() -> None:
    goals = [make_goal(Direction.AT_LEAST)]
    (good,) = check_goals(goals, "tiny", {"speed": 2.5})
    (bad,) = check_goals(goals, "tiny", {"speed": 1.5})
    assert good.to_dict() == {"name": "speed", "value": 2.5, "goal": 2.0, "holds": True}
    assert bad.to_dict() == {"name": "speed", "value": 1.5, "goal": 2.0, "holds": False}


def test_a_skipped_figure_says_why_and_does_not_hold() -> None:
    goals = [make_goal(Direction.AT_LEAST)]
    (check,) = check_goals(goals, "tiny", {"speed": Skipped("no such device")})
    assert check.to_dict() == {
        "name": "speed",
        "value": None,
        "goal": 2.0,
        "holds": None,
        "skipped": "no such device",
    }


def test_goals_of_other_suites_are_left_alone() -> None:
    assert check_goals([make_goal(Direction.AT_LEAST)], "other", {}) == ()


def test_a_goal_for_a_figure_that_no_suite_measures_is_refused() -> None:
    with pytest.raises(RequestError, match="has no figure speed"):
        check_goals([make_goal(Direction.AT_LEAST)], "tiny", {"sped": 1.0})


def test_a_targets_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(ENTRY)
    assert load_goals(path) == (make_goal(Direction.AT_LEAST),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("figure = ", "not a list of"),
        ("[other]", "not a list of"),
        (ENTRY.replace("at_least", "about"), "figure speed: 'about' is not a valid Direction"),
        (ENTRY.replace("goal = 2", 'goal = "2"'), "figure speed: '2' must be a number"),
        (ENTRY.replace("goal = 2", "goal = true"), "figure speed: True must be a number"),
        (ENTRY.replace('unit = "times"', ""), "figure speed lacks 'unit'"),
        (ENTRY + ENTRY, "figure speed is there twice"),
    ],
)
def test_a_wrong_targets_file_is_refused_by_what_is_wrong(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=message):
        load_goals(path)


def test_a_missing_targets_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read the targets"):
        load_goals(tmp_path / "none.toml")
