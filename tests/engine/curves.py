"""Calibration curves of rates and thresholds that a test gives."""

from collections.abc import Iterable
from typing import Any

from engine.matching.calibration import CalibrationCurve, OperatingPoint


def make_curve(
    thresholds: Iterable[tuple[float, ...]],
    *,
    below: float = 3.0,
    above: float = 3.0,
    margin: float = 0.0,
    fnmr: float = 0.0,
    **counts: Any,
) -> CalibrationCurve:
    """A curve of these rates of false matches, their thresholds and, where it is given, what is
    missed there. A rate may be `below` times less and `above` times more, its threshold `margin`
    lower or higher."""
    usual = {
        "people": 1_000,
        "mated_pairs": 5_000,
        "nonmated_pairs": 10_000_000,
        "stranger_pairs": 500_000,
        "highest_nonmated": 0.6,
    }
    points = tuple(
        OperatingPoint(
            fmr=fmr,
            fmr_low=fmr / below,
            fmr_high=fmr * above,
            threshold=threshold,
            threshold_low=threshold - margin,
            threshold_high=threshold + margin,
            fnmr=missed,
            fnmr_low=missed / 2,
            fnmr_high=missed * 2,
        )
        for fmr, threshold, missed, *_ in ((*one, fnmr) for one in thresholds)
    )
    return CalibrationCurve(**usual | counts, points=points)
