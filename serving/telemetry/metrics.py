"""The metrics of the service: each is declared once, here, and recorded through a `Meter`; one
process of a node serves them on loopback, without a key."""

import os
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    start_http_server,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from structlog.typing import FilteringBoundLogger

from engine.errors import IMAGE_ERRORS
from engine.registry.vault import Vault
from indexes.base import Closing
from schema.phases import Phase
from schema.reasons import Decision, Reason
from schema.sweeps import SweepState

LATENCY_S = (
    *(0.0003, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
"""From a match by template to a request that nearly times out; objectives are bucket edges."""

STAGE_S = (0.0001, *LATENCY_S)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Kind = TypeVar("Kind", Counter, Gauge, Histogram)


@dataclass(frozen=True, eq=False)
class Family(Generic[Kind]):
    """One metric: its labels are route templates, codes and stages, never an id or a number."""

    kind: type[Kind]
    name: str
    text: str
    labels: tuple[str, ...]
    known: tuple[str, ...]
    """All values of its single label, if known: exported from the start."""
    options: dict[str, Any]


AnyFamily = Family[Counter] | Family[Gauge] | Family[Histogram]
FAMILIES: list[AnyFamily] = []


def _declare(
    kind: type[Kind], name: str, text: str, *labels: str, known: Iterable[str] = (), **options: Any
) -> Family[Kind]:
    family = Family(kind, name, text, labels, tuple(known), options)
    FAMILIES.append(family)
    return family


_counter = partial(_declare, Counter)
# How the gauges of a node's living processes are merged: the most recent, where only one process
# sets it, the sum, or the maximum.
_gauge = partial(_declare, Gauge, multiprocess_mode="livemostrecent")
_sum = partial(_declare, Gauge, multiprocess_mode="livesum")
_most = partial(_declare, Gauge, multiprocess_mode="livemax")
_histogram = partial(_declare, Histogram)

BUILD = _most("sosie_build_info", "What runs.", "version", "model")

REQUESTS = _counter("sosie_http_requests", "Answered requests.", "route", "method", "status")
REQUEST_SECONDS = _histogram(
    "sosie_http_request_duration_seconds",
    "From a request's head to its answer.",
    *("route", "method"),
    buckets=LATENCY_S,
)
IN_PROGRESS = _sum("sosie_http_requests_in_progress", "Requests that are being answered.")
REFUSALS = _counter("sosie_refusals", "Refused calls by their code.", "code")

PHOTOGRAPHS_REFUSED = _counter(
    "sosie_photographs_refused",
    "Photographs that could not be decoded or embedded, by their code.",
    "code",
    known=[kind.code for kind in IMAGE_ERRORS],
)

STAGE_SECONDS = _histogram(
    "sosie_stage_seconds", "How long a stage was busy.", "stage", buckets=STAGE_S
)
BATCH_SIZE = _histogram(
    "sosie_batch_size", "Items that a stage took at once.", "stage", buckets=SIZES
)
QUEUE_DEPTH = _sum("sosie_queue_depth", "Items that wait.", "queue")
QUEUE_CAPACITY = _sum("sosie_queue_capacity", "Items that may wait.", "queue")

EMBEDDINGS_FAILED = _counter(
    "sosie_embeddings_failed", "Batches that a model failed on, by the code of the error.", "code"
)
ACCELERATOR_UNUSED = _most(
    "sosie_accelerator_unused", "1 where CUDA is installed and faces are embedded without."
)

DECISIONS = _counter("sosie_decisions", "Enrollments decided.", "decision", known=Decision)
REASONS = _counter("sosie_decision_reasons", "Reasons of decisions.", "reason", known=Reason)
EXCEPTIONS = _counter(
    "sosie_exceptions",
    "Enrollments that asked for an exception, or brought another proof than a face, by cause or "
    "way, and what was decided at once; verifications by proof, verified or refused.",
    "cause",
    "decision",
)
LIVENESS = _counter(
    "sosie_liveness_results",
    "Evidence of liveness that requests brought, by who signed it and what is wrong with it.",
    "issuer",
    "result",
)
LIVENESS_JUDGED = _counter(
    "sosie_liveness_judged",
    "Live faces by what the judge of the picture itself found, and the tenth that its score is in.",
    "found",
    "band",
)
AUTHORITY_RESULTS = _counter(
    "sosie_authority_results",
    "Look-ups of documents by what came of them, and whether the answer was kept from before.",
    "code",
    "source",
)
AUTHORITY_BREAKER = _most(
    "sosie_authority_breaker_open", "1 while the authority is not asked, for it failed."
)
REFERENCES = _gauge("sosie_gallery_references", "Faces that are searched.")
COPIES_WANTING = _gauge("sosie_gallery_copies_wanting", "Shards that have one copy left of two.")
SEARCH_DEVICE_FAILED = _gauge(
    "sosie_search_device_failed",
    "1 while a GPU that was chosen for searches does none, or a shard cannot seal and merge.",
)
MOVES_WANTING = _gauge(
    "sosie_gallery_moves_wanting", "Virtual shards that are to be moved to another shard."
)
UPKEEP_FAILED = _gauge(
    "sosie_gallery_upkeep_failed",
    "1 while the gallery or its snapshot cannot be rewritten since references were removed.",
)
REMOVED_OVERDUE = _gauge(
    "sosie_gallery_removed_overdue_seconds",
    "How long removed references take space beyond the erasure deadline.",
)
ERASURES_OVERDUE = _gauge(
    "sosie_erasures_overdue", "1 while an acknowledged erasure is due and fails."
)
LINE_STEPS_OVERDUE = _gauge(
    "sosie_line_steps_overdue", "1 while steps of lines are due and cannot be done."
)
RETENTION_REFUSED = _gauge(
    "sosie_retention_refused", "1 while the clock is implausible and nothing is deleted."
)
SEQUENCE = _gauge("sosie_gallery_sequence", "The gallery's watermark.")
STORE_SEQUENCE = _gauge("sosie_store_sequence", "The store's watermark.")
PHASE = _gauge(
    "sosie_registrar_phase", "1 for the phase that the registrar is in.", "phase", known=Phase
)

ANCHORED = _gauge("sosie_audit_anchored", "Newest audit entry that was anchored outside.")
ANCHOR_FAILING = _gauge("sosie_audit_anchor_failing", "1 where the head is not anchored.")
EVENTS_WAITING = _gauge(
    "sosie_webhook_events_waiting", "Events that active webhooks have not taken."
)
EVENTS_AGE = _gauge(
    "sosie_webhook_oldest_seconds", "Age of the oldest event that waits for a webhook."
)
EVENTS_DEAD = _gauge("sosie_webhook_dead_letters", "Events that were given up.")
AUDIT_EXPORTED = _gauge("sosie_audit_exported", "Newest audit entry that was exported.")
AUDIT_EXPORT_FAILING = _gauge(
    "sosie_audit_export_failing", "1 where the audit chain is not exported."
)
EVENTS_LEFT = _counter(
    "sosie_webhook_events_left", "Events that expired before a webhook took them."
)
SET_ASIDE = _most(
    "sosie_rows_set_aside", "Damaged rows that were met and set aside, by table.", "table"
)
DAMAGE = _gauge("sosie_registry_damage", "What the daily examination of all rows found.")

SWEEP_STATE = _gauge(
    "sosie_sweep_state", "1 for the state of the newest sweep.", "state", known=SweepState
)
SWEEP_PROGRESS = _gauge("sosie_sweep_progress_ratio", "Compared, of all that it compares.")
SWEEP_PAIRS = _gauge("sosie_sweep_pairs", "Pairs found so far.")
SWEEP_FALSE_PAIRS = _gauge(
    "sosie_sweep_false_pairs_expected",
    "Pairs of strangers that all its comparisons bring, by the calibration.",
)

OTHER = "other"
SERIES_LIMIT = 512
"""Series of one family; more are counted together, so that a mistake cannot fill Prometheus."""


class Meter:
    """Records the metrics of a process; thread-safe. It never raises, as a full disk must not end a
    thread or make a stored decision look failed: failures are logged once for each type. With a
    `folder` they are merged with the node's other processes; it must be in `METRICS_VARIABLE` when
    the process starts, as prometheus_client reads it at import."""

    def __init__(self, folder: Path | None = None, log: FilteringBoundLogger | None = None) -> None:
        self._log = log or structlog.get_logger()
        self._logged: set[tuple[str, str]] = set()
        self.registry = CollectorRegistry()
        self.node_registry = self.registry
        """The registry that `render` and the exporter show: all processes of the node."""
        if folder is not None:
            is_shared = bool(getattr(values.ValueClass, "_multiprocess", False))
            assert is_shared, "prometheus_client was imported before its folder was set"
            folder.mkdir(parents=True, exist_ok=True)
            # Gauges of an earlier process with this id.
            discard_gauges(folder, os.getpid())
            self.node_registry = CollectorRegistry()
            self.node_registry.register(FolderCollector(folder))
        self._metrics: dict[AnyFamily, Any] = {}
        self._children: dict[AnyFamily, dict[tuple[str, ...], Any]] = {}
        for family in FAMILIES:
            self._metrics[family] = family.kind(
                family.name, family.text, family.labels, registry=self.registry, **family.options
            )
            self._children[family] = {}
            if family.kind is Counter:
                # A rate needs a zero before the first one.
                for value in family.known:
                    self._find(family, (value,))

    def add(self, family: Family[Counter] | Family[Gauge], *labels: str, by: float = 1) -> None:
        """Adds `by`, which may be negative for a gauge."""
        self._record(family, labels, family.kind.inc, by)

    def set(self, family: Family[Gauge], value: float, *labels: str) -> None:
        self._record(family, labels, Gauge.set, value)

    def set_state(self, family: Family[Gauge], state: str) -> None:
        """Sets 1 for this state and 0 for the other known ones."""
        for known in family.known:
            self.set(family, known == state, known)

    def observe(self, family: Family[Histogram], value: float, *labels: str) -> None:
        """Adds a duration in seconds, or a size, to a distribution."""
        self._record(family, labels, Histogram.observe, value)

    def render(self) -> tuple[bytes, str]:
        """The node's metrics as Prometheus reads them, and their content type; some milliseconds,
        so not on an event loop."""
        return generate_latest(self.node_registry), CONTENT_TYPE_PLAIN_0_0_4

    def _record(
        self,
        family: AnyFamily,
        labels: tuple[str, ...],
        record: Callable[[Any, float], None],
        value: float,
    ) -> None:
        try:
            record(self._find(family, labels), value)
        except Exception as error:  # noqa: BLE001 - metrics must not stop the work
            seen = (family.name, type(error).__name__)
            if seen not in self._logged:
                self._logged.add(seen)
                self._log.warning("not_counted", what=seen[0], error=seen[1])

    def _find(self, family: AnyFamily, labels: tuple[str, ...]) -> Any:
        children = self._children[family]
        child = children.get(labels)
        if child is None:
            metric = self._metrics[family]
            if len(children) >= SERIES_LIMIT:
                return metric.labels(*(OTHER for _ in labels))
            child = children[labels] = metric.labels(*labels) if labels else metric
        return child


def show_set_aside(vault: Vault, meter: Meter) -> None:
    """Has the damaged rows that this process meets counted, and those of before."""
    vault.set_aside.watch(lambda table, count: meter.set(SET_ASIDE, count, table))


LIVE = "gauge_live"
ATTEMPTS = 5


class FolderCollector(Collector):
    """Merges the metrics of all processes of the node, without gauges of ended ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Reads every file: some milliseconds."""
        for attempt in range(1, ATTEMPTS + 1):
            pids = {int(file.stem.rsplit("_", 1)[1]) for file in self._folder.glob(f"{LIVE}*.db")}
            for pid in pids:
                if not psutil.pid_exists(pid):
                    discard_gauges(self._folder, pid)
            # A process killed while it creates its file leaves an empty one.
            files = [str(file) for file in self._folder.glob("*.db") if _size_bytes(file)]
            try:
                return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
            except (FileNotFoundError, RuntimeError, struct.error):
                # Another process has created or removed a file meanwhile.
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def describe(self) -> Iterable[Metric]:
        # A registry would otherwise read all files to learn the names.
        return []


def discard_gauges(folder: Path, pid: int) -> None:
    """Removes the gauges of an ended process; its counters stay."""
    for file in folder.glob(f"{LIVE}*_{pid}.db"):
        file.unlink(missing_ok=True)


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


LOOPBACK = "127.0.0.1"
RETRY_S = 3.0


class Exporter(Closing):
    """Serves a registry on 127.0.0.1 from the first process that gets the port; another takes over
    within `retry_s`."""

    def __init__(self, registry: CollectorRegistry, port: int, retry_s: float = RETRY_S) -> None:
        self._registry, self._port, self._retry_s = registry, port, retry_s
        self._closed = threading.Event()
        self.is_serving = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="sosie-metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                server, thread = start_http_server(
                    self._port, addr=LOOPBACK, registry=self._registry
                )
            except OSError:
                # Another process of the node has the port.
                self._closed.wait(self._retry_s)
                continue
            self.is_serving.set()
            self._closed.wait()
            self.is_serving.clear()
            server.shutdown()
            server.server_close()
            thread.join()

    def close(self) -> None:
        """Frees the port."""
        self._closed.set()
        self._thread.join()
