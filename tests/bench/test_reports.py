"""Reports, goals and what is held against them."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.core.machine import Machine, look
from bench.core.render import tabulate_promises
from bench.core.reports import (
    REFERENCE,
    Check,
    Direction,
    Figure,
    Goal,
    Report,
    Result,
    Skipped,
    check_goals,
    load_goals,
    write_report,
)
from engine.errors import RequestError

GOOD = Check("a", 2.0, 1.0, True)
BAD = Check("b", 0.5, 1.0, False)
SKIPPED = Check("c", None, 1.0, None, "not here")


@pytest.fixture(scope="module")
def machine() -> Machine:
    return look()


def test_a_figure_of_repeats_is_their_median_with_quartiles() -> None:
    figure = Figure.of("speed", "ms", [5.0, 1.0, 2.0, 3.0, 4.0], ratio=1.5)
    samples = (5.0, 1.0, 2.0, 3.0, 4.0)
    assert figure == Figure("speed", "ms", 3.0, 2.0, 4.0, 1.5, samples=samples)


def test_one_missed_goal_fails_the_report_and_a_skipped_one_does_not(machine) -> None:
    assert Report(machine, (), (GOOD, SKIPPED)).holds
    assert not Report(machine, (), (GOOD, BAD, SKIPPED)).holds


def test_the_document_is_that_of_pytest_benchmark_and_is_read_back(machine) -> None:
    figures = (
        Figure.of("one", "ms", [1.0, 2.0, 4.0], 1.5),
        Figure("two", "GB", 3.0),
        Figure.skip("three", "ms", "not here"),
    )
    report = Report(machine, (Result("Speed", {"n": 3}, figures),), (GOOD, SKIPPED), "search")
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version"} < set(document)
    timed, counted = document["benchmarks"]
    assert (timed["group"], timed["name"]) == ("Speed", "one")
    assert timed["extra_info"]["setup"] == {"n": 3}
    assert timed["stats"]["median"] == pytest.approx(0.002)
    assert timed["stats"]["max"] == pytest.approx(0.004)
    assert counted["stats"]["median"] == 3
    assert document["skipped"][0]["extra_info"]["skipped"] == "not here"
    assert list(document["checks"][0]) == ["name", "value", "goal", "holds"]
    assert document["checks"][1]["skipped"] == "not here"
    assert Report.from_dict(document) == report


def test_pytest_benchmark_compares_two_reports(machine, tmp_path) -> None:
    figures = (Figure.of("one", "ms", [1.0, 2.0, 4.0]), Figure("two", "s", 3.0))
    report = Report(machine, (Result("Speed", {}, figures),), (), "search")
    paths = [tmp_path / name for name in ("before.json", "after.json")]
    for path in paths:
        write_report(path, report)
    command = [
        sys.executable,
        "-m",
        "pytest_benchmark",
        "compare",
        "--csv",
        str(tmp_path / "table"),
    ]
    subprocess.run([*command, *map(str, paths)], check=True, capture_output=True, cwd=tmp_path)
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 5


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


def test_a_measured_figure_is_held_against_its_goal(machine) -> None:
    least, most = (make_goal(direction) for direction in Direction)
    for value, holds in ((2.5, True), (2.0, True), (1.5, False)):
        assert check_goals([least], "tiny", {"speed": value}, machine) == (
            Check("speed", value, 2.0, holds),
        )
    assert [check.holds for check in check_goals([most], "tiny", {"speed": 2.5}, machine)] == [
        False
    ]
    (skipped,) = check_goals([least], "tiny", {"speed": Skipped("no such device")}, machine)
    assert skipped == Check("speed", None, 2.0, None, "no such device")
    assert check_goals([least], "other", {}, machine) == ()


def test_a_goal_in_seconds_or_a_rate_is_the_slower_machines_own(machine) -> None:
    slow = replace(machine, python_mops=REFERENCE["python_mops"] / 2)
    rate, seconds = (replace(make_goal(direction), kernel="python_mops") for direction in Direction)
    assert check_goals([rate], "tiny", {"speed": 1.0}, slow) == (Check("speed", 1.0, 1.0, True),)
    assert check_goals([seconds], "tiny", {"speed": 5.0}, slow) == (
        Check("speed", 5.0, 4.0, False),
    )
    (unknown,) = check_goals([rate], "tiny", {"speed": 9.0}, machine)
    assert unknown.holds is None


@dataclass(frozen=True)
class TinyConfig:
    references: int = 100
    dim: int = 8
    people: int | None = None
    folder: Path = Path("/proc")
    seed: int = 5


def test_small_sizes_promise_no_speed_and_forgive_no_error(machine, monkeypatch) -> None:
    least, error = make_goal(Direction.AT_LEAST), make_goal(Direction.AT_MOST, 0.0)
    small = TinyConfig(references=99)
    assert not least.explain_unpromised(TinyConfig(references=200, seed=0))
    assert not error.explain_unpromised(small)
    for other in (small, TinyConfig(dim=16), TinyConfig(people=3)):
        assert "default sizes" in least.explain_unpromised(other)
    (check,) = check_goals([least], "tiny", {"speed": 1.0}, machine, small)
    assert (check.holds, check.value) == (None, None)
    for goal in (least, error):
        many = replace(goal, n=200)
        assert many.explain_unpromised(TinyConfig()) == "promised for 200 references or more"
        assert not many.explain_unpromised(TinyConfig(references=200))
    monkeypatch.setattr("bench.core.reports.filesystem_of", lambda _: "tmpfs")
    assert "not durable" in least.explain_unpromised(TinyConfig())
    assert not error.explain_unpromised(TinyConfig())


def test_a_goal_for_a_figure_that_no_suite_measures_is_refused(machine) -> None:
    with pytest.raises(RequestError, match="has no figure speed"):
        check_goals([make_goal(Direction.AT_LEAST)], "tiny", {"sped": 1.0}, machine)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("figure = ", "cannot read"),
        ("[other]", "cannot read"),
        (ENTRY.replace("at_least", "about"), "Invalid enum value 'about'"),
        (ENTRY.replace("goal = 2", 'goal = "2"'), "Expected `float`, got `str`"),
        (ENTRY.replace("goal = 2", "goal = true"), "Expected `float`, got `bool`"),
        (ENTRY.replace('unit = "times"', ""), "missing required field `unit`"),
        (ENTRY + 'kernel = "luck"\n', "no kernel luck"),
    ],
)
def test_a_wrong_targets_file_is_refused_by_what_is_wrong(
    tmp_path, text: str, message: str, monkeypatch
) -> None:
    path = tmp_path / "targets.toml"
    monkeypatch.setattr("bench.core.reports.TARGETS", path)
    with pytest.raises(RequestError, match="cannot read the targets"):
        load_goals()
    path.write_text(text)
    with pytest.raises(RequestError, match=message):
        load_goals()


def test_a_promise_that_never_came_is_said_to_be_missed() -> None:
    check = Check("match_recovery_over_storm", None, 1.0, False)
    table = tabulate_promises({"serve": Report(look(), (), (check,), "serve")})
    assert "| never | ≤ 1 | **✗** |" in table


PROMISED = "ca3be047ec9b01bb58c9decf1521d3279ace46e5b493d0df929b29566a940acd"
"""Of all goals with their suites, names, directions and values: who changes one changes it too."""


def test_no_goal_is_moved_dropped_or_added_unseen() -> None:
    goals = sorted((one.suite, one.name, one.direction.value, one.goal) for one in load_goals())
    assert hashlib.sha256(repr(goals).encode()).hexdigest() == PROMISED, goals


def test_every_goal_in_a_time_or_a_rate_names_the_kernel_that_bounds_it() -> None:
    """But for what is promised on any machine."""
    absolute = {"add_beside_passes_ms", "sequence_beside_passes_ms"}
    for goal in load_goals():
        is_timed = goal.unit in {"s", "ms", "us"} or goal.unit.endswith("/s")
        assert not is_timed or goal.kernel or goal.name in absolute, goal.name
