"""False candidates are expected as far as the calibration goes, and claimed no further."""

from __future__ import annotations

import json

import pytest

from engine.capacity.plan import expect_candidates
from engine.matching.calibration import CalibrationCurve, OperatingPoint


def point(fmr: float, threshold: float) -> OperatingPoint:
    return OperatingPoint(
        fmr=fmr,
        fmr_low=fmr / 2,
        fmr_high=fmr * 2,
        threshold=threshold,
        threshold_low=threshold - 0.01,
        threshold_high=threshold + 0.01,
        fnmr=0.01,
        fnmr_low=0.005,
        fnmr_high=0.02,
    )


CURVE = CalibrationCurve(
    people=1_000,
    mated_pairs=5_000,
    nonmated_pairs=10_000_000,
    stranger_pairs=500_000,
    highest_nonmated=0.61,
    points=(point(1e-2, 0.3), point(1e-4, 0.45), point(1e-6, 0.57)),
)


def test_a_search_brings_the_rate_times_the_faces() -> None:
    found = expect_candidates(2_000_000, 10, CURVE, 0.57)
    assert found.expected.value == pytest.approx(2)
    assert (found.expected.low, found.expected.high) == pytest.approx((1, 4))
    assert found.searches_with_any.value == pytest.approx(0.8647, abs=1e-4)
    assert found.cases_a_day.value == pytest.approx(0.8647 * 864_000, rel=1e-3)


def test_a_rate_that_the_data_have_is_said_to_be_supported() -> None:
    found = expect_candidates(100_000, 1, CURVE, 0.57)
    assert found.is_supported
    assert found.wanted_fmr == pytest.approx(1e-6)
    assert "supports" in found.explain()


def test_a_rate_below_the_data_is_not_claimed_and_the_one_needed_is_named() -> None:
    found = expect_candidates(1_600_000_000, 1, CURVE, 0.57)
    assert not found.is_supported
    told = found.explain()
    assert "6.3e-11" in told
    assert "not supported below 1e-06 by 10,000,000 non-mated pairs" in told
    assert found.searches_with_any.value == pytest.approx(1)
    assert json.loads(json.dumps(found.to_dict()))["is_supported"] is False


def test_beyond_the_calibration_there_is_only_a_bound() -> None:
    found = expect_candidates(1_000_000, 1, CURVE, 0.65)
    assert found.expected.is_bound
    assert str(found.expected).startswith("at most ")
