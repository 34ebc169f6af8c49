"""Groups as the page shows them: a row in the table, and a card for each of the first.

A card draws its group as a graph: identities, their links, and the weakest link. What is drawn is
inline SVG: marks carry classes, and the page's style sheet gives them colour; all texts and values
are escaped.
"""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from engine.formatting import plural
from engine.sweeps.groups import strongest_tree
from engine.sweeps.report.contents import (
    KIND_NAMES,
    ReportInput,
    RiskReason,
    describe_term,
    format_day,
    letter,
)
from schema.sweeps import Group, Identity, Link

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


MOST_NODES = 26
MOST_EDGES = 120

_FEW_EDGES = 15
_WIDTH, _HEIGHT, _MARGIN = 360.0, 260.0, 26.0


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The part of a group that is drawn: edges by node number, with their scores."""

    identities: Sequence[Identity]
    edges: Sequence[tuple[int, int]]
    scores: Sequence[float]
    weakest: int | None


def draw_group(group: Group) -> Markup:
    """Draws at most `MOST_NODES` identities, in the group's order, lettered A, B, C…; of many links
    only the strongest, and those that hold the group together."""
    drawn = _choose(group)
    places = _place(len(drawn.identities))
    parts = [*_draw_edges(drawn, places), *_draw_nodes(drawn.identities, places)]
    label = (
        f"{plural(len(group.identities), 'identity', 'identities')}, "
        f"{plural(len(group.links), 'link')} between them."
    )
    return chart(_WIDTH, _HEIGHT, label, parts, class_="network")


def _choose(group: Group) -> _Drawn:
    identities = group.identities[:MOST_NODES]
    places = {one.document_id: number for number, one in enumerate(identities)}
    links = [one for one in group.links if one.left in places and one.right in places]
    edges = [(places[one.left], places[one.right]) for one in links]
    scores = [one.score for one in links]
    tree = set(strongest_tree(len(identities), edges, scores))
    ranked = sorted(range(len(links)), key=lambda one: (one not in tree, -scores[one], edges[one]))
    kept = sorted(ranked[:MOST_EDGES])
    weakest = next((n for n, one in enumerate(kept) if _is_same(links[one], group.weakest)), None)
    return _Drawn(identities, [edges[one] for one in kept], [scores[one] for one in kept], weakest)


def _is_same(link: Link, weakest: Link | None) -> bool:
    return weakest is not None and {link.left, link.right} == {weakest.left, weakest.right}


def _place(count: int) -> list[Point]:
    """Places the nodes on an ellipse, from the left: nearly all of a group's pairs are links."""
    x, y = _WIDTH / 2, _HEIGHT / 2
    angles = [2 * math.pi * number / count for number in range(count)]
    return [
        (x - (x - _MARGIN - 20) * math.cos(one), y - (y - _MARGIN) * math.sin(one))
        for one in angles
    ]


def _draw_edges(drawn: _Drawn, places: Sequence[Point]) -> list[Markup]:
    low, high = min(drawn.scores, default=0.0), max(drawn.scores, default=1.0)
    # Many thick lines would be one dark area.
    width = Scale(low, high, 1.0, 4.0 if len(drawn.edges) <= _FEW_EDGES else 2.0)
    parts = []
    for number, ((one, other), score) in enumerate(zip(drawn.edges, drawn.scores, strict=True)):
        if number != drawn.weakest:
            parts.append(
                line(*places[one], *places[other], class_="edge", stroke_width=width(score))
            )
    if drawn.weakest is not None:
        one, other = drawn.edges[drawn.weakest]
        parts.append(line(*places[one], *places[other], class_="edge weakest"))
        parts.extend(_draw_score(places[one], places[other], drawn.scores[drawn.weakest]))
    return parts


def _draw_score(start: Point, end: Point, score: float) -> list[Markup]:
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    pill = rect(x - 21, y - 10, 42, 20, rx=10, class_="pill")
    return [pill, text(x, y + 4, f"{score:.3f}", class_="weakest-score", text_anchor="middle")]


def _draw_nodes(identities: Sequence[Identity], places: Sequence[Point]) -> list[Markup]:
    """The area of a node grows with its lines; an open dispute adds a ring."""
    parts = []
    for number, (identity, (x, y)) in enumerate(zip(identities, places, strict=True)):
        radius = min(10 + 2.2 * math.sqrt(len(identity.lines)), 20.0)
        title = f"{letter(number)}: {plural(len(identity.lines), 'line')}"
        if identity.disputes:
            title += f", {plural(identity.disputes, 'open dispute')}"
            parts.append(element("circle", cx=x, cy=y, r=radius + 4, class_="dispute"))
        parts.append(
            element("circle", [element("title", title)], cx=x, cy=y, r=radius, class_="node")
        )
        parts.append(text(x, y + 4.5, letter(number), class_="node-name", text_anchor="middle"))
    return parts


MOST_ROWS = 200
"""Groups in the table; the others are only counted, and are in `groups.parquet`."""

MOST_CARDS = 24
"""Groups shown with graph and members."""

_FACES_BYTES = 2_000_000
_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


@dataclass(frozen=True, slots=True)
class Row:
    """A group in the table; `opened` is the first and the last opening."""

    rank: int
    group: Group
    kind_name: str
    case: str | None
    reasons: tuple[RiskReason, ...]
    lines: int
    carriers: int
    outlets: int
    opened: tuple[str, str] | None
    highest: float | None
    weakest: float | None


@dataclass(frozen=True, slots=True)
class Member:
    """An identity in a card; `face` is a `data:` URI."""

    letter: str
    identity: Identity
    carriers: Sequence[str]
    outlets: Sequence[str]
    opened: tuple[str, str] | None
    face: str | None


@dataclass(frozen=True, slots=True)
class Card:
    """A group with its first members; `weakest` names the two of its weakest link."""

    row: Row
    graph: Markup | None
    members: tuple[Member, ...]
    weakest: tuple[str, str] | None


def list_rows(contents: ReportInput) -> list[Row]:
    """Rows of the first `MOST_ROWS` groups, in the order given."""
    return [
        _row(rank, group, contents.cases.get(group.key))
        for rank, group in enumerate(contents.groups[:MOST_ROWS], start=1)
    ]


def list_cards(contents: ReportInput, rows: Sequence[Row]) -> list[Card]:
    """Cards of the first `MOST_CARDS` groups, with faces up to two megabytes in total."""
    faces = _encode_faces(contents)
    return [_card(row, faces, contents.carrier_names) for row in rows[:MOST_CARDS]]


def _row(rank: int, group: Group, case: str | None) -> Row:
    lines = group.lines
    return Row(
        rank=rank,
        group=group,
        kind_name=KIND_NAMES[group.kind],
        case=case,
        reasons=tuple(describe_term(term, group.kind) for term in group.terms if term.points),
        lines=len(lines),
        carriers=len({line.carrier for line in lines}),
        outlets=len({(line.carrier, line.outlet) for line in lines}),
        opened=_span(line.opened_at for line in lines),
        highest=max((link.score for link in group.links), default=None),
        weakest=group.weakest.score if group.weakest else None,
    )


def _card(row: Row, faces: Mapping[str, str], names: Mapping[str, str]) -> Card:
    group = row.group
    members = tuple(
        Member(
            letter=letter(number),
            identity=one,
            carriers=sorted({names.get(line.carrier, line.carrier) for line in one.lines}),
            outlets=sorted({line.outlet for line in one.lines}),
            opened=_span(line.opened_at for line in one.lines),
            face=faces.get(one.document_id),
        )
        for number, one in enumerate(group.identities[:MOST_NODES])
    )
    letters = {one.identity.document_id: one.letter for one in members}
    weakest = group.weakest and (letters.get(group.weakest.left), letters.get(group.weakest.right))
    return Card(
        row=row,
        graph=draw_group(group) if group.links else None,
        members=members,
        weakest=(weakest[0], weakest[1]) if weakest and weakest[0] and weakest[1] else None,
    )


def _span(moments: Iterable[datetime]) -> tuple[str, str] | None:
    ordered = sorted(moments)
    return (format_day(ordered[0]), format_day(ordered[-1])) if ordered else None


def _encode_faces(contents: ReportInput) -> Mapping[str, str]:
    """Data URIs by document, for the groups with cards."""
    faces: dict[str, str] = {}
    left_bytes = _FACES_BYTES
    for document in documents_with_cards(contents.groups):
        crop = contents.crops.get(document)
        if crop and document not in faces and len(crop) <= left_bytes:
            face = embed_picture(crop)
            if face is not None:
                left_bytes -= len(crop)
                faces[document] = face
    return faces


def embed_picture(image: bytes) -> str | None:
    """A JPEG or PNG file as a `data:` URI; None of any other."""
    kind = next((kind for head, kind in _PICTURES.items() if image.startswith(head)), None)
    return kind and f"data:{kind};base64,{base64.b64encode(image).decode()}"


def documents_with_cards(groups: Sequence[Group]) -> Iterator[str]:
    """Documents for whose faces a report has room; one may be in several groups."""
    for group in groups[:MOST_CARDS]:
        yield from (one.document_id for one in group.identities[:MOST_NODES])
