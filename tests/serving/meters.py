"""Meters that record their calls, and one that fails."""

from typing import Any

from serving.telemetry.metrics import Family, Meter


class RecordingMeter(Meter):
    """Records every value in order."""

    def __init__(self) -> None:
        self.recorded: list[tuple[str, tuple[str, ...], float]] = []
        super().__init__()

    def _record(self, family: Any, labels: tuple[str, ...], record: Any, value: float) -> None:
        self.recorded.append((family.name, labels, value))
        super()._record(family, labels, record, value)

    def values(self, family: Family[Any], *labels: str) -> list[float]:
        """The values of one series."""
        return [value for name, of, value in self.recorded if (name, of) == (family.name, labels)]


class BrokenMeter(Meter):
    """Fails at every call."""

    def _record(self, family: Any, labels: tuple[str, ...], record: Any, value: float) -> None:
        del record

        def fail(*_: object) -> None:
            raise OSError("secret path")

        super()._record(family, labels, fail, value)
