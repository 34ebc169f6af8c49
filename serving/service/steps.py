"""What people do with a case or a sweep, as it travels to the registrar."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from engine.casework.model import Outcome


@dataclass(frozen=True, slots=True)
class Assign:
    """To an actor; None gives the case back to the queue."""

    assignee: str | None


@dataclass(frozen=True, slots=True)
class Remark:
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Propose:
    """An outcome, and the lines that another person may close by it.

    `seen_at`, here and in `Close`, is `updated_at` of the case that was looked at.
    """

    outcome: Outcome
    close_lines: tuple[str, ...] = ()
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Takes the proposal back."""


@dataclass(frozen=True, slots=True)
class Close:
    outcome: Outcome
    close_lines: tuple[str, ...] = ()
    seen_at: datetime | None = None


CaseStep = Assign | Remark | Propose | Withdraw | Close


class Steering(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
