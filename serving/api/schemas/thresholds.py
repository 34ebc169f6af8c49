"""The scores that decisions depend on, and what error rates they stand for."""

from __future__ import annotations

from pydantic import Field

from engine.matching.thresholds import Comparison
from serving.api.schemas.enrollments import ThresholdsShown
from serving.api.schemas.fields import Shown


class CurvePoint(Shown):
    """A score as a threshold, with its false match rate; `low` to `high` is its 95 % interval."""

    score: float
    fmr: float
    low: float
    high: float
    fnmr: float = Field(description="of mated pairs, at that threshold")


class CurveShown(Shown):
    """One kind of comparison as it was measured. Beyond the last point no rate is known, but that
    it is `fmr_bound` at most."""

    comparison: Comparison
    mated_pairs: int
    nonmated_pairs: int
    highest_nonmated: float = Field(description="the highest score that two strangers reached")
    fmr_bound: float
    points: list[CurvePoint] = Field(description="scores rise, rates fall")


class CalibrationShown(Shown):
    """Where the rates were measured."""

    source: str
    people: int
    photographs: int
    curves: list[CurveShown]


class ThresholdsAnswer(Shown):
    """The deployment's thresholds; without a calibration of its model no rates are known."""

    model_digest: str
    thresholds: ThresholdsShown
    calibration: CalibrationShown | None
