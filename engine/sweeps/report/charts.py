"""Charts: pairs by score, pairs expected and found, lines opened by week."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from engine.formatting import count, plural
from engine.matching.calibration import CalibrationCurve, Rate
from engine.sweeps.report.contents import format_rate
from engine.sweeps.report.views import (
    WIDTH,
    Scale,
    chart,
    draw_x_axis,
    draw_y_axis,
    line,
    linear_ticks,
    log_ticks,
    path,
    rect,
    text,
    whole_decades,
)
from engine.sweeps.risk import Week

_LEFT, _RIGHT = 76.0, WIDTH - 16

BIN = 0.01
"""Width of a bar of the histogram, in score."""

_BINS_BELOW = 12
_TOP, _BOTTOM = 44.0, 310.0
# A bar of one pair must be seen on a scale that has no zero.
_FLOOR = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class ScoreBins:
    """Bins of score: `edges` float64[n + 1], `found` int64[n].

    One edge is the threshold; the `below` bins before it show what strangers would bring there,
    but no pair was kept. `strangers` float64[n, 3] is what chance brings to each bin (value, low,
    high), NaN beyond what the calibration supports. `ends_at` is the score where that begins, and
    `bound` the most strangers beyond it or the threshold.
    """

    edges: NDArray[np.float64]
    below: int
    found: NDArray[np.int64]
    strangers: NDArray[np.float64]
    ends_at: float
    bound: float

    @property
    def threshold(self) -> float:
        return float(self.edges[self.below])


def count_scores(
    scores: NDArray[np.float32], threshold: float, comparisons: int, curve: CalibrationCurve
) -> ScoreBins:
    """Counts the pairs in each bin, and the strangers that `comparisons` bring to it."""
    below = min(_BINS_BELOW, math.floor((threshold + 1) / BIN))
    above = max(math.ceil((1 - threshold) / BIN - 1e-6), 1)
    edges = threshold + BIN * np.arange(-below, above + 1, dtype=np.float64)
    # A score that rounding put beyond an end belongs to the bin there.
    found, _ = np.histogram(np.clip(scores, threshold, edges[-1]), edges)
    strangers = np.full((len(found), 3), np.nan)
    for number, (low, high) in enumerate(pairwise(edges.tolist())):
        here, over = curve.fmr_at(low), curve.fmr_at(high)
        if not here.is_bound and not over.is_bound:
            share = 1 - over.value / here.value
            strangers[number] = np.array([here.value, here.low, here.high]) * share * comparisons
    ends_at = curve.points[-1].threshold
    bound = curve.fmr_at(max(threshold, math.nextafter(ends_at, math.inf))).high * comparisons
    return ScoreBins(edges, below, found, strangers, ends_at, bound)


def draw_scores(counted: ScoreBins) -> Markup:
    """Bars for the pairs found, and a curve with its band for strangers, where it is known."""
    known = counted.strangers[~np.isnan(counted.strangers)]
    highest = max(float(counted.found.max()), float(known.max(initial=10.0)))
    x = Scale(float(counted.edges[0]), float(counted.edges[-1]), _LEFT, _RIGHT)
    y = Scale(_FLOOR, whole_decades(1.0, highest)[1], _BOTTOM, _TOP, is_log=True)
    label = (
        f"Histogram: {int(counted.found.sum()):,} pairs by score, from the threshold "
        f"{counted.threshold:.3f} to 1. Its numbers are in the table below."
    )
    parts = [
        *_draw_unsupported(counted, x),
        *_draw_score_axes(x, y),
        *_draw_score_bars(counted, x, y),
        *_draw_strangers(counted, x, y),
        *_draw_threshold(counted.threshold, x),
    ]
    return chart(WIDTH, 360.0, label, parts)


def _draw_unsupported(counted: ScoreBins, x: Scale) -> list[Markup]:
    if counted.ends_at >= x.high:
        return []
    start = x(counted.ends_at)
    label = f"beyond the calibration: at most {count(counted.bound)} strangers in all"
    return [
        rect(start, _TOP, _RIGHT - start, _BOTTOM - _TOP, class_="unknown"),
        text(_RIGHT, _TOP - 8, label, class_="tick", text_anchor="end"),
    ]


def _draw_score_axes(x: Scale, y: Scale) -> list[Markup]:
    scores = [(value, f"{value:.2f}") for value in linear_ticks(x.low, x.high, 12)]
    return [
        *draw_y_axis(x, y, [(value, count(value)) for value in log_ticks(y.low, y.high)]),
        *draw_x_axis(x, _BOTTOM, scores, text_anchor="middle"),
        text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, "score", class_="tick", text_anchor="middle"),
        text(0.0, 13.0, f"pairs in each {BIN:g} of score", class_="tick"),
    ]


def _draw_score_bars(counted: ScoreBins, x: Scale, y: Scale) -> list[Markup]:
    bars = []
    for (low, high), found in zip(
        pairwise(counted.edges.tolist()), counted.found.tolist(), strict=True
    ):
        if found:
            left, top, width = x(low) + 0.75, y(found), x(high) - x(low) - 1.5
            bars.append(rect(left, top, width, _BOTTOM - top, class_="bar"))
    return bars


def _draw_strangers(counted: ScoreBins, x: Scale, y: Scale) -> list[Markup]:
    middles = (counted.edges[:-1] + counted.edges[1:]) / 2
    known = ~np.isnan(counted.strangers[:, 0])
    if not known.any():
        return []
    places = [x(float(middle)) for middle in middles[known]]
    value, low, high = (
        [(place, y(float(one))) for place, one in zip(places, column, strict=True)]
        for column in counted.strangers[known].T
    )
    band = path([*low, *reversed(high)], closed=True, class_="band")
    return [band, path(value, class_="expected curve")]


def _draw_threshold(threshold: float, x: Scale) -> list[Markup]:
    at = x(threshold)
    anchor, shift = ("end", 0.0) if at > WIDTH / 5 else ("start", 4.0)
    label = f"threshold {threshold:.3f}"
    return [
        line(at, _TOP - 4, at, _BOTTOM + 5, class_="threshold"),
        text(at + shift, _TOP - 8, label, class_="value", text_anchor=anchor),
    ]


_ZERO, _CHANCE_LEFT, _CHANCE_RIGHT, _CHANCE_BOTTOM = 150.0, 210.0, WIDTH - 40, 116.0
_EXPECTED_Y, _FOUND_Y = 34.0, 80.0
_LEAST = 0.1
_MARK = 8.0


def draw_chance(expected: Rate, found: int) -> Markup:
    """A band for the interval of what is expected by chance, a diamond for what was found; zero,
    which a scale of powers of ten lacks, stands by itself on the left."""
    seen = [value for value in (expected.low, expected.value, expected.high, found) if value > 0]
    low, high = whole_decades(max(min(seen, default=1.0), _LEAST), max([*seen, 10.0]))
    scale = Scale(low, high, _CHANCE_LEFT, _CHANCE_RIGHT, is_log=True)
    label = f"Expected by chance: {format_rate(expected)} pairs. Found: {found:,} pairs."
    parts = [
        *_draw_chance_axis(scale),
        *_draw_expected(expected, scale),
        *_draw_found(found, scale),
    ]
    return chart(WIDTH, 162.0, label, parts)


def _place(value: float, scale: Scale) -> float:
    return scale(value) if value > 0 else _ZERO


def _draw_chance_axis(scale: Scale) -> list[Markup]:
    # From nothing to the first power of ten is no distance on such a scale: the line is broken.
    parts = [
        line(_ZERO, _CHANCE_BOTTOM, _CHANCE_LEFT, _CHANCE_BOTTOM, class_="axis break"),
        line(_CHANCE_LEFT, _CHANCE_BOTTOM, _CHANCE_RIGHT, _CHANCE_BOTTOM, class_="axis"),
    ]
    factors = (1, 2, 5) if scale.high <= 100 * scale.low else (1,)
    for value in [0, *log_ticks(scale.low, scale.high, factors)]:
        x = _place(value, scale)
        parts.append(line(x, 12.0, x, _CHANCE_BOTTOM, class_="grid"))
        label = count(value)
        parts.append(text(x, _CHANCE_BOTTOM + 18, label, class_="tick", text_anchor="middle"))
    title = "pairs, on a scale of powers of ten"
    parts.append(text(_CHANCE_RIGHT, _CHANCE_BOTTOM + 40, title, class_="tick", text_anchor="end"))
    return parts


def _draw_expected(expected: Rate, scale: Scale) -> list[Markup]:
    low, high = _place(expected.low, scale), _place(expected.high, scale)
    width, style = max(high - low, 3.0), "bound" if expected.is_bound else "band"
    parts = [
        text(0.0, _EXPECTED_Y + 5, "Expected by chance", class_="row"),
        rect(low, _EXPECTED_Y - 9, width, 18.0, class_=style),
    ]
    if not expected.is_bound:
        x = _place(expected.value, scale)
        parts.append(line(x, _EXPECTED_Y - 13, x, _EXPECTED_Y + 13, class_="expected"))
    parts.append(_label(low + width, _EXPECTED_Y, format_rate(expected), scale))
    return parts


def _draw_found(found: int, scale: Scale) -> list[Markup]:
    x, y = _place(found, scale), _FOUND_Y
    diamond = [(x, y - _MARK), (x + _MARK, y), (x, y + _MARK), (x - _MARK, y)]
    return [
        text(0.0, y + 5, "Found", class_="row"),
        line(_ZERO, y, x, y, class_="stem"),
        path(diamond, closed=True, class_="found"),
        _label(x + _MARK, y, f"{found:,}", scale),
    ]


def _label(x: float, y: float, content: str, scale: Scale) -> Markup:
    """On the right of a mark, or above it where there is no room."""
    if x + 8 + 7.5 * len(content) > WIDTH:
        return text(scale.end, y - 16, content, class_="value", text_anchor="end")
    return text(x + 8, y + 5, content, class_="value")


_WEEKS_TOP, _WEEKS_BOTTOM = 30.0, 200.0
_MONTHS_LABELLED = 14


def draw_timeline(weeks: Sequence[Week]) -> Markup:
    """A bar for each week, quiet ones included; the busiest is named. `weeks` is not empty."""
    most = max(week.lines for week in weeks)
    counts = linear_ticks(0.0, max(most, 1), 4, least_step=1.0, covers=True)
    x = Scale(0.0, len(weeks), _LEFT, _RIGHT)
    y = Scale(0.0, counts[-1], _WEEKS_BOTTOM, _WEEKS_TOP)
    busiest = next(number for number, week in enumerate(weeks) if week.lines == most)
    label = (
        f"Lines opened a week, {weeks[0].monday} to {weeks[-1].monday}; most in the week of "
        f"{weeks[busiest].monday}: {most:,}."
    )
    parts = [
        text(0.0, _WEEKS_TOP - 15, "lines opened", class_="tick"),
        *draw_y_axis(x, y, [(value, f"{value:,.0f}") for value in counts]),
        *draw_x_axis(x, _WEEKS_BOTTOM, _label_months(weeks)),
        *_draw_weeks(weeks, busiest, x, y),
    ]
    return chart(WIDTH, 236.0, label, parts)


def _draw_weeks(weeks: Sequence[Week], busiest: int, x: Scale, y: Scale) -> list[Markup]:
    room = x(1) - x(0)
    width = min(room - min(room * 0.15, 2.0), 60.0)
    parts = []
    for number, week in enumerate(weeks):
        left, top = x(number + 0.5) - width / 2, y(week.lines)
        style = "bar peak" if number == busiest else "bar"
        title = f"Week of {week.monday}: {plural(week.lines, 'line')}"
        parts.append(rect(left, top, width, _WEEKS_BOTTOM - top, title=title, class_=style))
    middle, week = x(busiest + 0.5), weeks[busiest]
    anchor = "start" if middle < WIDTH / 4 else "end" if middle > WIDTH * 3 / 4 else "middle"
    named = f"week of {week.monday}: {week.lines:,}"
    parts.append(text(middle, y(week.lines) - 7, named, class_="value", text_anchor=anchor))
    return parts


def _label_months(weeks: Sequence[Week]) -> list[tuple[float, str]]:
    """A tick where a month begins; where they are many, only every third or twelfth."""
    starts = [
        (number, week.monday)
        for number, week in enumerate(weeks)
        if not number or week.monday.month != weeks[number - 1].monday.month
    ]
    every = next(k for k in (1, 3, 12) if len(starts) <= k * _MONTHS_LABELLED or k == 12)
    return [
        (float(number), monday.strftime("%b %Y"))
        for number, monday in starts
        if (monday.month - 1) % every == 0
    ]
