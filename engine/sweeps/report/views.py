"""Views of a sweep: its charts, and its groups as rows of a table and, the first, as cards.

A card shows its group as a graph, which its template draws: identities, their links, and the
weakest link.
"""

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

import numpy as np
from markupsafe import Markup

from engine.faces.image_files import sniff_format
from engine.formatting import count
from engine.matching.calibration import CalibrationCurve, Rate
from engine.plots import INK, embed_figure, open_panels
from engine.sweeps.groups import strongest_tree
from engine.sweeps.report.contents import (
    KIND_NAMES,
    ReportInput,
    RiskReason,
    describe_term,
    format_day,
    format_rate,
)
from engine.sweeps.risk import Week
from indexes.base import Doubles, Floats, Ints
from schema import frozen
from schema.sweeps import Group, Identity, Link

_FOUND, _CHANCE, _BAND, _UNKNOWN = "#0072b2", "#d55e00", "#f6d3b8", "#7b8a9426"
_LEAST = 0.1

BIN = 0.01
"""Width of a bar of the histogram, in score."""

_BINS_BELOW = 12
# A bar of one pair must be seen on a scale that has no zero.
_FLOOR = 0.5


@frozen(eq=False)
class ScoreBins:
    """Bins of score: `edges` float64[n + 1], `found` int64[n].

    One edge is the threshold; the `below` bins before it show what strangers would bring there,
    but no pair was kept. `strangers` float64[n, 3] is what chance brings to each bin (value, low,
    high), NaN beyond what the calibration supports. `ends_at` is the score where that begins, and
    `bound` the most strangers beyond it or the threshold.
    """

    edges: Doubles
    below: int
    found: Ints
    strangers: Doubles
    ends_at: float
    bound: float

    @property
    def threshold(self) -> float:
        return float(self.edges[self.below])


def count_scores(
    scores: Floats, threshold: float, comparisons: int, curve: CalibrationCurve
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
    figure, (axes,) = open_panels(9.6, 3.8)
    edges, threshold = counted.edges, counted.threshold
    axes.stairs(counted.found, edges, fill=True, color=_FOUND, label="found")
    middles, (value, low, high) = (edges[:-1] + edges[1:]) / 2, counted.strangers.T
    axes.fill_between(middles, low, high, color=_BAND, lw=0)
    axes.plot(middles, value, color=_CHANCE, lw=2, label="expected by chance, with its 95 % band")
    if counted.ends_at < edges[-1]:
        bound = f"beyond the calibration: at most {count(counted.bound)} strangers in all"
        axes.axvspan(counted.ends_at, edges[-1], color=_UNKNOWN, lw=0, zorder=0, label=bound)
    axes.axvline(threshold, color=INK)
    above = axes.get_xaxis_transform()
    _mark(axes, f"threshold {threshold:.3f}", (threshold, 1), (0, 4), ha="center", xycoords=above)
    axes.set_xlim(edges[0], edges[-1])
    highest = max(float(counted.found.max()), float(np.nanmax(counted.strangers, initial=10.0)))
    # Before the scale, which would look for limits among no data.
    axes.set_ylim(_FLOOR, 2 * highest)
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("score")
    axes.set_ylabel(f"pairs in each {BIN:g} of score")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return embed_figure(
        figure,
        f"Histogram: {int(counted.found.sum()):,} pairs by score, from the threshold "
        f"{threshold:.3f} to 1. Its numbers are in the table below.",
    )


def draw_chance(expected: Rate, found: int) -> Markup:
    """A band for the interval of what is expected by chance, a diamond for what was found."""
    figure, (axes,) = open_panels(9.6, 1.7)
    seen = [value for value in (expected.low, expected.value, expected.high, found) if value > 0]
    low = math.floor(math.log10(max(min(seen, default=1.0), _LEAST)))
    high = math.ceil(math.log10(max([*seen, 10.0])))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    ticks = [0.0, *(step * 10.0**power for power in range(low, high) for step in steps), 10.0**high]
    # Zero has a place on the scale: from there to the first power of ten it is linear.
    axes.set_xscale("symlog", linthresh=10.0**low, linscale=0.2)
    axes.set_xticks(ticks, [count(value) for value in ticks])
    axes.set_xlim(0, ticks[-1])
    width = expected.high - expected.low
    if expected.is_bound:
        axes.barh(1, width, 0.4, expected.low, color="none", ec=_CHANCE, lw=1.5, ls="--")
    else:
        axes.barh(1, width, 0.4, expected.low, color=_BAND, ec=_BAND, lw=2)
        axes.plot([expected.value] * 2, [0.7, 1.3], color=_CHANCE, lw=2.5)
    axes.plot([0, found], [0, 0], color=_FOUND, marker="D", markevery=[1], ms=8, clip_on=False)
    _mark(axes, format_rate(expected), (expected.high, 1), (8, 0), va="center")
    _mark(axes, f"{found:,}", (found, 0), (8, 0), va="center")
    axes.set_yticks([1, 0], ["Expected by chance", "Found"])
    axes.set_ylim(-0.5, 1.5)
    axes.set_xlabel("pairs, on a scale of powers of ten")
    axes.grid(visible=False, axis="y")
    return embed_figure(
        figure, f"Expected by chance: {format_rate(expected)} pairs. Found: {found:,} pairs."
    )


def draw_timeline(weeks: Sequence[Week]) -> Markup:
    """A bar for each week, quiet ones included; the busiest is named. `weeks` is not empty."""
    figure, (axes,) = open_panels(9.6, 2.5)
    first, last = weeks[0].monday, weeks[-1].monday
    busiest = max(weeks, key=lambda week: week.lines)
    ends = [*(week.monday for week in weeks), last + timedelta(weeks=1)]
    axes.stairs([week.lines for week in weeks], ends, fill=True, color=_FOUND)
    named = f"week of {busiest.monday}: {busiest.lines:,}"
    is_early = busiest.monday - first <= last - busiest.monday
    place = busiest.monday + timedelta(days=0 if is_early else 6), busiest.lines
    _mark(axes, named, place, (0, 5), ha="left" if is_early else "right")
    # Where they are few their bars are no wider.
    axes.set_xlim(first, max(last + timedelta(weeks=1), first + timedelta(weeks=16)))
    axes.set_ylim(0, 1.2 * max(busiest.lines, 1))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel("lines opened")
    axes.grid(visible=False, axis="x")
    return embed_figure(
        figure,
        f"Lines opened a week, {first} to {last}; most in the week of {busiest.monday}: "
        f"{busiest.lines:,}.",
    )


def _mark(
    axes: Any, words: str, place: tuple[Any, float], away: tuple[int, int], **options: Any
) -> None:
    axes.annotate(words, place, away, textcoords="offset points", weight="bold", **options)


MOST_NODES = len(ascii_uppercase)
"""Identities of a group in its card, lettered A, B, C… in the group's order."""

MOST_EDGES = 120

_FEW_EDGES = 15
# The graph's own units: `viewBox` of the template.
_WIDTH, _HEIGHT, _MARGIN = 360.0, 260.0, 26.0

MOST_ROWS = 200
"""Groups in the table; the others are only counted, and are in `groups.parquet`."""

MOST_CARDS = 24
"""Groups shown with graph and members."""

_FACES_BYTES = 2_000_000


@frozen
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


@frozen
class Member:
    """An identity in a card; `face` is a `data:` URI, and the circle at `x`, `y` is its node."""

    letter: str
    identity: Identity
    carriers: Sequence[str]
    outlets: Sequence[str]
    opened: tuple[str, str] | None
    face: str | None
    x: float
    y: float
    radius: float


@frozen
class Edge:
    """A link between two members, drawn wider for a higher score."""

    link: Link
    one: Member
    other: Member
    width: float


@frozen
class Card:
    """A group with its first members, and the links that are drawn; `weakest` is none of these."""

    row: Row
    members: tuple[Member, ...]
    edges: Sequence[Edge]
    weakest: Edge | None


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
    identities = group.identities[:MOST_NODES]
    members = tuple(
        Member(
            letter=ascii_uppercase[number],
            identity=one,
            carriers=sorted({names.get(line.carrier, line.carrier) for line in one.lines}),
            outlets=sorted({line.outlet for line in one.lines}),
            opened=_span(line.opened_at for line in one.lines),
            face=faces.get(one.document_id),
            **_place(2 * math.pi * number / len(identities)),
            # Its area grows with the lines.
            radius=round(min(10 + 2.2 * math.sqrt(len(one.lines)), 20.0), 1),
        )
        for number, one in enumerate(identities)
    )
    edges = _choose_edges(group, members)
    weakest = next((one for one in edges if one.link == group.weakest), None)
    return Card(row, members, [one for one in edges if one is not weakest], weakest)


def _place(angle: float) -> dict[str, float]:
    """Nodes lie on an ellipse, from the left: nearly all of a group's pairs are links."""
    x, y = _WIDTH / 2, _HEIGHT / 2
    return {
        "x": round(x - (x - _MARGIN - 20) * math.cos(angle), 1),
        "y": round(y - (y - _MARGIN) * math.sin(angle), 1),
    }


def _choose_edges(group: Group, members: Sequence[Member]) -> list[Edge]:
    """Of many links only the strongest, and those that hold the group together."""
    numbers = {one.identity.document_id: number for number, one in enumerate(members)}
    links = [one for one in group.links if one.left in numbers and one.right in numbers]
    ends = [(numbers[one.left], numbers[one.right]) for one in links]
    scores = [one.score for one in links]
    tree = set(strongest_tree(len(members), ends, scores))
    ranked = sorted(range(len(links)), key=lambda one: (one not in tree, -scores[one], ends[one]))
    kept = sorted(ranked[:MOST_EDGES])
    low, high = (of((scores[one] for one in kept), default=0.0) for of in (min, max))
    # Many thick lines would be one dark area.
    most = 3.0 if len(kept) <= _FEW_EDGES else 1.0
    edges = []
    for one in kept:
        left, right = ends[one]
        width = round(1 + most * (scores[one] - low) / ((high - low) or 1.0), 1)
        edges.append(Edge(links[one], members[left], members[right], width))
    return edges


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
    kind = sniff_format(image)
    if kind not in ("JPEG", "PNG"):
        return None
    return f"data:image/{kind.lower()};base64,{base64.b64encode(image).decode()}"


def documents_with_cards(groups: Sequence[Group]) -> Iterator[str]:
    """Documents for whose faces a report has room; one may be in several groups."""
    for group in groups[:MOST_CARDS]:
        yield from (one.document_id for one in group.identities[:MOST_NODES])
