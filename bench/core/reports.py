"""What a suite hands over: figures side by side, and the promises held against them."""

from __future__ import annotations

import json
import math
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
import numpy as np

from bench.core.machine import Machine
from engine.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray


Setup = dict[str, str | int | float | bool]
"""Under which conditions a figure was measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, or why there is none.

    `low` and `high` are the quartiles of its repeats. `ratio` says how many times as good it is
    as the figure it is compared with, by default the first of its result. `noise` and
    `ratio_noise` are standard deviations, as shares of value and ratio, from one block of repeats
    to another that came later; None where there was one block. `repeats`: how many the value is
    the median of, within a block; None where that is not known.
    """

    name: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    skipped: str | None = None
    noise: float | None = None
    ratio_noise: float | None = None
    repeats: int | None = None

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        samples: Sequence[float] | NDArray[np.float64],
        ratio: float | None = None,
    ) -> Self:
        """The median of repeats, with their quartiles."""
        low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
        return cls(name, unit, float(median), float(low), float(high), ratio, repeats=len(samples))

    @classmethod
    def skip(cls, name: str, unit: str, reason: str) -> Self:
        """A figure that cannot be measured here."""
        return cls(name, unit, skipped=reason)


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one run under the same conditions; `setup` holds data, sizes, seed and threads."""

    name: str
    setup: Setup
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A promised goal, as it is on this machine, and the figure measured for it; `holds` is None
    where `skipped` says why."""

    name: str
    value: float | None
    goal: float
    holds: bool | None
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a suite on one machine, in so many blocks apart in time."""

    machine: Machine
    results: tuple[Result, ...]
    checks: tuple[Check, ...]
    suite: str = ""
    blocks: int = 1

    @property
    def holds(self) -> bool:
        """False where a measured figure misses its goal; a skipped one neither holds nor fails."""
        return all(check.holds is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints; a check that was measured has no `skipped`."""
        document: dict[str, Any] = {"suite": self.suite, "blocks": self.blocks} | asdict(self)
        for check in document["checks"]:
            if check["skipped"] is None:
                del check["skipped"]
        return document

    @classmethod
    def from_dict(cls, document: Any) -> Self:
        """What `to_dict` gave; `ValueError` for anything else.

        Fields that came later than a document are at their defaults.
        """
        try:
            return msgspec.convert(document, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"no report: {error}") from error


REPORTS = Path(__file__).parents[1] / "reports"
"""Those that are committed, a file a run."""
SUMMARY = "summary.json"
"""What a run of all suites says of itself, beside their reports."""


def read_report(path: Path) -> Report:
    """What `--json` wrote; `RequestError` where it is no report.

    A report that does not name its suite is of the one that its file is named after.
    """
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(
            f"{path} is no report: write one by `sosie bench SUITE --json`"
        ) from error


def read_reports(path: Path) -> dict[str, Report]:
    """A file's report, or those of a folder's `*.json`, by the name of the file without `.json`.

    `RequestError` where there is none. Other documents in the folder are left alone.
    """
    if not path.is_dir():
        report = read_report(path)
        return {report.suite or path.stem: report}
    found, _ = _read_folder(path)
    if not found:
        raise RequestError(f"no reports in {path}: `sosie bench report --output` writes some")
    return found


def list_unreadable(path: Path) -> dict[str, str]:
    """Why the files of a folder that are no reports are none, by their names without `.json`."""
    return _read_folder(path)[1]


def _read_folder(path: Path) -> tuple[dict[str, Report], dict[str, str]]:
    found, reasons = {}, {}
    for file in sorted(path.glob("*.json")):
        try:
            found[file.stem] = read_report(file)
        except RequestError as error:
            reasons[file.stem] = str(error)
    return found, reasons


def explain_absent(path: Path) -> dict[str, str]:
    """Why a folder has no report under a name: the suite failed, or its file can't be read."""
    reasons = list_unreadable(path)
    # A run by hand has no summary.
    with suppress(OSError, ValueError, KeyError, TypeError):
        failures = json.loads((path / SUMMARY).read_text(encoding="utf-8"))["failures"]
        reasons |= {str(suite): f"it failed: {why}" for suite, why in dict(failures).items()}
    return reasons


def write_report(path: Path, report: Report) -> None:
    """Writes what `read_report` reads."""
    text = json.dumps(report.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def find_result(reports: Mapping[str, Report], suite: str, name: str) -> Result | None:
    """The first of that name, or None."""
    report = reports.get(suite)
    if report is None:
        return None
    return next((one for one in report.results if one.name == name), None)


def find_figure(
    reports: Mapping[str, Report], suite: str, result: str, name: str, unit: str | None = None
) -> Figure | None:
    """The first of that name, and of that unit where one is given, or None."""
    found = find_result(reports, suite, result)
    if found is None:
        return None
    fits = (one for one in found.figures if one.name == name and unit in {None, one.unit})
    return next(fits, None)


TARGETS = Path(__file__).parents[1] / "targets.toml"


class Direction(StrEnum):
    """Which side of the goal is good; the goal itself holds."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"


REFERENCE = {"int8_gops": 840.0, "float_gflops": 220.0, "read_gb_per_s": 30.0, "python_mops": 30.0}
"""Speeds of the kernels of `Machine` that goals in seconds and rates are stated for."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that the project promises, and the suite that measures it.

    One in seconds or a rate names the `kernel` that bounds it: on a machine whose kernel is half
    as fast as the reference it is twice as many seconds, or half the rate.
    """

    name: str
    suite: str
    goal: float
    direction: Direction
    unit: str
    description: str
    kernel: str = ""

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
        return self.goal == 0

    def worst(self, values: Sequence[float]) -> float:
        """The one that lies farthest on the bad side."""
        return min(values) if self.direction is Direction.AT_LEAST else max(values)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why a figure cannot be measured here."""

    reason: str


NOT_STAMPED = "the machine's speed was not measured: run without --no-stamp"
Measured = float | Skipped
SuiteOutput = tuple[Sequence[Result], dict[str, Measured]]
"""All results of a suite or a part of it, and the figures that its goals name."""


def load_goals(path: Path = TARGETS) -> tuple[Goal, ...]:
    """Read a targets file; raises `RequestError` naming the first entry that is wrong."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["figure"]
    except OSError as error:
        raise RequestError(f"cannot read the targets {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise RequestError(f"{path} is not a list of [[figure]] in TOML") from error
    goals = []
    for entry in entries:
        try:
            goals.append(msgspec.convert(entry, Goal))
        except msgspec.ValidationError as error:
            name = entry.get("name", "without a name")
            raise RequestError(f"{path}: figure {name}: {error}") from error
    names = [(goal.suite, goal.name) for goal in goals]
    twice = next((name for suite, name in names if names.count((suite, name)) > 1), None)
    if twice is not None:
        raise RequestError(f"{path}: figure {twice} is there twice: remove one")
    return tuple(goals)


def check_goals(
    goals: Sequence[Goal], suite: str, measured: Mapping[str, Measured], machine: Machine
) -> tuple[Check, ...]:
    """A check for each goal of the suite, as it is on this machine, in the file's order.

    Raises `RequestError` for a goal whose figure the suite does not know: a misspelt one would
    silently never be checked.
    """
    checks = []
    for goal in goals:
        if goal.suite != suite:
            continue
        if goal.name not in measured:
            raise RequestError(f"the suite {suite} has no figure {goal.name}: correct the targets")
        value, here = measured[goal.name], goal.scale(machine)
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


PART = "part"
"""Names in a result's setup the part of its suite, where a suite has parts that run alone."""
LEFT_OUT = "--only without"
"""How the reason of a figure begins whose part was not asked for."""


def require_renewable(old: Report, suite: str, machine: Machine) -> None:
    """`RequestError` where another suite or another machine measured the report."""
    was, now = ((one.cpu, one.cores, one.memory_bytes) for one in (old.machine, machine))
    if old.suite != suite or was != now:
        raise RequestError("that report is of another suite or machine: write one anew")


def renew(old: Report, new: Report) -> Report:
    """What `new` measured, and of the parts that it left out what the old report has."""
    # A result of a suite that names no parts is a part by itself.
    parts = {one.setup.get(PART, one.name) for one in new.results}
    kept = [one for one in old.results if one.setup.get(PART, one.name) not in parts]
    known = {one.name: one for one in old.checks}
    checks = tuple(
        known.get(one.name, one) if (one.skipped or "").startswith(LEFT_OUT) else one
        for one in new.checks
    )
    return replace(new, results=(*new.results, *kept), checks=checks)


Key = tuple[str, str, int]
"""Result or figure: its name, its unit, and which of those that are called so."""
Named = TypeVar("Named", bound=Result | Figure)


def merge_blocks(blocks: Sequence[Report]) -> Report:
    """Medians over the blocks, and how the blocks differ; one block is given back as it is.

    A block is a process of its own, apart in time: repeats within one process don't show how a
    figure differs in the next, whose memory lies elsewhere, or a minute later on a shared machine.
    Where right or wrong is counted, the worst block stands.
    """
    first = blocks[0]
    if len(blocks) == 1:
        return first
    results = [
        replace(same[0], figures=tuple(map(_merge_figures, _pair_up([r.figures for r in same]))))
        for same in _pair_up([block.results for block in blocks])
    ]
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    checks = []
    for check in first.checks:
        same = [one for block in blocks for one in block.checks if one.name == check.name]
        checks.append(_merge_checks(same, goals.get((first.suite, check.name))))
    return replace(first, results=tuple(results), checks=tuple(checks), blocks=len(blocks))


def key_all(items: Sequence[Named]) -> Iterator[tuple[Key, Named]]:
    """Items by a unique key, the same in every run: a name alone may be there twice."""
    seen: Counter[tuple[str, str]] = Counter()
    for item in items:
        name = (item.name, item.unit if isinstance(item, Figure) else "")
        yield (*name, seen[name]), item
        seen[name] += 1


def spread(values: Sequence[float]) -> float | None:
    """Their standard deviation as a share of the median.

    None for one value, and where the median is 0.
    """
    median = statistics.median(values)
    return abs(statistics.stdev(values) / median) if len(values) > 1 and median else None


def _pair_up(runs: Sequence[Sequence[Named]]) -> list[list[Named]]:
    """Items of the first run, each with its counterparts of the other runs."""
    keyed = [dict(key_all(one)) for one in runs]
    return [[other[key] for other in keyed if key in other] for key in keyed[0]]


def _merge_figures(same: Sequence[Figure]) -> Figure:
    values = [one.value for one in same if one.value is not None]
    if not values:
        return same[0]
    ratios = [one.ratio for one in same if one.ratio is not None]
    return Figure(
        name=same[0].name,
        unit=same[0].unit,
        value=statistics.median(values),
        low=_median([one.low for one in same]),
        high=_median([one.high for one in same]),
        ratio=statistics.median(ratios) if ratios else None,
        noise=spread(values),
        ratio_noise=spread(ratios) if ratios else None,
        repeats=same[0].repeats,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _merge_checks(same: Sequence[Check], goal: Goal | None) -> Check:
    values = [one.value for one in same if one.value is not None]
    if goal is None or not values:
        return same[0]
    if len(values) < len(same) and not goal.counts_errors:
        return next(one for one in same if one.value is None)
    value = goal.worst(values) if goal.counts_errors else statistics.median(values)
    measured = next(one for one in same if one.value is not None)
    return replace(measured, value=value, holds=replace(goal, goal=measured.goal).is_met(value))
