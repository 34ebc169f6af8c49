"""Goals of `targets.toml`, held against what a suite measured."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.report import Check
from engine.errors import RequestError

TARGETS = Path(__file__).parent / "targets.toml"


class Direction(StrEnum):
    """Which side of the goal is good; the goal itself holds."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that the project promises, and the suite that measures it."""

    name: str
    suite: str
    goal: float
    direction: Direction
    unit: str
    description: str

    def is_met(self, value: float) -> bool:
        if self.direction is Direction.AT_LEAST:
            return value >= self.goal
        return value <= self.goal

    @property
    def counts_errors(self) -> bool:
        """Whether it allows none: one block that errs is one too many."""
        if self.direction is Direction.AT_LEAST:
            return self.goal == 1 and self.unit == "share"
        return self.goal == 0

    def worst(self, values: Sequence[float]) -> float:
        """The one that lies farthest on the bad side."""
        return min(values) if self.direction is Direction.AT_LEAST else max(values)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why a figure cannot be measured here."""

    reason: str


Measured = float | Skipped


def load_goals(path: Path = TARGETS) -> tuple[Goal, ...]:
    """Read a targets file; raises `RequestError` naming the first entry that is wrong."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["figure"]
    except OSError as error:
        raise RequestError(f"cannot read the targets {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise RequestError(f"{path} is not a list of [[figure]] in TOML") from error
    goals = tuple(_read_goal(entry, path) for entry in entries)
    names = [(goal.suite, goal.name) for goal in goals]
    twice = next((name for suite, name in names if names.count((suite, name)) > 1), None)
    if twice is not None:
        raise RequestError(f"{path}: figure {twice} is there twice: remove one")
    return goals


def check_goals(
    goals: Sequence[Goal], suite: str, measured: Mapping[str, Measured]
) -> tuple[Check, ...]:
    """A check for each goal of the suite, in the file's order.

    Raises `RequestError` for a goal whose figure the suite does not know: a misspelt one would
    silently never be checked.
    """
    checks = []
    for goal in goals:
        if goal.suite != suite:
            continue
        if goal.name not in measured:
            raise RequestError(f"the suite {suite} has no figure {goal.name}: correct the targets")
        value = measured[goal.name]
        if isinstance(value, Skipped):
            checks.append(Check(goal.name, None, goal.goal, None, value.reason))
        else:
            # JSON has neither: what never came, or could not be measured.
            told = value if math.isfinite(value) else None
            checks.append(Check(goal.name, told, goal.goal, goal.is_met(value)))
    return tuple(checks)


def _read_goal(entry: Mapping[str, object], path: Path) -> Goal:
    name = entry.get("name", "without a name")
    try:
        return Goal(
            name=_text(entry["name"]),
            suite=_text(entry["suite"]),
            goal=_number(entry["goal"]),
            direction=Direction(_text(entry["direction"])),
            unit=_text(entry["unit"]),
            description=_text(entry["description"]),
        )
    except KeyError as error:
        raise RequestError(f"{path}: figure {name} lacks {error}") from error
    except ValueError as error:
        raise RequestError(f"{path}: figure {name}: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} must be a text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} must be a number")
    return float(value)
