"""What people do with a case or a sweep, as it travels to the registrar."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    """An outcome, and the lines that another person may close by it."""

    outcome: Outcome
    close_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Takes the proposal back."""


@dataclass(frozen=True, slots=True)
class Close:
    outcome: Outcome
    close_lines: tuple[str, ...] = ()


CaseStep = Assign | Remark | Propose | Withdraw | Close


class Steering(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
