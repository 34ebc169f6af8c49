"""When the lines of the groups were opened, week by week."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from engine.sweeps.report.charts.drawing import (
    WIDTH,
    Linear,
    chart,
    element,
    line,
    text,
    whole_steps,
)
from engine.sweeps.report.words import plural
from engine.sweeps.summary import Week

_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, WIDTH - 16, 30.0, 200.0
_MONTHS_LABELLED = 14


def draw_timeline(weeks: Sequence[Week]) -> Markup:
    """A bar a week, quiet weeks included; the busiest is named. `weeks` is not empty."""
    steps = whole_steps(max(week.lines for week in weeks))
    y = Linear(0.0, float(steps[-1]), _BOTTOM, _TOP)
    width = (_RIGHT - _LEFT) / len(weeks)
    busiest = max(range(len(weeks)), key=lambda number: (weeks[number].lines, -number))
    label = (
        f"Lines opened a week, {weeks[0].monday} to {weeks[-1].monday}; most in the week of "
        f"{weeks[busiest].monday}: {weeks[busiest].lines:,}."
    )
    parts = [
        *_draw_axes(steps, y),
        *_draw_months(weeks, width),
        *_draw_bars(weeks, busiest, width, y),
    ]
    return chart(WIDTH, 236.0, label, parts)


def _draw_axes(steps: Sequence[int], y: Linear) -> list[Markup]:
    parts = [text(0.0, _TOP - 15, "lines opened", class_="tick")]
    for step in steps:
        parts.append(line(_LEFT, y(step), _RIGHT, y(step), class_="grid" if step else "axis"))
        parts.append(text(_LEFT - 8, y(step) + 4, f"{step:,}", class_="tick", text_anchor="end"))
    return parts


def _draw_bars(weeks: Sequence[Week], busiest: int, width: float, y: Linear) -> list[Markup]:
    gap = min(width * 0.15, 2.0)
    breadth = min(width - gap, 60.0)
    parts = []
    for number, week in enumerate(weeks):
        left, top = _LEFT + number * width + (width - breadth) / 2, y(week.lines)
        told = element("title", f"Week of {week.monday}: {plural(week.lines, 'line')}")
        parts.append(
            element(
                "rect",
                [told],
                x=left,
                y=top,
                width=breadth,
                height=_BOTTOM - top,
                class_="bar peak" if number == busiest else "bar",
            )
        )
    middle = _LEFT + (busiest + 0.5) * width
    anchor = "start" if middle < WIDTH / 4 else "end" if middle > WIDTH * 3 / 4 else "middle"
    named = f"week of {weeks[busiest].monday}: {weeks[busiest].lines:,}"
    at = text(middle, y(weeks[busiest].lines) - 7, named, class_="value", text_anchor=anchor)
    return [*parts, at]


def _draw_months(weeks: Sequence[Week], width: float) -> list[Markup]:
    """A tick where a month begins; where they are many, only every third or twelfth."""
    starts = [
        (number, week.monday)
        for number, week in enumerate(weeks)
        if not number or week.monday.month != weeks[number - 1].monday.month
    ]
    every = next(k for k in (1, 3, 12) if len(starts) <= k * _MONTHS_LABELLED or k == 12)
    parts = []
    for number, monday in starts:
        if (monday.month - 1) % every == 0:
            x = _LEFT + number * width
            parts.append(line(x, _BOTTOM, x, _BOTTOM + 5, class_="axis"))
            parts.append(text(x, _BOTTOM + 20, monday.strftime("%b %Y"), class_="tick"))
    return parts
