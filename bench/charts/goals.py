"""How far each promise of a size or a speed is kept or missed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.charts.canvas import BAD, GOOD, close, draw_bars, note, open_panels
from bench.charts.origin import name_machines, name_seeds
from bench.checks import Direction, Goal, load_goals
from bench.pages.markdown import write_goal, write_value
from bench.report import Check, Report

_LABEL_WIDTH, _LABEL_LINES = 74, 2


@dataclass(frozen=True, slots=True)
class Kept:
    """A promise and what came of it; `margin` says how many times as good, None for no number."""

    label: str
    told: str
    holds: bool
    margin: float | None


def draw_goals(reports: Mapping[str, Report], path: Path) -> bool:
    """Bars from 1, where the goal is, and crosses; False where no promise was measured."""
    found = list(list_kept(reports))
    # What was missed without a number of times has no bar, and is told all the same.
    missed = [one for one in found if one.margin is None and not one.holds]
    bars = sorted((one for one in found if one.margin), key=lambda one: one.margin or 0)
    rows = [*missed, *bars]
    if not rows:
        return False
    figure, (axis,) = open_panels(0.34 * len(rows) + 1.6, width=12.0)
    # A cross stands where a bar of no length would end.
    values = [one.margin or 1.0 for one in rows]
    draw_bars(
        axis, [one.label for one in rows], values, [GOOD if one.holds else BAD for one in rows]
    )
    for place, one in enumerate(rows):
        if one.margin is None:
            axis.plot(1, place, "x", color=BAD, markersize=9, markeredgewidth=2)
        note(axis, one.told, max(values[place], 1), place)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_xlim(right=max(values) * 4)
    axis.set_ylim(-0.8, len(rows) - 0.2)
    axis.set_title("Promises: times as good as the goal")
    close(
        figure,
        path,
        f"{_explain(len(found) - len(rows))}\n{name_machines(reports, reports)}\n"
        f"{name_seeds(reports)}; sizes as the promises say",
    )
    return True


def _explain(undrawn: int) -> str:
    return (
        "left of 1: missed; crosses: missed where the goal is none at all, or never reached; "
        f"{undrawn} kept goals that have no number of times are not drawn"
    )


def list_kept(reports: Mapping[str, Report]) -> Iterator[Kept]:
    """Each promise that was measured."""
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    for suite, report in reports.items():
        for check in report.checks:
            goal = goals.get((report.suite or suite, check.name))
            if goal is not None and check.holds is not None:
                label = textwrap.wrap(f"{suite}: {goal.description}", _LABEL_WIDTH)
                text = "\n".join(label[:_LABEL_LINES]) + (" …" if label[_LABEL_LINES:] else "")
                yield Kept(text, _tell(check, goal), check.holds, _find_margin(check, goal))


def _tell(check: Check, goal: Goal) -> str:
    measured = "never" if check.value is None else write_value(check.value, goal.unit)
    return f"{measured} (goal {write_goal(goal)})"


def _find_margin(check: Check, goal: Goal) -> float | None:
    """How many times as good as the goal; None where either is nothing."""
    if goal.counts_errors or check.value is None or check.value <= 0 or check.goal <= 0:
        return None
    is_least = goal.direction is Direction.AT_LEAST
    return check.value / check.goal if is_least else check.goal / check.value
