"""The meter that Prometheus reads: every process of a node counts, any of them shows the sum."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from engine.reasons import Decision, Reason
from engine.sweeps.model import SweepState
from serving.service.desk import Phase
from serving.telemetry.families import Families
from serving.telemetry.folder import FolderCollector, discard_gauges

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
SERIES_LIMIT = 512
"""Label values of one family that are kept apart; a mistake must not fill Prometheus."""


class PrometheusMeter:
    """A `Meter` for Prometheus: one a process, safe from many threads.

    With a `folder` it counts together with the node's other processes. That folder has to stand in
    `settings.METRICS_VARIABLE` when the process starts: prometheus_client reads it at import.
    """

    def __init__(self, folder: Path | None, *, version: str, model: str) -> None:
        self.registry = CollectorRegistry()
        self._rendered = self.registry
        if folder is not None:
            is_shared = bool(getattr(values.ValueClass, "_multiprocess", False))
            assert is_shared, "prometheus_client was imported before its folder was set"
            folder.mkdir(parents=True, exist_ok=True)
            # Of an earlier process that had this number.
            discard_gauges(folder, os.getpid())
            self._rendered = CollectorRegistry()
            self._rendered.register(FolderCollector(folder))
        self._families = Families(self.registry)
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._stages: dict[str, Histogram] = {}
        self._batches: dict[str, Histogram] = {}
        self._queues: dict[str, tuple[Gauge, Gauge]] = {}
        self._refusals: dict[str, Counter] = {}
        self._families.build.labels(version, model).set(1)
        # A rate needs a zero before the first one.
        for decision in Decision:
            self._families.decisions.labels(decision)
        for reason in Reason:
            self._families.reasons.labels(reason)

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        key = (route, method, status)
        children = self._answered.get(key) or self._meet_request(key)
        children[0].inc()
        children[1].observe(seconds)

    def _meet_request(self, key: tuple[str, str, int]) -> tuple[Counter, Histogram]:
        route, method, status = key
        if method not in METHODS or len(self._answered) >= SERIES_LIMIT:
            method = OTHER
        if len(self._answered) >= SERIES_LIMIT:
            route = OTHER
        children = (
            self._families.requests.labels(route, method, str(status)),
            self._families.durations.labels(route, method),
        )
        if len(self._answered) < SERIES_LIMIT and method != OTHER:
            self._answered[key] = children
        return children

    def track_request(self, change: int) -> None:
        self._families.in_progress.inc(change)

    def count_refusal(self, code: str) -> None:
        child = self._refusals.get(code)
        if child is None:
            is_kept = len(self._refusals) < SERIES_LIMIT
            child = self._families.refusals.labels(code if is_kept else OTHER)
            if is_kept:
                self._refusals[code] = child
        child.inc()

    def observe_stage(self, stage: str, seconds: float) -> None:
        child = self._stages.get(stage)
        if child is None:
            child = self._stages[stage] = self._families.stages.labels(stage)
        child.observe(seconds)

    def observe_batch(self, stage: str, size: int) -> None:
        child = self._batches.get(stage)
        if child is None:
            child = self._batches[stage] = self._families.batches.labels(stage)
        child.observe(size)

    def set_queue(self, queue: str, depth: int, capacity: int) -> None:
        children = self._queues.get(queue)
        if children is None:
            children = self._queues[queue] = (
                self._families.depths.labels(queue),
                self._families.capacities.labels(queue),
            )
        children[0].set(depth)
        children[1].set(capacity)

    def count_decision(self, decision: str, reasons: Iterable[str]) -> None:
        self._families.decisions.labels(decision).inc()
        for reason in reasons:
            self._families.reasons.labels(reason).inc()

    def set_gallery(self, size: int, sequence: int, store_sequence: int) -> None:
        self._families.references.set(size)
        self._families.sequence.set(sequence)
        self._families.store_sequence.set(store_sequence)

    def set_phase(self, phase: str) -> None:
        for known in Phase:
            self._families.phases.labels(str(known)).set(known == phase)

    def set_sweep(self, state: str, progress: float, pairs: int, false_pairs: float) -> None:
        for known in SweepState:
            self._families.sweep_states.labels(str(known)).set(known == state)
        self._families.sweep_progress.set(progress)
        self._families.sweep_pairs.set(pairs)
        self._families.sweep_false_pairs.set(false_pairs)

    def render(self) -> tuple[bytes, str]:
        """The node's metrics as Prometheus reads them, and their content type.

        Takes some milliseconds: not for an event loop.
        """
        return generate_latest(self._rendered), CONTENT_TYPE_PLAIN_0_0_4

    @property
    def rendered(self) -> CollectorRegistry:
        """What `render` shows, for an exporter."""
        return self._rendered
