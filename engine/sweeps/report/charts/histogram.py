"""Scores of the pairs found, against those that strangers would reach by the calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from engine.matching.calibration import CalibrationCurve, Rate
from engine.sweeps.report.charts.drawing import (
    WIDTH,
    Linear,
    Logarithmic,
    chart,
    element,
    line,
    path,
    text,
)
from engine.sweeps.report.words import tell_count, tell_rate

BIN = 0.01
"""The width of a bar, in score."""

_BINS_BELOW = 12
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, WIDTH - 16, 44.0, 310.0
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
# A bar of one pair must be seen on a scale that has no zero.
_FLOOR = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Bins of score: `edges` float64[n + 1], `found` int64[n].

    One edge is the threshold; the `below` bins before it show what strangers would bring there,
    but no pair was kept. `strangers` float64[n, 3] is what chance brings to each bin (value, low,
    high), NaN beyond what the calibration supports. `ends_at` is the score where that begins, and
    `bound` the most strangers beyond it or the threshold; both None without a calibration.
    """

    edges: NDArray[np.float64]
    below: int
    found: NDArray[np.int64]
    strangers: NDArray[np.float64]
    ends_at: float | None = None
    bound: float | None = None

    @property
    def threshold(self) -> float:
        return float(self.edges[self.below])


def count_scores(
    scores: NDArray[np.float32], threshold: float, comparisons: int, curve: CalibrationCurve | None
) -> Scores:
    """Counts pairs a bin, and what `comparisons` of strangers bring to it."""
    below = min(_BINS_BELOW, math.floor((threshold + 1) / BIN))
    above = max(math.ceil((1 - threshold) / BIN - 1e-6), 1)
    edges = threshold + BIN * np.arange(-below, above + 1, dtype=np.float64)
    # A score that rounding put beyond an end belongs to the bin there.
    found, _ = np.histogram(np.clip(scores, threshold, edges[-1]), edges)
    strangers = np.full((len(found), 3), np.nan)
    if curve is None:
        return Scores(edges, below, found, strangers)
    for number, (low, high) in enumerate(pairwise(edges.tolist())):
        here, over = curve.fmr_at(low), curve.fmr_at(high)
        if not here.is_bound and not over.is_bound:
            share = 1 - over.value / here.value
            strangers[number] = np.array([here.value, here.low, here.high]) * share * comparisons
    ends_at = curve.points[-1].threshold
    bound = curve.fmr_at(max(threshold, math.nextafter(ends_at, math.inf))).high * comparisons
    return Scores(edges, below, found, strangers, ends_at, bound)


def draw_scores(counted: Scores) -> Markup:
    """Bars for pairs found, a curve with its band for strangers, a field where none is known."""
    known = counted.strangers[~np.isnan(counted.strangers)]
    highest = max(float(counted.found.max()), float(known.max(initial=10.0)))
    x = Linear(float(counted.edges[0]), float(counted.edges[-1]), _LEFT, _RIGHT)
    y = Logarithmic(_FLOOR, 10.0 ** math.ceil(math.log10(highest)), _BOTTOM, _TOP)
    label = (
        f"Histogram: {int(counted.found.sum()):,} pairs by score, from the threshold "
        f"{counted.threshold:.3f} to 1. Its numbers are in the table below."
    )
    parts = [
        *_draw_unsupported(counted, x),
        *_draw_axes(x, y),
        *_draw_bars(counted, x, y),
        *_draw_strangers(counted, x, y),
        *_draw_threshold(counted.threshold, x),
    ]
    return chart(WIDTH, 360.0, label, parts)


def _draw_unsupported(counted: Scores, x: Linear) -> list[Markup]:
    if counted.ends_at is None or counted.bound is None or counted.ends_at >= x.high:
        return []
    start = x(max(counted.ends_at, x.low))
    field = element(
        "rect", x=start, y=_TOP, width=_RIGHT - start, height=_BOTTOM - _TOP, class_="unknown"
    )
    told = f"beyond the calibration: at most {tell_count(counted.bound)} strangers in all"
    return [field, text(_RIGHT, _TOP - 8, told, class_="tick", text_anchor="end")]


def _draw_axes(x: Linear, y: Logarithmic) -> list[Markup]:
    parts = []
    for value in y.decades():
        parts.append(line(_LEFT, y(value), _RIGHT, y(value), class_="grid"))
        parts.append(
            text(_LEFT - 8, y(value) + 4, tell_count(value), class_="tick", text_anchor="end")
        )
    step = next(one for one in _STEPS if (x.high - x.low) / one <= 12)
    for number in range(math.ceil(x.low / step - 1e-6), math.floor(x.high / step + 1e-6) + 1):
        place = x(number * step)
        parts.append(line(place, _BOTTOM, place, _BOTTOM + 5, class_="axis"))
        parts.append(
            text(place, _BOTTOM + 20, f"{number * step:.2f}", class_="tick", text_anchor="middle")
        )
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, class_="axis"))
    parts.append(text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, "score", class_="tick"))
    parts.append(text(0.0, 13.0, f"pairs in each {BIN:g} of score", class_="tick"))
    return parts


def _draw_bars(counted: Scores, x: Linear, y: Logarithmic) -> list[Markup]:
    bars = []
    for number, found in enumerate(counted.found.tolist()):
        if found:
            left, right = x(float(counted.edges[number])), x(float(counted.edges[number + 1]))
            bars.append(
                element(
                    "rect",
                    x=left + 0.75,
                    y=y(found),
                    width=right - left - 1.5,
                    height=_BOTTOM - y(found),
                    class_="bar",
                )
            )
    return bars


def _draw_strangers(counted: Scores, x: Linear, y: Logarithmic) -> list[Markup]:
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


def _draw_threshold(threshold: float, x: Linear) -> list[Markup]:
    place = x(threshold)
    side, shift = ("end", 0.0) if place > WIDTH / 5 else ("start", 4.0)
    told = text(
        place + shift, _TOP - 8, f"threshold {threshold:.3f}", class_="value", text_anchor=side
    )
    return [line(place, _TOP - 4, place, _BOTTOM + 5, class_="threshold"), told]


# Pairs that chance alone brings, beside the pairs that were found, on one scale.

_CHANCE_LEFT, _FIRST, _CHANCE_RIGHT, _CHANCE_BOTTOM = 150.0, 210.0, WIDTH - 40, 116.0
_EXPECTED_Y, _FOUND_Y = 34.0, 80.0
_LEAST = 0.1
_MARK = 8.0


def draw_chance(expected: Rate, found: int) -> Markup:
    """A band for the interval of what is expected, a diamond for what was found.

    A scale of powers of ten has no zero: it stands by itself on the left.
    """
    scale = _scale(expected, found)
    label = f"Expected by chance: {tell_rate(expected)} pairs. Found: {found:,} pairs."
    parts = [*_draw_axis(scale), *_draw_expected(expected, scale), *_draw_found(found, scale)]
    return chart(WIDTH, 152.0, label, parts)


def _scale(expected: Rate, found: int) -> Logarithmic:
    seen = [value for value in (expected.low, expected.value, expected.high, found) if value > 0]
    low = 10.0 ** math.floor(math.log10(max(min(seen, default=1.0), _LEAST)))
    high = 10.0 ** math.ceil(math.log10(max(*seen, 10 * low, 10.0)))
    return Logarithmic(low, high, _FIRST, _CHANCE_RIGHT)


def _place(value: float, scale: Logarithmic) -> float:
    return scale(value) if value > 0 else _CHANCE_LEFT


def _draw_axis(scale: Logarithmic) -> list[Markup]:
    ticks = [(_CHANCE_LEFT, "0"), *((scale(value), tell_count(value)) for value in scale.decades())]
    parts = []
    for x, told in ticks:
        parts.append(line(x, 12.0, x, _CHANCE_BOTTOM, class_="grid"))
        parts.append(text(x, _CHANCE_BOTTOM + 18, told, class_="tick", text_anchor="middle"))
    told = "pairs (each step is ten times as many)"
    parts.append(text(_CHANCE_RIGHT, _CHANCE_BOTTOM + 34, told, class_="tick", text_anchor="end"))
    return parts


def _draw_expected(expected: Rate, scale: Logarithmic) -> list[Markup]:
    low, high = _place(expected.low, scale), _place(expected.high, scale)
    band = element(
        "rect",
        x=low,
        y=_EXPECTED_Y - 9,
        width=max(high - low, 3.0),
        height=18.0,
        class_="bound" if expected.is_bound else "band",
    )
    parts = [text(0.0, _EXPECTED_Y + 5, "Expected by chance", class_="row"), band]
    if not expected.is_bound:
        x = _place(expected.value, scale)
        parts.append(line(x, _EXPECTED_Y - 13, x, _EXPECTED_Y + 13, class_="expected"))
    parts.append(_label(max(high, low + 3), _EXPECTED_Y, tell_rate(expected), scale))
    return parts


def _draw_found(found: int, scale: Logarithmic) -> list[Markup]:
    x, y = _place(found, scale), _FOUND_Y
    diamond = [(x, y - _MARK), (x + _MARK, y), (x, y + _MARK), (x - _MARK, y)]
    return [
        text(0.0, y + 5, "Found", class_="row"),
        line(_CHANCE_LEFT, y, x, y, class_="stem"),
        path(diamond, closed=True, class_="found"),
        _label(x + _MARK, y, f"{found:,}", scale),
    ]


def _label(x: float, y: float, content: str, scale: Logarithmic) -> Markup:
    """Beside a mark, on its left where the right has no room."""
    if x + 8 + 7.5 * len(content) > WIDTH:
        return text(scale.end, y - 16, content, class_="value", text_anchor="end")
    return text(x + 8, y + 5, content, class_="value")
