"""`/v1/thresholds`: what decisions depend on, on the curves of the calibration."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest

from engine.matching.calibration import Comparison
from serving.api.app import build_app
from serving.api.body import JSON, MSGPACK
from serving.wire.fields import read
from serving.wire.oversight import CalibratedThresholds


@pytest.mark.parametrize("accept", [JSON, MSGPACK])
def test_the_thresholds_are_shown_on_the_calibrated_curves(service: Any, accept: str) -> None:
    response = service.ask("GET", "/v1/thresholds", key="b1", headers={"accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    shown = service.read(response)
    read(shown, CalibratedThresholds)
    parts = service.parts
    assert shown["thresholds"] == asdict(parts.thresholds)
    curves = {one["comparison"]: one for one in shown["calibration"]["curves"]}
    assert curves.keys() == {kind.value for kind in Comparison}
    for name, curve in curves.items():
        calibrated = parts.calibration.curve(Comparison(name))
        for point in curve["points"]:
            rate = calibrated.fmr_at(point["score"])
            assert rate.value == pytest.approx(point["fmr"])
            assert point["low"] <= point["fmr"] <= point["high"]
        assert all(one["score"] <= next_["score"] for one, next_ in pairwise(curve["points"]))
        # Just beyond the last point no more is known than this bound.
        beyond = calibrated.fmr_at(curve["points"][-1]["score"] + 1e-9)
        assert beyond.is_bound
        assert beyond.value == curve["fmr_bound"]


def test_without_a_calibration_no_rate_is_told(service: Any) -> None:
    parts = replace(service.parts, calibration=None)
    service = replace(service, parts=parts, app=build_app(parts))
    shown = service.read(service.ask("GET", "/v1/thresholds"))
    read(shown, CalibratedThresholds)
    assert shown["calibration"] is None
