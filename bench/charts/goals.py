"""How far each promise of a size or a speed is kept or missed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.charts.canvas import BAD, GOOD, close, draw_bars, open_panels
from bench.checks import Direction, load_goals
from bench.report import Report


def draw_goals(reports: Mapping[str, Report], path: Path) -> bool:
    """Bars from 1, where the goal is; False where no promise was measured."""
    margins = sorted(_list_margins(reports), key=lambda one: one[1])
    if not margins:
        return False
    figure, (axis,) = open_panels(0.26 * len(margins) + 1.3)
    values = [value for _, value in margins]
    colours = [GOOD if value >= 1 else BAD for value in values]
    draw_bars(axis, [name for name, _ in margins], values, colours)
    axis.set_title("Promises: times as good as the goal")
    close(figure, path, "left of 1: missed; goals that allow no error at all are not drawn")
    return True


def _list_margins(reports: Mapping[str, Report]) -> Iterator[tuple[str, float]]:
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    for suite, report in reports.items():
        for check in report.checks:
            goal = goals.get((report.suite or suite, check.name))
            if goal is None or goal.counts_errors or check.value is None or check.value <= 0:
                continue
            is_least = goal.direction is Direction.AT_LEAST
            margin = check.value / check.goal if is_least else check.goal / check.value
            yield f"{goal.suite}: {check.name.replace('_', ' ')}", margin
