"""Treemap of the outlets: area by lines in groups, outlets of one carrier together.

The layout is the squarified treemap of Bruls, Huizing and van Wijk (2000).
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from engine.formatting import plural
from engine.svg import WIDTH, chart, rect, text
from engine.sweeps.report.words import isolate
from engine.sweeps.summary import Seller

MOST_OUTLETS = 60
"""Outlets with a field each; a carrier's others share one."""

_HEIGHT = 420.0
_HEAD = 22.0
_TINTS = 6


@dataclass(frozen=True, slots=True)
class Field:
    """A rectangle of the map."""

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        return self.width * self.height

    def shrink(self, head: float, edge: float) -> Field:
        """The field without a strip at the top and an edge around, down to nothing."""
        return Field(
            self.x + edge,
            self.y + head,
            max(self.width - 2 * edge, 0.0),
            max(self.height - head - edge, 0.0),
        )

    def draw(self, style: str, title: str = "") -> Markup:
        """The rectangle, narrower by a gap but never too thin to be seen or pointed at."""
        width, height = max(self.width - 2, 0.5), max(self.height - 2, 0.5)
        return rect(self.x + 1, self.y + 1, width, height, title=title, class_=style)


def draw_outlets(outlets: Sequence[Seller], names: Mapping[str, str]) -> Markup:
    """Draws the outlets, most lines first; `names` are carrier names by code."""
    carriers: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for one in outlets[:MOST_OUTLETS]:
        carriers[one.carrier].append((isolate(one.outlet or ""), one.lines))
    for carrier, (count, lines) in _count_others(outlets[MOST_OUTLETS:]).items():
        carriers[carrier].append((plural(count, "other"), lines))
    ranked = sorted(carriers.items(), key=lambda item: (-sum(n for _, n in item[1]), item[0]))
    sizes = [float(sum(lines for _, lines in items)) for _, items in ranked]
    fields = squarify(sizes, Field(0.0, 0.0, WIDTH, _HEIGHT))
    parts: list[Markup] = []
    for number, ((carrier, items), field) in enumerate(zip(ranked, fields, strict=True)):
        tint = f"tint{number % _TINTS}"
        parts.extend(_draw_carrier(isolate(names.get(carrier, carrier)), items, field, tint))
    label = (
        f"Map of {len(outlets):,} outlets by lines in groups; its numbers are in the table below."
    )
    return chart(WIDTH, _HEIGHT, label, parts, class_="map")


def squarify(sizes: Sequence[float], field: Field) -> list[Field]:
    """A rectangle for each size, as square as possible; `sizes` are positive and descending."""
    scale = field.area / (sum(sizes) or 1.0)
    left = [size * scale for size in sizes]
    fields: list[Field] = []
    while left:
        side = min(field.width, field.height)
        count = 1
        while count < len(left) and _worst(left[: count + 1], side) <= _worst(left[:count], side):
            count += 1
        row, left = left[:count], left[count:]
        placed, field = _lay_row(row, field)
        fields.extend(placed)
    return fields


def _worst(row: Sequence[float], side: float) -> float:
    """The largest aspect ratio in a row along a side."""
    total = sum(row)
    if not total or not side:
        return float("inf")
    return max(side**2 * max(row) / total**2, total**2 / (side**2 * min(row)))


def _lay_row(row: Sequence[float], field: Field) -> tuple[list[Field], Field]:
    """The row's rectangles along the shorter side, and the rest of the field."""
    total = sum(row)
    placed = []
    if field.width >= field.height:
        depth = total / field.height if field.height else 0.0
        y = field.y
        for area in row:
            length = area / depth if depth else 0.0
            placed.append(Field(field.x, y, depth, length))
            y += length
        return placed, Field(field.x + depth, field.y, max(field.width - depth, 0.0), field.height)
    depth = total / field.width if field.width else 0.0
    x = field.x
    for area in row:
        length = area / depth if depth else 0.0
        placed.append(Field(x, field.y, length, depth))
        x += length
    return placed, Field(field.x, field.y + depth, field.width, max(field.height - depth, 0.0))


def _count_others(outlets: Sequence[Seller]) -> Mapping[str, tuple[int, int]]:
    """Outlets and lines by carrier."""
    others: dict[str, tuple[int, int]] = {}
    for one in outlets:
        count, lines = others.get(one.carrier, (0, 0))
        others[one.carrier] = count + 1, lines + one.lines
    return others


def _draw_carrier(
    name: str, items: Sequence[tuple[str, int]], field: Field, tint: str
) -> Iterator[Markup]:
    ranked = sorted(items, key=lambda item: -item[1])
    total = sum(lines for _, lines in ranked)
    yield field.draw(f"carrier {tint}")
    wanted = (f"{name} · {total:,}", name) if field.height > 2 * _HEAD else ()
    head = next((one for one in wanted if _fits(one, field.width - 12, 13)), None)
    if head:
        yield text(field.x + 8, field.y + 16, head, class_="carrier-name")
    inner = field.shrink(_HEAD if head else 3.0, 3.0)
    fields = squarify([float(lines) for _, lines in ranked], inner)
    for (outlet, lines), one in zip(ranked, fields, strict=True):
        yield from _draw_outlet(name, outlet, lines, one, tint)


def _draw_outlet(name: str, outlet: str, lines: int, field: Field, tint: str) -> Iterator[Markup]:
    yield field.draw(f"outlet {tint}", title=f"{name}, {outlet}: {plural(lines, 'line')}")
    if field.height > 20 and _fits(outlet, field.width - 12):
        yield text(field.x + 7, field.y + 17, outlet, class_="outlet-name")
        if field.height > 38:
            yield text(field.x + 7, field.y + 33, f"{lines:,}", class_="outlet-count")


_UNSEEN = {"Cf", "Mn", "Me"}
_WIDE = {"W", "F"}


def _fits(content: str, width: float, size: float = 12) -> bool:
    """Whether a text of this size fits, by estimate; wide scripts take a full square each."""
    breadths = (
        0.0
        if unicodedata.category(char) in _UNSEEN
        else 1.0
        if unicodedata.east_asian_width(char) in _WIDE
        else 0.58
        for char in content
    )
    return size * sum(breadths) <= width
