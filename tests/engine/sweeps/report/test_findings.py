"""What is said of chance, and of what was missed."""

from __future__ import annotations

import pytest

from engine.matching.thresholds import CalibrationCurve, Rate
from engine.sweeps.report.contents import Chance
from engine.sweeps.report.findings import judge_chance, miss_rate


def chance(curve: CalibrationCurve, rate: Rate) -> Chance:
    return Chance(false_pairs=rate, curve=curve, source="made-up faces")


def test_more_than_the_upper_end_needs_another_explanation(curve: CalibrationCurve) -> None:
    verdict = judge_chance(1000, chance(curve, Rate(40.0, 20.0, 100.0)))
    assert verdict.tone == "clear"
    assert "900 of the 1,000 found (90\N{NO-BREAK SPACE}%)" in verdict.text


@pytest.mark.parametrize("found", [1, 50, 100])
def test_what_chance_may_bring_is_doubted(curve: CalibrationCurve, found: int) -> None:
    assert judge_chance(found, chance(curve, Rate(40.0, 20.0, 100.0))).tone == "doubt"


def test_a_bound_is_never_told_as_an_expectation(curve: CalibrationCurve) -> None:
    bound = chance(curve, Rate(100.0, 0.0, 100.0, is_bound=True))
    below, above = judge_chance(50, bound), judge_chance(150, bound)
    assert below.tone == "unknown"
    assert "at most 100 pairs" in below.text
    assert above.tone == "clear"
    assert "about" not in below.text + above.text


def test_finding_nothing_is_no_reason_to_doubt(curve: CalibrationCurve) -> None:
    assert judge_chance(0, chance(curve, Rate(40.0, 20.0, 100.0))).tone == "clear"
    assert judge_chance(0, None).title == "Nothing was found"


def test_without_calibration_nothing_is_known() -> None:
    assert judge_chance(50, None).tone == "unknown"


def test_the_miss_rate_lies_between_calibrated_points(curve: CalibrationCurve) -> None:
    missed = miss_rate(curve, 0.45)
    assert missed is not None
    assert missed.value == pytest.approx(0.0045)
    assert (missed.low, missed.high) == (pytest.approx(0.00225), pytest.approx(0.009))
    assert miss_rate(curve, 0.61) is None
    assert miss_rate(curve, 0.05) is None
