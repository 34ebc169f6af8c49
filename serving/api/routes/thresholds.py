"""`/v1/thresholds`: the scores that decisions depend on, on their calibrated curves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from engine.matching.calibration import Calibration, CalibrationCurve, Comparison
from serving.access.authorization import Action
from serving.api.dependencies import admit
from serving.api.fields import Shown
from serving.api.openapi import describe
from serving.api.request import call_of
from serving.api.schemas.enrollments import ThresholdsShown
from serving.parts import Parts

# The scores that decisions depend on, and what error rates they stand for.


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


def add_thresholds(router: APIRouter, parts: Parts) -> None:
    """Adds the route about thresholds."""
    shown = {
        "model_digest": parts.model_digest,
        "thresholds": asdict(parts.thresholds),
        "calibration": None if parts.calibration is None else _show(parts.calibration),
    }

    async def read_thresholds(request: Request) -> Response:
        """The deployment's thresholds, and the false match rate of every score as it was measured
        for its model: single photographs, references, and one against the other.
        """
        call = call_of(request)
        await admit(parts, call, Action.READ_THRESHOLDS)
        return call.answer(shown)

    router.add_api_route(
        "/v1/thresholds",
        read_thresholds,
        methods=["GET"],
        **describe(
            "Read the thresholds",
            answers={200: ThresholdsAnswer},
            errors=(400, 401, 403, 406, 429, 503),
        ),
    )


def _show(calibration: Calibration) -> dict[str, Any]:
    return {
        "source": calibration.source,
        "people": calibration.people,
        "photographs": calibration.photographs,
        "curves": [_show_curve(kind, curve) for kind, curve in calibration.curves.items()],
    }


def _show_curve(kind: Comparison, curve: CalibrationCurve) -> dict[str, Any]:
    return {
        "comparison": kind.value,
        "mated_pairs": curve.mated_pairs,
        "nonmated_pairs": curve.nonmated_pairs,
        "highest_nonmated": curve.highest_nonmated,
        "fmr_bound": curve.points[-1].fmr_high,
        "points": [
            {
                "score": point.threshold,
                "fmr": point.fmr,
                "low": point.fmr_low,
                "high": point.fmr_high,
                "fnmr": point.fnmr,
            }
            for point in curve.points
        ],
    }
