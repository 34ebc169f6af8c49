"""Texts of the report: numbers, dates, names, kinds of groups and terms of a risk."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.formatting import with_interval
from engine.matching.calibration import Rate
from engine.sweeps.risk import BURST, SCALES
from engine.sweeps.sweep_model import GroupKind, RiskTerm

_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PER_CENT = "\N{NO-BREAK SPACE}%"

KIND_NAMES = {
    GroupKind.ONE_FACE: "One face, many documents",
    GroupKind.ONE_DOCUMENT: "One document, many faces",
    GroupKind.RESALE_RING: "Resale ring",
}
KIND_MEANINGS = {
    GroupKind.ONE_FACE: "Documents whose holders seem to be one person.",
    GroupKind.ONE_DOCUMENT: "A document that different people seem to have used.",
    GroupKind.RESALE_RING: "Lines that are used by other people than those who opened them.",
}


def format_count(value: float) -> str:
    """A count with separators; an expected number that is large or small with two digits."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e9):
        return f"{int(value):,}"
    if 10 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return format_small(value)


def format_small(value: float) -> str:
    """Two significant digits: 0.00012 is 1.2 times 10⁻⁴."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.2g}" if abs(value) < 10 else f"{value:,.0f}"
    digits, power = f"{value:.1e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits} \N{MULTIPLICATION SIGN} 10{raised}"


def format_rate(rate: Rate) -> str:
    """An expected count with its interval."""
    return with_interval(rate.value, rate.low, rate.high, rate.is_bound, write=format_count)


def format_share(share: float) -> str:
    """Per cent, never rounded to 0 or 100."""
    per_cent = 100 * share
    if 0 < per_cent < 0.1:
        return f"less than 0.1{_PER_CENT}"
    if 99.9 < per_cent < 100:
        return f"more than 99.9{_PER_CENT}"
    return f"{per_cent:.3g}{_PER_CENT}"


def format_moment(moment: datetime) -> str:
    """The date and time in UTC, to the minute."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_day(moment: datetime) -> str:
    """The date in UTC."""
    return moment.astimezone(UTC).date().isoformat()


def isolate(name: str) -> str:
    """A name for plain text, isolated so that its direction of writing does not affect the rest."""
    return f"\u2068{_DIRECTIONS.sub('', name)}\u2069"


def letter(number: int) -> str:
    """A, B, … Z, AA, AB, …"""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 line`, `2 lines`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


@dataclass(frozen=True, slots=True)
class Reason:
    """A term of a risk as text, with its points and the `most` it can bring."""

    text: str
    points: float
    most: float


_EVENTS = {
    GroupKind.ONE_FACE: "opening",
    GroupKind.ONE_DOCUMENT: "attempt",
    GroupKind.RESALE_RING: "change",
}
_TEXTS: Mapping[str, Callable[[float], str]] = {
    "identities": lambda value: plural(
        int(value), "document with one face", "documents with one face"
    ),
    "attempts": lambda value: plural(int(value), "foreign face tried it", "foreign faces tried it"),
    "changed_lines": lambda value: plural(int(value), "line changed face", "lines changed face"),
    "carriers": lambda value: plural(int(value), "carrier"),
    "outlets": lambda value: plural(int(value), "outlet"),
    "score": lambda value: f"link margin {format_share(round(value, 2))}",
    "disputes": lambda value: plural(int(value), "open dispute"),
}


def describe_term(term: RiskTerm, kind: GroupKind) -> Reason:
    """Describes a term; one without a text here is shown by its name."""
    scale = SCALES.get(term.name)
    return Reason(_describe_value(term, kind), term.points, scale[-1][1] if scale else term.points)


def _describe_value(term: RiskTerm, kind: GroupKind) -> str:
    if term.name == "burst":
        return f"{plural(int(term.value), _EVENTS[kind])} within {BURST.days} days"
    write = _TEXTS.get(term.name)
    return write(term.value) if write else f"{term.name.replace('_', ' ')}: {term.value:g}"
