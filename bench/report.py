"""What a suite hands over: figures side by side, and the promises held against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bench.machine import Machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

Setup = dict[str, str | int | float | bool]
"""Under which conditions a figure was measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, or why there is none.

    `low` and `high` are the quartiles of its repeats. `ratio` says how many times as good it is
    as the figure it is compared with, by default the first of its result. `noise` and
    `ratio_noise` are standard deviations, as shares of value and ratio, from one block of repeats
    to another that came later; None where there was one block. `repeats`: how many the value is
    the median of, within a block; None where that is not known.
    """

    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    skipped: str | None = None
    noise: float | None = None
    ratio_noise: float | None = None
    repeats: int | None = None

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
        return cls(name, unit, float(median), float(low), float(high), ratio, repeats=len(samples))

    @classmethod
    def skip(cls, name: str, unit: str, reason: str) -> Self:
        """A figure that cannot be measured here."""
        return cls(name, unit, skipped=reason)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        return cls(**_known(cls, document))


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one run under the same conditions; `setup` holds data, sizes, seed and threads."""

    name: str
    setup: Setup
    figures: tuple[Figure, ...]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        figures = tuple(Figure.from_dict(one) for one in document["figures"])
        return cls(document["name"], dict(document["setup"]), figures)


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
        document = asdict(self)
        if self.skipped is None:
            del document["skipped"]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        return cls(**_known(cls, document))


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a suite on one machine, in so many blocks apart in time."""

    machine: Machine
    results: tuple[Result, ...]
    checks: tuple[Check, ...]
    suite: str = ""
    blocks: int = 1

    @property
    def holds(self) -> bool:
        """False where a measured figure misses its goal; a skipped one neither holds nor fails."""
        return all(check.holds is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "suite": self.suite,
            "blocks": self.blocks,
            "machine": asdict(self.machine),
            "results": [asdict(result) for result in self.results],
            "checks": [check.to_dict() for check in self.checks],
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; `KeyError`, `TypeError` or `ValueError` for anything else.

        Fields that came later than a document are at their defaults.
        """
        return cls(
            machine=Machine.from_dict(document["machine"]),
            results=tuple(Result.from_dict(one) for one in document["results"]),
            checks=tuple(Check.from_dict(one) for one in document["checks"]),
            suite=str(document.get("suite", "")),
            blocks=int(document.get("blocks", 1)),
        )


def _known(kind: type[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in document.items() if name in names}
