"""What a suite hands over: figures side by side, and the promises held against them."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.core.machine import MEMORY, Machine, filesystem_of
from engine.errors import RequestError
from schema import frozen

Setup = dict[str, str | int | float | bool]
"""Under which conditions a figure was measured."""


@frozen
class Figure:
    """One measured number, or why there is none.

    `low` and `high` are the quartiles of its repeats, the `samples`. `ratio`: how many times as
    good it is as what it is compared with, by default the first figure of its result.
    """

    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    skipped: str | None = None
    samples: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        samples: Sequence[float] | NDArray[np.float64],
        ratio: float | None = None,
    ) -> Self:
        """The median of repeats, with their quartiles."""
        low, median, high = map(float, np.quantile(samples, [0.25, 0.5, 0.75]))
        return cls(name, unit, median, low, high, ratio, samples=tuple(map(float, samples)))

    @classmethod
    def skip(cls, name: str, unit: str, reason: str) -> Self:
        """A figure that cannot be measured here."""
        return cls(name, unit, skipped=reason)


@frozen
class Result:
    """Figures of one run under the same conditions; `setup` holds data, sizes, seed and threads."""

    name: str
    setup: Setup
    figures: tuple[Figure, ...]

    def find(self, name: str, unit: str | None = None) -> Figure | None:
        """The first of that name, and of that unit where one is given."""
        fits = (one for one in self.figures if one.name == name and unit in {None, one.unit})
        return next(fits, None)


@frozen
class Check:
    """A promised goal, as it is on this machine, and the figure measured for it; `holds` is None
    where `skipped` says why."""

    name: str
    value: float | None
    goal: float
    holds: bool | None
    skipped: str | None = None


@frozen
class Report:
    """One run of a suite on one machine."""

    machine: Machine
    results: tuple[Result, ...]
    checks: tuple[Check, ...]
    suite: str = ""

    @property
    def holds(self) -> bool:
        """False where a measured figure misses its goal; a skipped one neither holds nor fails."""
        return all(check.holds is not False for check in self.checks)

    def find(self, name: str) -> Result | None:
        """The first result of that name."""
        return next((one for one in self.results if one.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of pytest-benchmark, a benchmark a figure, its result the group, times in
        seconds; beside it `suite`, `checks`, and `skipped` with figures that were not measured."""
        entries = [
            _write_figure(self.suite, result, figure)
            for result in self.results
            for figure in result.figures
        ]
        return {
            "version": version("pytest-benchmark"),
            "datetime": datetime.now(UTC).isoformat(),
            "suite": self.suite,
            "machine_info": asdict(self.machine),
            "commit_info": {},
            "benchmarks": [one for one in entries if "stats" in one],
            "skipped": [one for one in entries if "stats" not in one],
            "checks": [
                {key: value for key, value in asdict(check).items() if key != "skipped" or value}
                for check in self.checks
            ],
        }

    @classmethod
    def from_dict(cls, document: Any) -> Self:
        """What `to_dict` or pytest gave; `ValueError` for anything else."""
        try:
            entries = [*document["benchmarks"], *document.get("skipped", ())]
            machine = msgspec.convert(document["machine_info"], Machine)
            checks = msgspec.convert(document.get("checks", ()), tuple[Check, ...])
            return cls(machine, _read_results(entries), checks, document.get("suite", ""))
        except (msgspec.ValidationError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no report: {error}") from error


SECONDS = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}
"""So many of a unit make a second."""


def _write_figure(suite: str, result: Result, figure: Figure) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    scale = SECONDS.get(re.split(r"[ /]", figure.unit)[0], 1.0)
    info: dict[str, Any] = {"unit": figure.unit, "scale": scale, "setup": result.setup}
    if figure.ratio is not None:
        info["ratio"] = figure.ratio
    entry: dict[str, Any] = {
        "group": result.name,
        "name": figure.name,
        "fullname": f"{suite}::{result.name}::{figure.name} {figure.unit}",
        "params": None,
        "param": None,
        "extra_info": info,
        "options": {},
    }
    if figure.value is None:
        info["skipped"] = figure.skipped
        return entry
    stats = Stats()
    stats.data = [one / scale for one in figure.samples or (figure.value,)]
    entry["stats"] = stats.as_dict() | {"data": stats.data, "iterations": 1}
    if figure.low is not None and figure.high is not None:
        low, high = figure.low / scale, figure.high / scale
        entry["stats"] |= {"q1": low, "q3": high, "iqr": high - low}
    return entry


def _read_results(entries: Sequence[dict[str, Any]]) -> tuple[Result, ...]:
    """A result for each group of one setup, in the order of their first figures."""
    found: dict[tuple[str, str], Result] = {}
    for entry in entries:
        setup = entry["extra_info"].get("setup", {})
        key = (entry["group"] or "", json.dumps(setup, sort_keys=True))
        known = found.get(key, Result(entry["group"] or "", setup, ()))
        found[key] = replace(known, figures=(*known.figures, _read_figure(entry)))
    return tuple(found.values())


def _read_figure(entry: dict[str, Any]) -> Figure:
    info, stats = entry["extra_info"], entry.get("stats")
    name, unit = entry["name"], info["unit"]
    if stats is None:
        return Figure.skip(name, unit, info["skipped"])
    scale = info["scale"]
    value, low, high = (stats[one] * scale for one in ("median", "q1", "q3"))
    if low == high:
        return Figure(name, unit, value, ratio=info.get("ratio"))
    samples = tuple(one * scale for one in stats.get("data", ()))
    return Figure(name, unit, value, low, high, info.get("ratio"), samples=samples)


REPORTS = Path(__file__).parents[1] / "reports"
"""Those that are committed, a file a run."""


def read_report(path: Path) -> Report:
    """What `--json` wrote; `RequestError` where it is no report."""
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(
            f"{path} is no report: write one by `sosie bench SUITE --json`"
        ) from error


def read_reports(path: Path) -> dict[str, Report]:
    """Those among a folder's `*.json`, by name; `RequestError` without any."""
    found = {}
    for file in sorted(path.glob("*.json")):
        with suppress(RequestError):
            found[file.stem] = read_report(file)
    if not found:
        raise RequestError(f"no reports in {path}: `sosie bench report --output` writes some")
    return found


def write_report(path: Path, report: Report) -> None:
    """Writes what `read_report` reads."""
    text = json.dumps(report.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


TARGETS = Path(__file__).parents[1] / "targets.toml"


class Direction(StrEnum):
    """Which side of the goal is good; the goal itself holds."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"


REFERENCE = {"int8_gops": 840.0, "float_gflops": 220.0, "read_gb_per_s": 30.0, "python_mops": 30.0}
"""Speeds of the kernels of `Machine` that goals in seconds and rates are stated for."""


@frozen
class Goal:
    """A figure that the project promises, and the suite that measures it.

    One in seconds or a rate names the `kernel` that bounds it: where that is half as fast as the
    reference it is twice as many seconds, or half the rate. `n`: promised for so many references,
    where not for the suite's default.
    """

    name: str
    suite: str
    goal: float
    direction: Direction
    unit: str
    description: str
    kernel: str = ""
    n: int = 0

    def __post_init__(self) -> None:
        if self.kernel and self.kernel not in REFERENCE:
            raise ValueError(f"no kernel {self.kernel}: choose of {', '.join(REFERENCE)}")

    def scale(self, machine: Machine) -> Self | None:
        """The goal on this machine; None where the kernel that it names was not measured."""
        if not self.kernel:
            return self
        measured = getattr(machine, self.kernel)
        if not measured:
            return None
        speed = measured / REFERENCE[self.kernel]
        is_rate = self.direction is Direction.AT_LEAST
        return replace(self, goal=self.goal * speed if is_rate else self.goal / speed)

    def is_met(self, value: float) -> bool:
        if self.direction is Direction.AT_LEAST:
            return value >= self.goal
        return value <= self.goal

    @property
    def counts_errors(self) -> bool:
        """Whether it allows none: one block that errs is one too many."""
        if self.direction is Direction.AT_LEAST:
            return self.goal == 1 and self.unit == "share"
        return self.goal <= 0

    def explain_unpromised(self, config: Any) -> str:
        """Why a run of a suite with this configuration proves nothing; empty where it does: a goal
        that allows no error at any size, the others at the suite's own sizes, and on a disk."""
        size, *_ = (getattr(config, one.name) for one in fields(config))
        if self.n:
            return "" if size >= self.n else f"promised for {self.n:,} references or more"
        if self.counts_errors:
            return ""
        if folder := getattr(config, "folder", None):
            kind = filesystem_of(folder)
            if kind in MEMORY:
                return f"{folder} is {kind}: not durable"
        usual = type(config)()
        pairs = ((x.name, getattr(config, x.name), getattr(usual, x.name)) for x in fields(config))
        other = next((name for name, *pair in pairs if _is_smaller(name, *pair)), None)
        return f"promised for the default sizes, not for this {other}" if other else ""


def _is_smaller(name: str, given: Any, usual: Any) -> bool:
    """Whether a run with this field of a configuration proves less than the suite as it comes."""
    if is_dataclass(given) or name == "dim":
        return bool(given != usual)
    is_size = isinstance(given, int | float) and name != "seed"
    return is_size and (usual is None or given < usual)


@frozen
class Skipped:
    """Why a figure cannot be measured here."""

    reason: str


NOT_STAMPED = "the machine's speed was not measured: run without --quick"
Measured = float | Skipped
SuiteOutput = tuple[Sequence[Result], Mapping[str, Measured]]
"""All results of a suite or a part of it, and the figures that its goals name."""


def load_goals() -> tuple[Goal, ...]:
    """Read the targets; raises `RequestError` that says what is wrong with them."""
    try:
        found = msgspec.toml.decode(TARGETS.read_bytes(), type=dict[str, tuple[Goal, ...]])
        return found["figure"]
    except (OSError, msgspec.DecodeError, KeyError) as error:
        raise RequestError(f"cannot read the targets {TARGETS}: {error}") from error


def check_goals(
    goals: Sequence[Goal],
    suite: str,
    measured: Mapping[str, Measured],
    machine: Machine,
    config: Any = None,
) -> tuple[Check, ...]:
    """A check for each goal of the suite, as it is on this machine, in the file's order; skipped
    where a run with this configuration proves nothing.

    `RequestError` for a goal whose figure the suite does not know, which else nobody would check.
    """
    checks = []
    for goal in goals:
        if goal.suite != suite:
            continue
        if goal.name not in measured:
            raise RequestError(f"the suite {suite} has no figure {goal.name}: correct the targets")
        value, here = measured[goal.name], goal.scale(machine)
        why_not = goal.explain_unpromised(config) if config is not None else ""
        if why_not and not isinstance(value, Skipped):
            value = Skipped(why_not)
        if isinstance(value, Skipped):
            checks.append(Check(goal.name, None, (here or goal).goal, None, value.reason))
        elif here is None:
            checks.append(Check(goal.name, None, goal.goal, None, NOT_STAMPED))
        else:
            # JSON has neither: what never came, or could not be measured.
            told = value if math.isfinite(value) else None
            checks.append(Check(goal.name, told, here.goal, here.is_met(value)))
    return tuple(checks)


def choose_names(text: str, known: Iterable[str], refusal: str) -> tuple[str, ...]:
    """Names with commas between them; `RequestError` says `refusal` of the first unknown one."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in (known := tuple(known)):
            raise RequestError(refusal.format(name=name, known=", ".join(known)))
    return names


LEFT_OUT = "--only without"
"""How the reason of a figure begins whose part was not asked for."""
