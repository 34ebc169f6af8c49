"""How the report speaks of numbers and of what people named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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
    GroupKind.RESALE_RING: "Lines that are in other hands now than when they were opened.",
}


def tell_count(value: float) -> str:
    """What was counted with separators; what is expected, if large or small, to two digits."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e9):
        return f"{int(value):,}"
    if 10 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return tell_small(value)


def tell_small(value: float) -> str:
    """Two digits: 0.00012 as 1.2 times 10⁻⁴."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.2g}" if abs(value) < 10 else f"{value:,.0f}"
    digits, power = f"{value:.1e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits} \N{MULTIPLICATION SIGN} 10{raised}"


def tell_rate(rate: Rate) -> str:
    """A rate or an expected count with its interval."""
    if rate.is_bound:
        return f"at most {tell_count(rate.high)}"
    return f"{tell_count(rate.value)} ({tell_count(rate.low)} to {tell_count(rate.high)})"


def tell_share(share: float) -> str:
    """Per cent, never rounded up to all of it or down to none."""
    per_cent = 100 * share
    if 0 < per_cent < 0.1:
        return f"less than 0.1{_PER_CENT}"
    if 99.9 < per_cent < 100:
        return f"more than 99.9{_PER_CENT}"
    return f"{per_cent:.3g}{_PER_CENT}"


def tell_duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes and seconds, or hours and minutes."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    span = timedelta(seconds=round(seconds))
    minutes, rest = divmod(int(span.total_seconds()), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def tell_moment(moment: datetime) -> str:
    """To the minute, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def tell_day(moment: datetime) -> str:
    """The day, UTC."""
    return moment.astimezone(UTC).date().isoformat()


def isolate(name: str) -> str:
    """What an operator named, for where no markup can be: its direction of writing stays inside."""
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


# The terms of a risk, in words.


@dataclass(frozen=True, slots=True)
class Reason:
    """What was counted, and how many points it brings of the `most` that it could."""

    text: str
    points: float
    most: float


_EVENTS = {
    GroupKind.ONE_FACE: "opening",
    GroupKind.ONE_DOCUMENT: "attempt",
    GroupKind.RESALE_RING: "change",
}
_TOLD: Mapping[str, Callable[[float], str]] = {
    "identities": lambda value: plural(
        int(value), "document with one face", "documents with one face"
    ),
    "attempts": lambda value: plural(int(value), "foreign face tried it", "foreign faces tried it"),
    "changed_lines": lambda value: plural(int(value), "line changed face", "lines changed face"),
    "carriers": lambda value: plural(int(value), "carrier"),
    "outlets": lambda value: plural(int(value), "outlet"),
    "score": lambda value: f"link margin {tell_share(round(value, 2))}",
    "disputes": lambda value: plural(int(value), "open dispute"),
}


def give_reason(term: RiskTerm, kind: GroupKind) -> Reason:
    """A term that has no words here is told by its name."""
    scale = SCALES.get(term.name)
    return Reason(_tell(term, kind), term.points, scale[-1][1] if scale else term.points)


def _tell(term: RiskTerm, kind: GroupKind) -> str:
    if term.name == "burst":
        return f"{plural(int(term.value), _EVENTS[kind])} within {BURST.days} days"
    told = _TOLD.get(term.name)
    return told(term.value) if told else f"{term.name.replace('_', ' ')}: {term.value:g}"
