"""What a suite hands over: figures side by side, and the promises held against them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench.machine import Machine


Setup = dict[str, str | int | float | bool]
"""Under which conditions a figure was measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, or why there is none.

    `low` and `high` are the quartiles of its repeats. `ratio` says how many times as good it is
    as the figure it is compared with, by default the first of its result.
    """

    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    skipped: str | None = None

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        samples: Sequence[float] | NDArray[np.float64],
        ratio: float | None = None,
    ) -> Self:
        """The median of repeats, with their quartiles."""
        low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
        return cls(name, unit, float(median), float(low), float(high), ratio)

    @classmethod
    def skip(cls, name: str, unit: str, reason: str) -> Self:
        """A figure that cannot be measured here."""
        return cls(name, unit, skipped=reason)


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one run under the same conditions; `setup` holds data, sizes, seed and threads."""

    name: str
    setup: Setup
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A promise against its figure; `holds` is None exactly where `skipped` says why."""

    name: str
    value: float | None
    goal: float
    holds: bool | None
    skipped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Without `skipped` where the figure was measured."""
        fields = asdict(self)
        if self.skipped is None:
            del fields["skipped"]
        return fields


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a suite on one machine."""

    machine: Machine
    results: tuple[Result, ...]
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """False where a measured figure misses its goal; a skipped one neither holds nor fails."""
        return all(check.holds is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "machine": asdict(self.machine),
            "results": [asdict(result) for result in self.results],
            "checks": [check.to_dict() for check in self.checks],
        }
