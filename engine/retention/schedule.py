"""How long what is no longer needed is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.registry.retention import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long each kind stays after its moment; None keeps it for good.

    The moment of an attempt is its decision, of a line its closing, of an answer its writing. A
    document that is known from attempts alone leaves with the last of them. A crop bears its own.
    """

    attempts: timedelta | None = None
    lines: timedelta | None = None
    answers: timedelta | None = None

    def until(self, now: datetime) -> dict[Kind, datetime]:
        """By kind: what has its moment then or before has stayed its time. Kept kinds lack."""
        stays = {
            Kind.ATTEMPTS: self.attempts,
            Kind.DOCUMENTS: self.attempts,
            Kind.LINES: self.lines,
            Kind.ANSWERS: self.answers,
            Kind.CROPS: timedelta(0),
        }
        return {kind: now - stay for kind, stay in stays.items() if stay is not None}
