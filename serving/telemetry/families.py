"""The metrics of the service: their names, labels and buckets."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
