"""Charts as inline SVG: one pair of axes, lines and marks upon them, a legend below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

# Elements of an SVG drawing, as text; what is written is escaped.


def write_line(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    """A straight line of a style that the page has."""
    (x1, y1), (x2, y2) = start, end
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def write_text(
    text: str, at: tuple[float, float], anchor: str, kind: str = "", *, is_upright: bool = False
) -> str:
    """Words before (`end`), around (`middle`) or after (`start`) a point."""
    x, y = at
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if is_upright else ""
    style = f' class="{kind}"' if kind else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {place}{style}{turned}>{escape(text)}</text>"


def write_box(kind: str, at: tuple[float, float], size: tuple[float, float]) -> str:
    """A rectangle; its width is never below zero."""
    (x, y), (width, height) = at, size
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place}/>'


def write_path(path: str, colour: str, title: str, kind: str = "") -> str:
    """A stroke in a colour of the page; `title` is shown when it is pointed at."""
    style = f' class="{kind}"' if kind else ""
    stroke = f'style="stroke:var(--{colour})"'
    return f'<path{style} d="{path}" {stroke}>{_write_title(title)}</path>'


def write_disc(at: tuple[float, float], radius: float, colour: str, title: str) -> str:
    place = f'cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}"'
    return f'<circle {place} style="fill:var(--{colour})">{_write_title(title)}</circle>'


def _write_title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


WIDTH, HEIGHT = 860.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 16.0, 14.0, 40.0
FLOOR = HEIGHT - BOTTOM
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """From data to a place between 0 and 1, with labelled ticks."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high = self._scale(self.low), self._scale(self.high)
        share = (self._scale(value) - low) / (high - low) if high > low else 0.0
        return min(1.0, max(0.0, share))

    def _scale(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.is_log else value


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined where they follow one another; one that is NaN leaves a gap."""

    name: str
    colour: str
    points: Sequence[Point]
    is_step: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A single point: a disc, or a cross for what failed; `text` is shown when it is pointed at."""

    colour: str
    point: Point
    text: str
    is_cross: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """A part of the x axis with another background."""

    start: float
    end: float
    name: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`colour` names are CSS variables of the page, so that it can be dark."""

    label: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    bands: Sequence[Band] = field(default=())
    level: tuple[float, str] | None = None
    """A horizontal line: the objective."""

    def draw(self) -> str:
        """The SVG element."""
        parts = [
            f'<svg class="chart" role="img" aria-label="{escape(self.label)}" '
            f'viewBox="0 0 {WIDTH:g} {HEIGHT:g}">',
            *map(self._draw_band, self.bands),
            *self._draw_axes(),
            *self._draw_level(),
            *map(self._draw_line, self.lines),
            *map(self._draw_mark, self.marks),
            "</svg>",
        ]
        return "".join(parts)

    def _at(self, x: float, y: float) -> Point:
        across = LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT)
        return across, FLOOR - self.y.place(y) * (FLOOR - TOP)

    def _draw_axes(self) -> list[str]:
        parts = []
        for value, text in self.y.ticks:
            _, y = self._at(self.x.low, value)
            parts.append(write_line("grid", (LEFT, y), (WIDTH - RIGHT, y)))
            parts.append(write_text(text, (LEFT - 8, y + 4), "end"))
        for value, text in self.x.ticks:
            x, _ = self._at(value, self.y.low)
            parts.append(write_line("grid", (x, TOP), (x, FLOOR)))
            parts.append(write_text(text, (x, FLOOR + 16), "middle"))
        middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + FLOOR) / 2
        parts.append(write_text(self.x.title, (middle, HEIGHT - 6), "middle", "title"))
        parts.append(write_text(self.y.title, (14, height), "middle", "title", is_upright=True))
        return parts

    def _draw_level(self) -> list[str]:
        if self.level is None or not self.y.low <= self.level[0] <= self.y.high:
            return []
        x, y = self._at(self.x.high, self.level[0])
        text = write_text(self.level[1], (x, y - 5), "end", "level")
        return [write_line("level", (LEFT, y), (x, y)), text]

    def _draw_band(self, band: Band) -> str:
        start, _ = self._at(band.start, self.y.low)
        end, _ = self._at(band.end, self.y.low)
        box = write_box("band", (start, TOP), (end - start, FLOOR - TOP))
        return box + write_text(band.name, ((start + end) / 2, TOP + 12), "middle")

    def _draw_line(self, line: Line) -> str:
        path, is_open, last_y = "", False, 0.0
        for value in line.points:
            if math.isnan(value[1]):
                is_open = False
                continue
            x, y = self._at(*value)
            corner = f"L{x:.1f} {last_y:.1f}" if line.is_step else ""
            path += f"{corner}L{x:.1f} {y:.1f}" if is_open else f"M{x:.1f} {y:.1f}"
            is_open, last_y = True, y
        return write_path(path, line.colour, line.name)

    def _draw_mark(self, mark: Mark) -> str:
        x, y = self._at(*mark.point)
        if mark.is_cross:
            path = f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"
            return write_path(path, mark.colour, mark.text, "mark")
        return write_disc((x, y), 5, mark.colour, mark.text)


def spread_linear(title: str, low: float, high: float, count: int = 6) -> Axis:
    """Round ticks from `low` to `high`."""
    high = high if high > low else low + 1
    step = _round_up((high - low) / count)
    top = math.ceil(high / step - 1e-9) * step
    ticks = [low + place * step for place in range(round((top - low) / step) + 1)]
    return Axis(title, low, top, tuple((value, f"{value:g}") for value in ticks))


def spread_time(title: str, seconds: float) -> Axis:
    """From zero to the end exactly."""
    axis = spread_linear(title, 0, seconds, 10)
    ticks = tuple(tick for tick in axis.ticks if tick[0] <= seconds)
    return Axis(title, 0, max(seconds, 1e-9), ticks)


def spread_log(title: str, low: float, high: float, write: Callable[[float], str] = str) -> Axis:
    """Decades that hold both, with ticks at 1, 2 and 5 where there are few of them."""
    first = math.floor(math.log10(max(low, 1e-6)) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(max(high, 1e-6)) - 1e-9))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    values = [factor * 10.0**power for power in range(first, last) for factor in factors]
    ticks = [*values, 10.0**last]
    return Axis(
        title, 10.0**first, 10.0**last, tuple((one, write(one)) for one in ticks), is_log=True
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 with some zeros."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * 0.999)
