"""What every chart is drawn with: elements, scales, ticks. All text and values are escaped."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 960.0
"""Of a chart across the page, in its own units; the page scales it."""

_UNSEEN = {"Cf", "Mn", "Me"}
_WIDE = {"W", "F"}


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
    """A label; each is an element of its own, so that no script of writing reaches another."""
    return element("text", content, x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def path(
    points: Iterable[tuple[float, float]], *, closed: bool = False, **attributes: object
) -> Markup:
    """Straight from point to point."""
    steps = " ".join(f"{_write(x)},{_write(y)}" for x, y in points)
    return element("polygon" if closed else "polyline", points=steps, **attributes)


def chart(
    width: float, height: float, label: str, parts: Iterable[Markup], **attributes: object
) -> Markup:
    """The drawing; `label` says in words what it shows."""
    box = f"0 0 {_write(width)} {_write(height)}"
    return element("svg", parts, viewBox=box, role="img", aria_label=label, **attributes)


@dataclass(frozen=True, slots=True)
class Linear:
    """Values `low` to `high` onto `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """The same in powers of ten; what is below `low` lies on `start`, what is above on `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        held = min(max(value, self.low), self.high)
        share = math.log(held / self.low) / (math.log(self.high / self.low) or 1.0)
        return self.start + share * (self.end - self.start)

    def decades(self) -> list[float]:
        """The powers of ten from `low` to `high`."""
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def whole_steps(most: int, wanted: int = 4) -> list[int]:
    """Ticks from 0 to at least `most`, by a round whole number."""
    rough = max(most, 1) / wanted
    power = 10 ** max(math.floor(math.log10(rough)), 0)
    step = next((k * power for k in (1, 2, 5) if k * power >= rough), 10 * power)
    return list(range(0, max(most, 1) + step, step))


def fits(content: str, width: float, size: float = 12) -> bool:
    """True where a text of this size fits by estimate; wide scripts take a full square each."""
    return size * sum(map(_breadth, content)) <= width


def _breadth(char: str) -> float:
    if unicodedata.category(char) in _UNSEEN:
        return 0.0
    return 1.0 if unicodedata.east_asian_width(char) in _WIDE else 0.58


def _write(value: object) -> str:
    """A tenth of a unit is finer than any screen shows."""
    if isinstance(value, float):
        return f"{round(value, 1) or 0:g}"
    return str(value)
