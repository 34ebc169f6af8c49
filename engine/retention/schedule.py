"""How long what is no longer needed is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.registry.retention import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long each kind stays after its moment; None keeps it for good.

    The moment of a rejected attempt is its decision, of one that went to review the closing of its
    case, or its decision where it had none; of a line its closing, of an answer its writing. A
    document that is known from such attempts alone leaves with the last of them. A crop bears its
    own.
    """

    attempts: timedelta | None = None
    reviews: timedelta | None = None
    lines: timedelta | None = None
    answers: timedelta | None = None

    @property
    def stays(self) -> Mapping[Kind, timedelta | None]:
        """By kind, in the order in which they leave."""
        of_attempts = [stay for stay in (self.attempts, self.reviews) if stay is not None]
        return {
            Kind.ATTEMPTS: self.attempts,
            Kind.REVIEWS: self.reviews,
            # The soonest that one can leave: it goes with the last attempt under it.
            Kind.DOCUMENTS: min(of_attempts, default=None),
            Kind.LINES: self.lines,
            Kind.ANSWERS: self.answers,
            Kind.CROPS: timedelta(0),
        }

    def until(self, now: datetime) -> dict[Kind, datetime]:
        """By kind: what has its moment then or before has stayed its time. Kept kinds lack."""
        return {kind: now - stay for kind, stay in self.stays.items() if stay is not None}
