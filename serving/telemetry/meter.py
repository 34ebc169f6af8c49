"""What is measured: the one list of calls by which the service counts itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


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
