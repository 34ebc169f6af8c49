"""Charts as inline SVG: elements, scales, ticks, axes, and charts of lines over two axes.

Marks carry classes, and the page's style sheet gives them colour. All text and all values are
escaped. This module imports nothing else of the project, so that `loadtest` may use it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from markupsafe import Markup

WIDTH = 960.0
"""Width of a chart across the page, in its own units; the page scales it."""

Point = tuple[float, float]
Tick = tuple[float, str]


def element(
    name: str, content: Iterable[Markup | str] | str = (), /, **attributes: object
) -> Markup:
    """An element; `class_` and `stroke_width` are written `class` and `stroke-width`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _write(value))
        for key, value in attributes.items()
    )
    inside = content if isinstance(content, str) else Markup("").join(content)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)


def text(x: float, y: float, content: str, **attributes: object) -> Markup:
    """A label; each is an element of its own, so that no direction of writing reaches another."""
    return element("text", content, x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def rect(
    x: float, y: float, width: float, height: float, *, title: str = "", **attributes: object
) -> Markup:
    """A rectangle, with a tooltip if it has a `title`."""
    content = [element("title", title)] if title else []
    return element("rect", content, x=x, y=y, width=width, height=height, **attributes)


def path(points: Iterable[Point], *, closed: bool = False, **attributes: object) -> Markup:
    """Straight lines from point to point."""
    steps = " ".join(f"{_write(x)},{_write(y)}" for x, y in points)
    return element("polygon" if closed else "polyline", points=steps, **attributes)


def chart(
    width: float, height: float, label: str, parts: Iterable[Markup], **attributes: object
) -> Markup:
    """The whole drawing; `label` says in words what it shows."""
    box = f"0 0 {_write(width)} {_write(height)}"
    return element("svg", parts, viewBox=box, role="img", aria_label=label, **attributes)


def _write(value: object) -> str:
    """A tenth of a unit is finer than any screen shows."""
    if isinstance(value, float):
        return f"{round(value, 1) or 0:g}"
    return str(value)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps the values `low` to `high` onto `start` to `end`; values beyond an end lie on it."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high, held = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, held = math.log(low), math.log(high), math.log(held)
        share = (held - low) / ((high - low) or 1.0)
        return self.start + share * (self.end - self.start)


def linear_ticks(
    low: float, high: float, count: int, *, least_step: float = 0.0, covers: bool = False
) -> list[float]:
    """Multiples of a round step from `low` to `high`, about `count` of them.

    With `covers` the last one is `high` or the next above it.
    """
    rough = max((high - low) / count, least_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    last = math.ceil(high / step - 1e-6) if covers else math.floor(high / step + 1e-6)
    return [number * step for number in range(math.ceil(low / step - 1e-6), last + 1)]


def log_ticks(low: float, high: float, factors: Sequence[int] = (1,)) -> list[float]:
    """Powers of ten from `low` to `high`, each times the `factors`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def whole_decades(low: float, high: float) -> tuple[float, float]:
    """The nearest powers of ten around `low` and `high`, at least one decade apart."""
    first = math.floor(math.log10(low) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(high) - 1e-9))
    return 10.0**first, 10.0**last


def draw_y_axis(x: Scale, y: Scale, ticks: Iterable[Tick]) -> list[Markup]:
    """Horizontal grid lines with their labels on the left."""
    parts = []
    for value, label in ticks:
        parts.append(line(x.start, y(value), x.end, y(value), class_="grid"))
        parts.append(text(x.start - 8, y(value) + 4, label, class_="tick", text_anchor="end"))
    return parts


def draw_x_axis(x: Scale, bottom: float, ticks: Iterable[Tick], **label: object) -> list[Markup]:
    """The base line, and ticks with their labels below it; `label` are attributes of those."""
    parts = [line(x.start, bottom, x.end, bottom, class_="axis")]
    for value, content in ticks:
        parts.append(line(x(value), bottom, x(value), bottom + 5, class_="axis"))
        parts.append(text(x(value), bottom + 20, content, class_="tick", **label))
    return parts


@dataclass(frozen=True, slots=True)
class Axis:
    """The values of an axis, its labelled ticks and its title."""

    title: str
    low: float
    high: float
    ticks: Sequence[Tick]
    is_log: bool = False

    @classmethod
    def linear(cls, title: str, high: float, count: int) -> Axis:
        """From 0 to `high` or the round number above it."""
        ticks = linear_ticks(0.0, high or 1.0, count, covers=True)
        return cls(title, 0.0, ticks[-1], [(value, f"{value:g}") for value in ticks])

    @classmethod
    def log(cls, title: str, low: float, high: float) -> Axis:
        """Whole decades, with ticks at 1, 2 and 5 where there are no more than three."""
        low, high = whole_decades(low, high)
        ticks = log_ticks(low, high, (1, 2, 5) if high <= low * 1001 else (1,))
        return cls(title, low, high, [(value, f"{value:g}") for value in ticks], is_log=True)


@dataclass(frozen=True, slots=True)
class Series:
    """Points joined in their order, straight or in steps; one whose y is NaN leaves a gap."""

    name: str
    style: str
    points: Sequence[Point]
    is_step: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """A part of the x axis with another background."""

    start: float
    end: float
    name: str


_HEIGHT = 336.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, WIDTH - 18, 16.0, 288.0


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over two axes. A `style` is a class of the page's style sheet."""

    label: str
    x: Axis
    y: Axis
    lines: Sequence[Series] = ()
    bands: Sequence[Band] = ()
    level: Tick | None = None
    """A horizontal line with its label: the objective."""

    def draw(self) -> Markup:
        """The SVG element."""
        x = Scale(self.x.low, self.x.high, _LEFT, _RIGHT, self.x.is_log)
        y = Scale(self.y.low, self.y.high, _BOTTOM, _TOP, self.y.is_log)
        parts = [
            *(part for band in self.bands for part in _draw_band(band, x)),
            *draw_y_axis(x, y, self.y.ticks),
            *(line(x(at), _TOP, x(at), _BOTTOM, class_="grid") for at, _ in self.x.ticks),
            *draw_x_axis(x, _BOTTOM, self.x.ticks, text_anchor="middle"),
            *self._draw_titles(),
            *self._draw_level(x, y),
            *(_draw_series(series, x, y) for series in self.lines),
        ]
        return chart(WIDTH, _HEIGHT, self.label, parts, class_="chart")

    def _draw_titles(self) -> list[Markup]:
        middle, height = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
        turned = f"rotate(-90 16 {height:g})"
        shared = {"class_": "title", "text_anchor": "middle"}
        return [
            text(middle, _HEIGHT - 6, self.x.title, **shared),
            text(16.0, height, self.y.title, transform=turned, **shared),
        ]

    def _draw_level(self, x: Scale, y: Scale) -> list[Markup]:
        if self.level is None or not y.low <= self.level[0] <= y.high:
            return []
        height, label = y(self.level[0]), self.level[1]
        return [
            line(x.start, height, x.end, height, class_="level"),
            text(x.end, height - 5, label, class_="level", text_anchor="end"),
        ]


def _draw_band(band: Band, x: Scale) -> list[Markup]:
    start, end = x(band.start), x(band.end)
    return [
        rect(start, _TOP, max(end - start, 0.0), _BOTTOM - _TOP, class_="band"),
        text((start + end) / 2, _TOP + 13, band.name, class_="tick", text_anchor="middle"),
    ]


def _draw_series(series: Series, x: Scale, y: Scale) -> Markup:
    parts = [element("title", series.name)]
    for is_gap, points in groupby(series.points, key=lambda point: math.isnan(point[1])):
        if not is_gap:
            places = [(x(across), y(up)) for across, up in points]
            if series.is_step:
                corners = [[(after[0], before[1]), after] for before, after in pairwise(places)]
                places = [places[0], *(place for pair in corners for place in pair)]
            parts.append(path(places, class_=f"series {series.style}"))
    return element("g", parts)
