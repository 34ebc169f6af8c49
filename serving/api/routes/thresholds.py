"""`/v1/thresholds`: the scores that decisions depend on, on their calibrated curves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.matching.thresholds import Calibration, CalibrationCurve, Comparison
from serving.access.tenancy import Action
from serving.api.call import call_of
from serving.api.openapi import describe
from serving.api.reception import admit
from serving.api.schemas.thresholds import ThresholdsAnswer
from serving.parts import Parts


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
