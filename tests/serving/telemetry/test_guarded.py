"""Counting never fails whoever counts."""

from __future__ import annotations

import structlog
from structlog.testing import capture_logs

from serving.telemetry.guarded import GuardedMeter
from serving.telemetry.meter import SilentMeter


class BrokenMeter(SilentMeter):
    def _fail(self, *_: object) -> None:
        raise OSError("secret path")

    count_request = track_request = count_refusal = observe_stage = observe_batch = _fail
    set_queue = count_decision = set_gallery = set_phase = _fail


def test_a_meter_that_fails_fails_nobody_and_is_told_once_by_its_type() -> None:
    with capture_logs() as logs:
        meter = GuardedMeter(BrokenMeter(), structlog.get_logger())
        for _ in range(3):
            meter.count_request("/v1/match", "POST", 200, 0.1)
            meter.track_request(1)
            meter.count_refusal("X")
            meter.observe_stage("match", 0.1)
            meter.observe_batch("match", 1)
            meter.set_queue("probes", 1, 2)
            meter.count_decision("approved", ())
            meter.set_gallery(1, 1, 1)
            meter.set_phase("ready")
    assert [(line["event"], line["error"]) for line in logs] == [("not_counted", "OSError")]
    assert "secret" not in str(logs)


def test_what_is_counted_reaches_the_meter() -> None:
    class Counting(SilentMeter):
        seen: tuple[object, ...] = ()

        def set_queue(self, queue: str, depth: int, capacity: int) -> None:
            self.seen = (queue, depth, capacity)

    inner = Counting()
    GuardedMeter(inner, structlog.get_logger()).set_queue("probes", 1, 2)
    assert inner.seen == ("probes", 1, 2)
