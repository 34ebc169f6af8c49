"""The terms of a risk, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.sweeps.model import RiskTerm
from engine.sweeps.report.words import plural, tell_share
from engine.sweeps.risk import BURST, SCALES


@dataclass(frozen=True, slots=True)
class Reason:
    """What was counted, and how many points it brings of the `most` that it could."""

    text: str
    points: float
    most: float


_TOLD: Mapping[str, Callable[[float], str]] = {
    "identities": lambda value: plural(
        int(value), "document with one face", "documents with one face"
    ),
    "attempts": lambda value: plural(int(value), "foreign face tried it", "foreign faces tried it"),
    "changed_lines": lambda value: plural(int(value), "line changed face", "lines changed face"),
    "carriers": lambda value: plural(int(value), "carrier"),
    "outlets": lambda value: plural(int(value), "outlet"),
    "burst": lambda value: f"{int(value):,} within {BURST.days} days",
    "score": lambda value: f"link margin {tell_share(round(value, 2))}",
    "disputes": lambda value: plural(int(value), "open dispute"),
}


def give_reason(term: RiskTerm) -> Reason:
    """A term that has no words here is told by its name."""
    told = _TOLD.get(term.name)
    text = told(term.value) if told else f"{term.name.replace('_', ' ')}: {term.value:g}"
    scale = SCALES.get(term.name)
    return Reason(text, term.points, scale[-1][1] if scale else term.points)
