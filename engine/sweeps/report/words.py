"""Texts of the report: numbers, dates, names, kinds of groups and terms of a risk."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.formatting import count, percent, plural, with_interval
from engine.matching.calibration import Rate
from engine.sweeps.likelihood import MINUTES
from engine.sweeps.risk import BURST, SCALES
from engine.sweeps.sweep_model import GroupKind, RiskTerm

_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

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


def format_rate(rate: Rate) -> str:
    """An expected count with its interval."""
    return with_interval(rate.value, rate.low, rate.high, rate.is_bound, write=count)


def format_share(share: float) -> str:
    """Per cent, on one line."""
    return percent(share).replace(" ", "\N{NO-BREAK SPACE}")


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


@dataclass(frozen=True, slots=True)
class RiskReason:
    """A term of a risk as text, with its points and the `most` it can bring; None of a ratio."""

    text: str
    points: float
    most: float | None


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


def describe_term(term: RiskTerm, kind: GroupKind) -> RiskReason:
    """Describes a term; one without a text here is shown by its name."""
    if term.name in RATIO_TEXTS:
        return RiskReason(_describe_ratio(term), term.points, None)
    scale = SCALES.get(term.name)
    return RiskReason(
        _describe_value(term, kind), term.points, scale[-1][1] if scale else term.points
    )


RATIO_TEXTS: Mapping[str, str] = {
    "prior": "Before a face is compared",
    "score_ratio": "The score of the strongest pair",
    "same_outlet_minutes": f"One outlet within {MINUTES} minutes",
    "same_outlet_day": "One outlet within a day",
    "same_outlet_month": "One outlet within 30 days",
    "same_outlet": "One outlet at different times",
    "other_outlet": "Never one outlet",
    "alike_name_and_birth": "Similar names and one birth date",
    "alike_name": "Similar names, other birth dates",
    "same_birth": "One birth date, other names",
    "other_name_and_birth": "Other names and birth dates",
    "similar_name": "Similar names",
    "other_name": "Other names",
    "close_number": "Passport numbers that are close",
    "distant_number": "Passport numbers that are not close",
    "disputed": "A line is disputed",
    "not_disputed": "No line is disputed",
    "further_identities": "Further identities",
}
"""What the terms of a sweep with a budget say of a group's strongest pair (`likelihood`)."""


def _describe_ratio(term: RiskTerm) -> str:
    text = RATIO_TEXTS[term.name]
    if term.name == "prior":
        return f"{text}: one reference in {count(term.value)} is the same person's"
    if term.name == "further_identities":
        return plural(int(term.value), "further identity", "further identities")
    return f"{text}: {count(term.value)} times as likely of one person"


def _describe_value(term: RiskTerm, kind: GroupKind) -> str:
    if term.name == "burst":
        return f"{plural(int(term.value), _EVENTS[kind])} within {BURST.days} days"
    write = _TEXTS.get(term.name)
    return write(term.value) if write else f"{term.name.replace('_', ' ')}: {term.value:g}"
