"""What the service tells its meter, and how full its queues are."""

from __future__ import annotations

from engine.matching.observation import DecidedBatch
from engine.matching.requests import Answer
from engine.matching.thresholds import Comparison
from serving.service.opened import OpenRegistry, Watermark
from serving.telemetry.meter import Meter


class DecisionAccount:
    """The registrar's observer: one call a batch, on the writer's thread."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def observe_batch(self, batch: DecidedBatch) -> None:
        self._meter.observe_batch("judge", len(batch.outcomes))
        self._meter.observe_stage("judge", batch.judge_s)
        self._meter.observe_stage("publish", batch.publish_s)
        for outcome in batch.outcomes:
            if isinstance(outcome, Answer) and not outcome.is_repeated:
                reasons = [reason.value for reason in outcome.reasons]
                self._meter.count_decision(outcome.decision.value, reasons)


class StageAccount:
    """Counts the passes of one stage: how many items each took, and how long."""

    def __init__(self, meter: Meter, stage: str) -> None:
        self._meter = meter
        self._stage = stage

    def __call__(self, size: int, seconds: float) -> None:
        self._meter.observe_batch(self._stage, size)
        self._meter.observe_stage(self._stage, seconds)


def show_queues(meter: Meter, opened: OpenRegistry | None) -> None:
    """How full the queues are; empty where nothing is open."""
    if opened is None:
        for queue in ("decisions", "probes", "audit"):
            meter.set_queue(queue, 0, 0)
        return
    meter.set_queue("decisions", opened.registrar.queued, opened.registrar.queue_size)
    meter.set_queue("probes", opened.searches.queued, opened.searches.capacity)
    meter.set_queue("audit", opened.scribe.queued, opened.scribe.queue_size)


def show_watermark(meter: Meter, mark: Watermark) -> None:
    """Gallery size and lag, where the store could be read."""
    if mark.store_sequence is not None:
        meter.set_gallery(mark.size, mark.sequence, mark.store_sequence)


def show_sweep(meter: Meter, opened: OpenRegistry) -> None:
    """The newest sweep, if there is one; nobody is in these figures."""
    newest = opened.sweeps.newest
    if newest is not None:
        progress = newest.progress
        rate = opened.deployment.calibration.fmr_at(newest.terms.threshold, Comparison.FUSED)
        expected = rate.times(progress.comparisons_total).value
        meter.set_sweep(newest.state.value, progress.share, progress.pairs, expected)
