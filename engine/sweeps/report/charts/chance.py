"""Pairs that chance alone brings, beside the pairs that were found, on one scale."""

from __future__ import annotations

import math

from markupsafe import Markup

from engine.matching.thresholds import Rate
from engine.sweeps.report.charts.drawing import (
    WIDTH,
    Logarithmic,
    chart,
    element,
    line,
    path,
    text,
)
from engine.sweeps.report.words import tell_count, tell_rate

_LEFT, _FIRST, _RIGHT, _BOTTOM = 150.0, 210.0, WIDTH - 40, 116.0
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
    return Logarithmic(low, high, _FIRST, _RIGHT)


def _place(value: float, scale: Logarithmic) -> float:
    return scale(value) if value > 0 else _LEFT


def _draw_axis(scale: Logarithmic) -> list[Markup]:
    ticks = [(_LEFT, "0"), *((scale(value), tell_count(value)) for value in scale.decades())]
    parts = []
    for x, told in ticks:
        parts.append(line(x, 12.0, x, _BOTTOM, class_="grid"))
        parts.append(text(x, _BOTTOM + 18, told, class_="tick", text_anchor="middle"))
    told = "pairs (each step is ten times as many)"
    parts.append(text(_RIGHT, _BOTTOM + 34, told, class_="tick", text_anchor="end"))
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
        line(_LEFT, y, x, y, class_="stem"),
        path(diamond, closed=True, class_="found"),
        _label(x + _MARK, y, f"{found:,}", scale),
    ]


def _label(x: float, y: float, content: str, scale: Logarithmic) -> Markup:
    """Beside a mark, on its left where the right has no room."""
    if x + 8 + 7.5 * len(content) > WIDTH:
        return text(scale.end, y - 16, content, class_="value", text_anchor="end")
    return text(x + 8, y + 5, content, class_="value")
