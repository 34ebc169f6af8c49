"""Meters that keep what they are told, and one that fails."""

from __future__ import annotations

from typing import Any

from serving.telemetry.metrics import Family, Meter


class RecordingMeter(Meter):
    """Keeps every value it is told, in its order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, tuple[str, ...], float]] = []
        super().__init__()

    def _record(self, family: Any, labels: tuple[str, ...], record: Any, value: float) -> None:
        self.told.append((family.name, labels, value))
        super()._record(family, labels, record, value)

    def values(self, family: Family[Any], *labels: str) -> list[float]:
        """What it was told of one series."""
        return [value for name, of, value in self.told if (name, of) == (family.name, labels)]


class BrokenMeter(Meter):
    """Fails at whatever it is asked to count."""

    def _record(self, family: Any, labels: tuple[str, ...], record: Any, value: float) -> None:
        del record

        def fail(*_: object) -> None:
            raise OSError("secret path")

        super()._record(family, labels, fail, value)
