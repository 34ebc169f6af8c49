"""Figures of reports by a path, and how they are written: what `docs/figures.toml` names.

    search > One query > exact8, the gallery            its value
    search > One query > exact8, the gallery > ratio    or low, high, noise
    gallery > Snapshot > save [MB]                      of two figures of that name the one in MB
    search > promise > one_query_speedup                the value of a promise
    search > setup > One query > references             what a result was measured with
    goal > search > one_query_speedup                   the goal itself
    model > highest threshold                           what the shipped calibration says
    knee > rate                                         what a load test found, knee.json
    A / B                                               one over the other

A format is Python's for a float (`.1f`, `,.0f`), after it `p` for percent, `k` for thousands, `M`
for millions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.checks import load_goals
from bench.lookup import find_figure, find_result
from bench.pages.calibrated import list_calibrated
from bench.report import Report
from engine.errors import RequestError

_FIELDS = ("ratio", "low", "high", "noise")
_MINUS = "\u2212"
_SCALES = {"p": 100.0, "k": 1e-3, "M": 1e-6}
_UNIT = re.compile(r"(?P<name>.*?)(?: \[(?P<unit>[^\]]+)\])?")


@dataclass(frozen=True, slots=True)
class Figures:
    """Reports by the name of their file, the goals, and the knee that a load test found."""

    reports: Mapping[str, Report]
    knee: Mapping[str, Any] = field(default_factory=dict)

    def write(self, expression: str, spec: str) -> str:
        """The figure as it stands in a document; `RequestError` names one that is not there."""
        value, scale = self.find(expression), _SCALES.get(spec[-1:])
        if scale is not None:
            value, spec = value * scale, spec[:-1]
        try:
            return format(value, spec).replace("-", _MINUS)
        except ValueError as error:
            raise RequestError(f"{spec!r} is no format of a number") from error

    def find(self, expression: str) -> float:
        """Its number, unrounded."""
        over, slash, under = expression.partition(" / ")
        value = self._find_one(over.strip())
        return value / self._find_one(under.strip()) if slash else value

    def _find_one(self, path: str) -> float:
        first, *rest = [part.strip() for part in path.split(" > ")]
        value: Any = None
        if first == "goal" and len(rest) == 2:
            goals = (one.goal for one in load_goals() if [one.suite, one.name] == rest)
            value = next(goals, None)
        elif first == "model" and len(rest) == 1:
            value = list_calibrated().get(rest[0])
        elif first == "knee" and len(rest) == 1:
            value = self.knee.get(rest[0])
        elif first in self.reports and len(rest) >= 2:
            value = self._find_in(first, rest)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(f"no figure {path!r} in the reports")
        return float(value)

    def _find_in(self, suite: str, rest: list[str]) -> Any:
        if rest[0] == "promise":
            checks = self.reports[suite].checks
            return next((check.value for check in checks if check.name == rest[1]), None)
        if rest[0] == "setup" and len(rest) == 3:
            result = find_result(self.reports, suite, rest[1])
            return result.setup.get(rest[2]) if result else None
        named = _UNIT.fullmatch(rest[1])
        assert named is not None
        figure = find_figure(self.reports, suite, rest[0], named["name"], named["unit"])
        wanted = rest[2] if len(rest) == 3 else "value"
        if figure is None or wanted not in {"value", *_FIELDS}:
            return None
        return getattr(figure, wanted)
