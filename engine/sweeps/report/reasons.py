"""The terms of a risk, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.sweeps.model import GroupKind, RiskTerm
from engine.sweeps.report.words import plural, tell_share
from engine.sweeps.risk import BURST, SCALES


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
