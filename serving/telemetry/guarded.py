"""A meter that never fails whoever counts with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from structlog.typing import FilteringBoundLogger

from serving.telemetry.meter import Meter


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
