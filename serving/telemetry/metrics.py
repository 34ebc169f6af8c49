"""The meter that Prometheus reads: every process of a node counts, any of them shows the sum."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from structlog.typing import FilteringBoundLogger

from engine.reasons import Decision, Reason
from engine.sweeps.sweep_model import SweepState
from serving.registrar.protocol import Phase
from serving.telemetry.exporter import FolderCollector, discard_gauges

# The metrics of the service: their names, labels and buckets.

LATENCY_S = (
    *(0.0003, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
"""From a served template to a request that nearly times out; objectives stand on an edge."""

STAGE_S = (0.0001, *LATENCY_S)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Families:
    """One of each, registered in `registry`; shared by the node's processes where a folder is set.

    Gauges count living processes only: a sum where each process has a share, the most recent where
    one process knows.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._make_requests()
        self._make_stages()
        self._make_registrar()
        self._make_sweeps()
        self.build = self._gauge("sosie_build_info", "What runs.", "livemax", "version", "model")

    def _make_requests(self) -> None:
        self.requests = self._counter(
            "sosie_http_requests", "Answered requests.", "route", "method", "status"
        )
        self.durations = self._histogram(
            "sosie_http_request_duration_seconds",
            "From a request's head to its answer.",
            LATENCY_S,
            "route",
            "method",
        )
        self.in_progress = self._gauge(
            "sosie_http_requests_in_progress", "Requests that are being answered.", "livesum"
        )
        self.refusals = self._counter("sosie_refusals", "Refused calls by their code.", "code")

    def _make_stages(self) -> None:
        self.stages = self._histogram(
            "sosie_stage_seconds", "How long a stage was busy.", STAGE_S, "stage"
        )
        self.batches = self._histogram(
            "sosie_batch_size", "Items that a stage took at once.", BATCH_SIZES, "stage"
        )
        self.depths = self._gauge("sosie_queue_depth", "Items that wait.", "livesum", "queue")
        self.capacities = self._gauge(
            "sosie_queue_capacity", "Items that may wait.", "livesum", "queue"
        )

    def _make_registrar(self) -> None:
        self.decisions = self._counter("sosie_decisions", "Enrollments decided.", "decision")
        self.reasons = self._counter("sosie_decision_reasons", "Reasons of decisions.", "reason")
        self.references = self._gauge(
            "sosie_gallery_references", "Faces that are searched.", "livemostrecent"
        )
        self.sequence = self._gauge(
            "sosie_gallery_sequence", "The gallery's watermark.", "livemostrecent"
        )
        self.store_sequence = self._gauge(
            "sosie_store_sequence", "The store's watermark.", "livemostrecent"
        )
        self.phases = self._gauge(
            "sosie_registrar_phase",
            "1 for the phase that the registrar is in.",
            "livemostrecent",
            "phase",
        )

    def _make_sweeps(self) -> None:
        self.sweep_states = self._gauge(
            "sosie_sweep_state", "1 for the state of the newest sweep.", "livemostrecent", "state"
        )
        self.sweep_progress = self._gauge(
            "sosie_sweep_progress_ratio", "Compared, of all that it compares.", "livemostrecent"
        )
        self.sweep_pairs = self._gauge("sosie_sweep_pairs", "Pairs found so far.", "livemostrecent")
        self.sweep_false_pairs = self._gauge(
            "sosie_sweep_false_pairs_expected",
            "Pairs of strangers that all its comparisons bring, by the calibration.",
            "livemostrecent",
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, text: str, mode: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, multiprocess_mode=mode, registry=self._registry)  # type: ignore[arg-type]


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


# What is measured: the one list of calls by which the service counts itself.


class Meter(Protocol):
    """Counts and times; cheap enough for every request, and safe from many threads.

    Labels are route templates, codes and stage names: never an id, a name or a number.
    """

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """RED: one answered request of a route template (`/v1/lines/{line}`)."""
        ...

    def track_request(self, change: int) -> None:
        """+1 when a request begins, -1 when it ends."""
        ...

    def count_refusal(self, code: str) -> None:
        """One refused call by its code."""
        ...

    def observe_stage(self, stage: str, seconds: float) -> None:
        """USE: how long a stage (extract, match, search, judge, publish, hop …) was busy."""
        ...

    def observe_batch(self, stage: str, size: int) -> None:
        """How many items a stage took at once."""
        ...

    def set_queue(self, queue: str, depth: int, capacity: int) -> None:
        """USE: how full a queue (photographs, decisions, probes, audit) is."""
        ...

    def count_decision(self, decision: str, reasons: Iterable[str]) -> None:
        """One decision of an enrollment, and each of its reasons."""
        ...

    def set_gallery(self, size: int, sequence: int, store_sequence: int) -> None:
        """Gallery size and watermark lag."""
        ...

    def set_phase(self, phase: str) -> None:
        """The registrar's phase."""
        ...

    def set_sweep(self, state: str, progress: float, pairs: int, false_pairs: float) -> None:
        """The newest sweep: its state, how much is compared (0 to 1), what it has found, and how
        many pairs of strangers it is to bring."""
        ...


class SilentMeter:
    """Counts nothing: for tests and single commands."""

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        pass

    def track_request(self, change: int) -> None:
        pass

    def count_refusal(self, code: str) -> None:
        pass

    def observe_stage(self, stage: str, seconds: float) -> None:
        pass

    def observe_batch(self, stage: str, size: int) -> None:
        pass

    def set_queue(self, queue: str, depth: int, capacity: int) -> None:
        pass

    def count_decision(self, decision: str, reasons: Iterable[str]) -> None:
        pass

    def set_gallery(self, size: int, sequence: int, store_sequence: int) -> None:
        pass

    def set_phase(self, phase: str) -> None:
        pass

    def set_sweep(self, state: str, progress: float, pairs: int, false_pairs: float) -> None:
        pass


# A meter that never fails whoever counts with it.


class GuardedMeter:
    """Passes every call on to a meter; what that raises is logged by its type, once a type.

    Counting lies beside the work: a full disk under the metrics must not end a thread, nor make
    a decision that is stored look as if it had failed.
    """

    def __init__(self, meter: Meter, log: FilteringBoundLogger) -> None:
        self._meter, self._log = meter, log
        self._seen: set[tuple[str, str]] = set()

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._try(self._meter.count_request, route, method, status, seconds)

    def track_request(self, change: int) -> None:
        self._try(self._meter.track_request, change)

    def count_refusal(self, code: str) -> None:
        self._try(self._meter.count_refusal, code)

    def observe_stage(self, stage: str, seconds: float) -> None:
        self._try(self._meter.observe_stage, stage, seconds)

    def observe_batch(self, stage: str, size: int) -> None:
        self._try(self._meter.observe_batch, stage, size)

    def set_queue(self, queue: str, depth: int, capacity: int) -> None:
        self._try(self._meter.set_queue, queue, depth, capacity)

    def count_decision(self, decision: str, reasons: Iterable[str]) -> None:
        self._try(self._meter.count_decision, decision, reasons)

    def set_gallery(self, size: int, sequence: int, store_sequence: int) -> None:
        self._try(self._meter.set_gallery, size, sequence, store_sequence)

    def set_phase(self, phase: str) -> None:
        self._try(self._meter.set_phase, phase)

    def set_sweep(self, state: str, progress: float, pairs: int, false_pairs: float) -> None:
        self._try(self._meter.set_sweep, state, progress, pairs, false_pairs)

    def _try(self, count: Callable[..., None], *what: Any) -> None:
        try:
            count(*what)
        except Exception as error:  # noqa: BLE001 - who counts must not stop who works
            seen = (count.__name__, type(error).__name__)
            if seen not in self._seen:
                self._seen.add(seen)
                self._log.warning("not_counted", what=seen[0], error=seen[1])
