"""How many strangers a search of so many faces will bring, as far as the calibration can say."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from engine.capacity.demand import DAY_S
from engine.matching.thresholds import CalibrationCurve, Rate

WANTED = 0.1
"""False candidates a search that a desk can work with, as with 100,000 faces at FMR 1e-6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseCandidates:
    """At `threshold`: expected strangers a search, each with the calibration's 95 % interval.

    `searches_with_any` is the share of searches that bring one at least, and `cases_a_day` of
    enrollments; `wanted_fmr` is the rate that would bring `wanted` a search. Where that is not
    `is_supported`, no threshold of this model can be claimed to have it: `lowest_fmr` is the
    lowest that its calibration supports.
    """

    threshold: float
    fmr: Rate
    expected: Rate
    searches_with_any: Rate
    cases_a_day: Rate
    wanted: float
    wanted_fmr: float
    lowest_fmr: float
    nonmated_pairs: int

    @property
    def is_supported(self) -> bool:
        return self.wanted_fmr >= self.lowest_fmr

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_supported": self.is_supported}

    def explain(self) -> str:
        """In words: what may be claimed, and what would be needed."""
        needed = f"{self.wanted:g} a search need a false match rate of {self.wanted_fmr:.2g}"
        if self.is_supported:
            return f"{needed}, which the calibration supports"
        return (
            f"{needed}: not supported below {self.lowest_fmr:.2g} by {self.nonmated_pairs:,} "
            "non-mated pairs, so no threshold of this model can be said to have it; calibrate a "
            "stronger model on more people"
        )


def expect_candidates(
    faces: int,
    enrollments: float,
    curve: CalibrationCurve,
    threshold: float,
    wanted: float = WANTED,
) -> FalseCandidates:
    """`curve` is of fused references; `enrollments` a second, for all of a day."""
    fmr = curve.fmr_at(threshold)
    any_of_them = Rate(
        value=_some(faces, fmr.value),
        low=_some(faces, fmr.low),
        high=_some(faces, fmr.high),
        is_bound=fmr.is_bound,
    )
    return FalseCandidates(
        threshold=threshold,
        fmr=fmr,
        expected=fmr.times(faces),
        searches_with_any=any_of_them,
        cases_a_day=any_of_them.times(enrollments * DAY_S),
        wanted=wanted,
        wanted_fmr=wanted / faces,
        lowest_fmr=curve.lowest_fmr,
        nonmated_pairs=curve.nonmated_pairs,
    )


def _some(faces: int, rate: float) -> float:
    """How likely one of so many is a false match, each at this rate."""
    return -math.expm1(-faces * rate)
