""""""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.machine import Machine, look
from bench.core.reports import (
    LEFT_OUT,
    PART,
    REFERENCE,
    Check,
    Direction,
    Figure,
    Goal,
    Report,
    Result,
    Skipped,
    check_goals,
    key_all,
    load_goals,
    merge_blocks,
    renew,
    require_renewable,
    spread,
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
    for name in ("read_gb_per_s", "int8_gops", "float_gflops"):
        del document["machine"][name]
    document["machine"]["shoe_size"] = 43
    assert Report.from_dict(document) == Report(machine, (), (GOOD,))


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


def test_a_measured_figure_is_held_against_its_goal(machine: Machine) -> None:
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


def test_a_goal_in_seconds_or_a_rate_is_the_slower_machines_own(machine: Machine) -> None:
    slow = replace(machine, python_mops=REFERENCE["python_mops"] / 2)
    rate, seconds = (replace(make_goal(direction), kernel="python_mops") for direction in Direction)
    assert check_goals([rate], "tiny", {"speed": 1.0}, slow) == (Check("speed", 1.0, 1.0, True),)
    assert check_goals([seconds], "tiny", {"speed": 5.0}, slow) == (
        Check("speed", 5.0, 4.0, False),
    )
    (unknown,) = check_goals([rate], "tiny", {"speed": 9.0}, machine)
    assert unknown.holds is None


def test_a_kernel_that_no_run_measures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(ENTRY + 'kernel = "luck"\n', encoding="utf-8")
    with pytest.raises(RequestError, match="no kernel luck"):
        load_goals(path)


def test_a_goal_for_a_figure_that_no_suite_measures_is_refused(machine: Machine) -> None:
    with pytest.raises(RequestError, match="has no figure speed"):
        check_goals([make_goal(Direction.AT_LEAST)], "tiny", {"sped": 1.0}, machine)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("figure = ", "not a list of"),
        ("[other]", "not a list of"),
        (ENTRY.replace("at_least", "about"), "figure speed: Invalid enum value 'about'"),
        (ENTRY.replace("goal = 2", 'goal = "2"'), "figure speed: Expected `float`, got `str`"),
        (ENTRY.replace("goal = 2", "goal = true"), "figure speed: Expected `float`, got `bool`"),
        (ENTRY.replace('unit = "times"', ""), "figure speed: Object missing required field `unit`"),
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


MACHINE = Machine(
    cpu="one",
    flags=(),
    cores=2,
    memory_bytes=1,
    copy_gb_per_s=1.0,
    system="",
    python="",
    packages={},
    load_at_start=0.0,
    warnings=(),
)


def block(speed: float, *checks: Check, ratio: float = 2.0) -> Report:
    figures = (
        Figure("ours", "ms", speed, speed - 1, speed + 1, ratio),
        Figure("pairs", "pairs", 7.0),
        Figure.skip("theirs", "ms", "not here"),
    )
    results = (Result("Speed", {"references": 10}, figures),)
    return Report(MACHINE, results, checks, "search")


def test_a_figure_of_blocks_is_their_median_and_its_noise_what_they_differ_by() -> None:
    merged = merge_blocks([block(10, ratio=2.0), block(12, ratio=2.2), block(11, ratio=2.1)])
    ours, pairs, theirs = merged.results[0].figures
    assert (ours.value, ours.low, ours.high, ours.ratio) == (11, 10, 12, 2.1)
    assert ours.noise == pytest.approx(1 / 11)
    assert ours.ratio_noise == pytest.approx(0.1 / 2.1)
    assert pairs.noise == 0
    assert theirs.skipped == "not here"
    assert merged.blocks == 3


def test_one_block_has_no_noise_to_state() -> None:
    assert merge_blocks([block(10)]) == block(10)
    assert spread([4.0]) is None
    assert spread([0.0, 0.0, 0.0]) is None


def test_one_block_that_errs_fails_the_report_and_one_slow_block_does_not() -> None:
    def checked(same: float, speedup: float) -> Report:
        return block(
            10,
            Check("identical_answers", same, 1.0, same >= 1),
            Check("one_query_speedup", speedup, 6.0, speedup >= 6),
        )

    merged = merge_blocks([checked(1.0, 7.0), checked(0.99, 5.0), checked(1.0, 8.0)])
    assert [check.value for check in merged.checks] == [0.99, 7.0]
    assert [check.holds for check in merged.checks] == [False, True]


def test_a_skipped_promise_stays_skipped() -> None:
    skipped = Check("one_query_speedup", None, 6.0, None, "promised for a million")
    assert merge_blocks([block(1, skipped), block(2, skipped)]).checks == (skipped,)


def test_an_error_counts_though_another_block_did_not_look_for_it() -> None:
    skipped = Check("identical_answers", None, 1.0, None, "left out")
    wrong = Check("identical_answers", 0.99, 1.0, holds=False)
    (check,) = merge_blocks([block(1, skipped), block(2, wrong)]).checks
    assert (check.value, check.holds) == (0.99, False)


def test_what_a_block_lacks_is_taken_from_the_others() -> None:
    short = replace(block(9), results=())
    (ours, *_) = merge_blocks([block(10), short, block(12)]).results[0].figures
    assert ours.value == 11


def test_figures_of_one_name_are_told_apart_by_unit_and_order() -> None:
    figures = [Figure("save", "s", 1.0), Figure("save", "MB", 2.0), Figure("save", "s", 3.0)]
    assert [key for key, _ in key_all(figures)] == [
        ("save", "s", 0),
        ("save", "MB", 0),
        ("save", "s", 1),
    ]


def test_a_renewed_report_has_what_was_measured_again_and_the_rest_as_it_was(
    machine: Machine,
) -> None:
    def part(name: str, value: float) -> Result:
        return Result("Speed", {PART: name}, (Figure("one", "ms", value),))

    left_out = Check("a", None, 1.0, None, f"{LEFT_OUT} start")
    old = Report(machine, (part("start", 1.0), part("kills", 2.0)), (GOOD, BAD), "serve")
    new = Report(machine, (part("kills", 3.0),), (left_out, replace(BAD, value=0.7)), "serve")
    renewed = renew(old, new)
    assert {one.setup[PART]: one.figures[0].value for one in renewed.results} == {
        "start": 1.0,
        "kills": 3.0,
    }
    assert renewed.checks == (GOOD, replace(BAD, value=0.7))
    # Results of a suite that names no parts are told apart by their names.
    old = Report(machine, (Result("Kills", {}, ()), Result("Moves", {"n": 1}, ())), (), "shards")
    renewed = renew(old, Report(machine, (Result("Moves", {"n": 2}, ()),), (), "shards"))
    assert [(one.name, one.setup) for one in renewed.results] == [
        ("Moves", {"n": 2}),
        ("Kills", {}),
    ]


def test_a_report_of_another_suite_or_machine_is_not_renewed(machine: Machine) -> None:
    report = Report(machine, (), (), "serve")
    require_renewable(report, "serve", replace(machine, load_at_start=9.0))
    for suite, other in (("shards", machine), ("serve", replace(machine, cores=99))):
        with pytest.raises(RequestError, match="another suite or machine"):
            require_renewable(report, suite, other)
