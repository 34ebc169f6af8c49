"""Reports of `sosie bench`, read as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.capacity.figures import Machine
from engine.errors import RequestError


class _Read(BaseModel):
    # A later version may say more, and this one still reads what it knows.
    model_config = ConfigDict(extra="ignore", frozen=True)


class ReportedMachine(_Read):
    cpu: str
    cores: int
    memory_bytes: int


class ReportedFigure(_Read):
    name: str
    unit: str
    value: float | None = None


class ReportedResult(_Read):
    name: str
    setup: dict[str, str | int | float | bool]
    figures: tuple[ReportedFigure, ...]

    def value(self, name: str, unit: str | None = None) -> float | None:
        """The figure of this name (and unit, where two have the name), if it was measured."""
        for one in self.figures:
            if one.name == name and unit in (None, one.unit):
                return one.value if one.value is not None and math.isfinite(one.value) else None
        return None

    def values(self, unit: str) -> list[float]:
        """All figures in this unit that were measured."""
        return [one.value for one in self.figures if one.unit == unit and one.value is not None]

    def size(self, name: str) -> float:
        """A number of its setup; `RequestError` where it does not say it."""
        found = self.setup.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or found <= 0:
            raise RequestError(f"result {self.name!r} does not say its {name}: measure it again")
        return float(found)


class Report(_Read):
    """What a suite has measured on one machine; `name` is its file's."""

    machine: ReportedMachine
    results: tuple[ReportedResult, ...]
    name: str = ""

    def result(self, name: str) -> ReportedResult | None:
        return next((one for one in self.results if one.name == name), None)

    @property
    def stamp(self) -> Machine:
        return Machine(self.machine.cpu, self.machine.cores, self.machine.memory_bytes)


def read_report(path: Path) -> Report:
    """A report; `RequestError`, in one line, where the file is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{path} is no report of `sosie bench`: it is not text") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    try:
        report = Report.model_validate_json(text)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its beginning"
        raise RequestError(
            f"{path} is no report of `sosie bench` (see {where}): write one with --json"
        ) from None
    return report.model_copy(update={"name": path.name})


def read_reports(folder: Path) -> tuple[Report, ...]:
    """Every report of a folder, by name; other JSON files in it are passed over."""
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder: name one with reports of `sosie bench`")
    reports = []
    for path in sorted(folder.glob("*.json")):
        try:
            reports.append(read_report(path))
        except RequestError:
            continue
    if not reports:
        raise RequestError(f"no report of `sosie bench` in {folder}: write one with --json")
    return tuple(reports)


def likeliest_machine(reports: Sequence[Report]) -> Machine:
    """The machine that most of these reports are of."""
    assert reports
    stamps = [report.stamp for report in reports]
    return max(stamps, key=stamps.count)
