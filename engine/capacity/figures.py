"""Figures of a plan, with units and sources, and the reports of `sosie bench` they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from itertools import product
from pathlib import Path
from typing import Any

from msgspec import DecodeError, Struct, json

from engine.errors import RequestError
from indexes.segmented.merging import SegmentsConfig


class FigureOrigin(StrEnum):
    """Origin of a figure: measured here just now, from the machine of a report, or assumed."""

    MEASURED = "measured here"
    REPORTED = "report"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class VectorKind:
    """Vectors of `dim` floats of `float_bytes` each in the gallery's memory."""

    dim: int = 128
    float_bytes: int = 4


USUAL = VectorKind()
"""The vectors that values are assumed for."""
Scale = Callable[[float, VectorKind], float]
"""The value for other vectors than the usual."""


def _as_measured(value: float, _: VectorKind) -> float:
    return value


def _by_length(value: float, kind: VectorKind) -> float:
    return value * (kind.dim / USUAL.dim)


def _by_bytes(codes: float) -> Scale:
    """A float has so many bytes of codes: one of a byte; in memory one of half a byte too."""
    return lambda value, kind: (
        value + (kind.dim * (kind.float_bytes + codes) - USUAL.dim * (USUAL.float_bytes + codes))
    )


def _by_stored_bytes(value: float, kind: VectorKind) -> float:
    """The store has float32, whatever the gallery uses."""
    return value + (kind.dim - USUAL.dim) * USUAL.float_bytes


@dataclass(frozen=True, slots=True)
class Assumed:
    """Label and unit of a quantity, and the value assumed without a measurement, with why.

    `scale` is None where it does not depend on the kind of vectors.
    """

    label: str
    unit: str
    value: float
    why: str
    scale: Scale | None = None


class Quantity(Enum):
    """A quantity that a plan needs, and what is assumed of it."""

    PAIR_ALONE = Assumed(
        "photographs of an enrollment, alone", "core-s", 28.5e-3, "as on two cores of a Xeon"
    )
    PAIR = Assumed("photographs of an enrollment, eight together", "core-s", 24.2e-3, "the same")
    HTTP = Assumed(
        "HTTP, proxy and Ray, an enrollment", "core-s", 3e-3, "a hop between deployments costs one"
    )
    DECISION_ALONE = Assumed(
        "decision and commit, alone, no search",
        "s",
        6e-3,
        "SQLite on a disk that flushes in 2 ms",
        _as_measured,
    )
    DECISION = Assumed(
        "decision and commit, one of 32, no search", "s", 0.6e-3, "the same", _as_measured
    )
    DECISION_SPREAD = Assumed(
        "spread of a batch's time", "of its log", 0.25, "p99 1.8 times the median", _as_measured
    )
    SCAN_ALONE = Assumed(
        "scan of a reference, one probe",
        "core-s",
        9.2e-9,
        "a core reads 14 GB/s of codes",
        _by_length,
    )
    SCAN = Assumed(
        "scan of a reference, a probe of 256",
        "core-s",
        0.6e-9,
        "1.7 G comparisons a core",
        _by_length,
    )
    SCAN_SPREAD = Assumed(
        "spread of a scan's time", "of its log", 0.17, "p99 1.5 times the median", _as_measured
    )
    FAN_OUT = Assumed(
        "asking all shards, beside their scans",
        "s",
        3e-3,
        "a call of Ray to another node",
        _as_measured,
    )
    HOP = Assumed(
        "way between ingress and registrar, and back", "s", 2e-3, "a call of Ray each way"
    )
    REFERENCE_BYTES = Assumed(
        "memory of a reference",
        "bytes",
        722.0,
        "its floats, their codes twice, and its ids",
        _by_bytes(1.5),
    )
    SNAPSHOT_BYTES = Assumed(
        "snapshot, a reference", "bytes", 652.0, "its floats, their codes and its ids", _by_bytes(1)
    )
    MERGE_PEAK = Assumed(
        "memory while all segments merge into one", "times that at rest", 2.0, "the old and the new"
    )
    ROW_BYTES = Assumed(
        "store, a reference with its document and line",
        "bytes",
        1615.0,
        "3 % more on small pages of SQLite",
        _by_stored_bytes,
    )
    ENROLLMENT_BYTES = Assumed(
        "store, an enrollment", "bytes", 3000.0, "--measure measures it", _as_measured
    )
    REGISTRAR_BYTES = Assumed(
        "memory of the registrar, no gallery", "bytes", 0.3e9, "operations.md, sizing"
    )
    INGRESS_BYTES = Assumed("memory of an ingress", "bytes", 0.35e9, "operations.md, sizing")
    OTHER_BYTES = Assumed(
        "memory of Ray and the proxy, a node", "bytes", 1e9, "GCS, raylet, agents, HAProxy"
    )
    START = Assumed(
        "start of the service, its gallery apart", "s", 20.0, "Ray, Serve, models: `bench serve`"
    )
    RESTART = Assumed(
        "from a registrar's end to the next one, its gallery apart", "s", 5.0, "`bench serve`"
    )
    RESTORE = Assumed(
        "start from the store, a reference",
        "s",
        7.3e-6,
        "1,000,000 in 7.3 s on two cores",
        _by_length,
    )
    REOPEN = Assumed(
        "start from a snapshot, a reference",
        "s",
        1.8e-6,
        "`sosie bench registrar` on two cores",
        _by_length,
    )
    SHARD_READ = Assumed(
        "shards from the store: a reference read, whatever shard's",
        "s",
        6.4e-6,
        "`bench shards`",
        _by_length,
    )
    SHARD_BUILD = Assumed(
        "shards from the store: one unsealed and added as well",
        "s",
        11.8e-6,
        "`bench shards`",
        _by_length,
    )
    COPY_BUILD = Assumed(
        "a lost copy made again beside searches, over a lost shard",
        "times",
        2.0,
        "11.8 s, and 5.8 s where all waits: `bench shards`",
    )
    FAILOVER = Assumed(
        "from a registrar's end to the next one's decision", "s", 3.2, "shards kept: `bench shards`"
    )
    COUNT = Assumed(
        "counting the store's references then, each", "s", 0.06e-6, "an index of SQLite is read"
    )
    ERASE = Assumed(
        "rewriting a segment after an erasure, a reference",
        "s",
        2.7e-6,
        "`sosie bench gallery`",
        _by_length,
    )
    SAVE = Assumed(
        "writing a snapshot, a reference", "s", 1e-6, "`sosie bench gallery`", _by_length
    )

    @property
    def key(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class PlanFigure:
    """A value in the unit of its quantity; `source` names the machine, or why it is assumed."""

    value: float
    origin: FigureOrigin
    source: str
    references: float = 0
    """So many there were where it was measured."""


@dataclass(frozen=True, slots=True)
class MeasuredMachine:
    """A machine that figures were measured on."""

    cpu: str
    cores: int
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB"


def assume(quantity: Quantity, kind: VectorKind = USUAL) -> PlanFigure:
    """The figure assumed without a measurement, for vectors of this kind."""
    row = quantity.value
    value = row.value if row.scale is None else row.scale(row.value, kind)
    scaled = f", scaled to {kind.dim} floats of {8 * kind.float_bytes} bits"
    source = row.why if value == row.value else row.why + scaled
    return PlanFigure(value, FigureOrigin.ASSUMED, source)


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """All quantities, known or assumed; `machine` is that of most reports.

    `segment_rows` bounds what a merge or an erasure rewrites at once, whatever the gallery's size.
    """

    machine: MeasuredMachine
    kind: VectorKind
    found: Mapping[Quantity, PlanFigure] = field(repr=False)
    segment_rows: int = SegmentsConfig().segment_rows

    def __getitem__(self, quantity: Quantity) -> PlanFigure:
        known = self.found.get(quantity)
        return assume(quantity, self.kind) if known is None else known

    def value(self, quantity: Quantity) -> float:
        return self[quantity].value

    def list_assumed(self) -> tuple[Quantity, ...]:
        """Quantities without a measurement."""
        return tuple(one for one in Quantity if self[one].origin is FigureOrigin.ASSUMED)

    def to_dict(self) -> dict[str, Any]:
        return {
            one.key: {
                "label": one.value.label,
                "unit": one.value.unit,
                "value": self[one].value,
                "origin": self[one].origin.value,
                "source": self[one].source,
            }
            for one in Quantity
        }


Setup = dict[str, str | int | float | bool]
"""Under which conditions a figure was measured."""


@dataclass(frozen=True, slots=True)
class ReportedResult:
    """What one setup gave on a machine with so many `cores`: values by name and unit."""

    name: str
    setup: Setup
    cores: int
    values: dict[tuple[str, str], float] = field(default_factory=dict)

    def value(self, name: str, unit: str | None = None) -> float:
        """The figure of this name (and unit, where two share the name); NaN if not measured."""
        named = (
            one for (known, own), one in self.values.items() if (known, unit or own) == (name, own)
        )
        return next(named, math.nan)

    def size(self, name: str) -> float:
        """A number of its setup; `RequestError` where it is missing."""
        found = self.setup.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or found <= 0:
            raise RequestError(f"result {self.name!r} does not say its {name}: measure it again")
        return float(found)

    def share(self, name: str, unit: str | None = None, *, times: float = 1) -> float:
        """The figure for each reference."""
        return self.value(name, unit) * (times / self.size("references"))


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """Report of a suite on one machine, a result for each group of one setup; `name` is the
    file's."""

    name: str
    machine: MeasuredMachine
    results: tuple[ReportedResult, ...]

    def result(self, name: str) -> ReportedResult | None:
        return next((one for one in self.results if one.name == name), None)


class _Stats(Struct):
    median: float


class _Info(Struct):
    unit: str
    scale: float
    setup: Setup


class _Benchmark(Struct):
    """An entry of pytest-benchmark's JSON; `scale` times the median is the value in its unit."""

    group: str
    name: str
    extra_info: _Info
    stats: _Stats


class _Document(Struct):
    machine_info: MeasuredMachine
    benchmarks: tuple[_Benchmark, ...]


def read_report(path: Path) -> SuiteReport:
    """Read a report; raises `RequestError` where the file is not one."""
    try:
        document = json.decode(path.read_bytes(), type=_Document)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    except DecodeError as error:
        raise RequestError(
            f"{path} is not a report of `sosie bench` ({error}): write one with --json"
        ) from None
    found: dict[tuple[str, str], ReportedResult] = {}
    for one in document.benchmarks:
        info = one.extra_info
        fresh = ReportedResult(one.group, info.setup, document.machine_info.cores)
        values = found.setdefault((one.group, repr(info.setup)), fresh).values
        values.setdefault((one.name, info.unit), one.stats.median * info.scale)
    return SuiteReport(path.name, document.machine_info, tuple(found.values()))


def read_reports(folder: Path) -> tuple[SuiteReport, ...]:
    """Every report of a folder, by name; other JSON files are skipped."""
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


def most_frequent_machine(reports: Sequence[SuiteReport]) -> MeasuredMachine:
    """The machine of most of these reports."""
    assert reports
    machines = [report.machine for report in reports]
    return max(machines, key=machines.count)


SOSIE = "Sosie, cpu"
ENROLLING = "Enrollments with two photographs"
COSTS = "Processor time of an enrollment"
IN_LIBRARY, IN_SERVICE = "in process: all", "over HTTP: all"
OTHER_PARTS = ("HAProxy", "Serve's proxy", "the rest of Ray")
DECISIONS_AT_ONCE = 32
MIB = 2**20
P99 = 2.326
"""99th percentile of the standard normal distribution."""


def gather_figures(
    reports: Iterable[SuiteReport], kind: VectorKind = USUAL
) -> dict[Quantity, PlanFigure]:
    """Figures of all reports; those of more references win, then later ones.

    Those of galleries and stores only for vectors of this kind.
    """
    found: dict[Quantity, PlanFigure] = {}
    for report, (name, readers) in product(reports, READERS.items()):
        result = report.result(name)
        if result is None:
            continue
        # Suites use float32 and, without `--dim`, the usual size.
        is_of_kind = VectorKind(int(result.setup.get("dim", USUAL.dim))) == kind
        source = f"{report.name}: {name} ({report.machine.cpu}, {report.machine.cores} cores)"
        references = float(result.setup.get("references", 0))
        for quantity, read in readers.items():
            value = read(result)
            is_known = quantity in found and references < found[quantity].references
            is_fit = is_of_kind or quantity.value.scale is None
            if 0 <= value < math.inf and is_fit and not is_known:
                found[quantity] = PlanFigure(value, FigureOrigin.REPORTED, source, references)
    return found


def find_spread(p50: float, p99: float) -> float:
    """Standard deviation of the log of a log-normal time with these quantiles."""
    return math.log(p99 / p50) / P99 if 0 < p50 <= p99 else math.nan


def _find_seconds(result: ReportedResult, name: str, cores: float = 1) -> float:
    """Core-seconds of each, where so many cores do what the figure says in a second."""
    rate = result.value(name)
    return cores / rate if rate > 0 else math.nan


def _find_batch_s(stages: ReportedResult) -> float:
    search, judge = stages.value("the search alone"), stages.value("judging, search included")
    return (max(judge - search, 0.0) + stages.value("commit, and into the gallery")) / 1e3


def _find_scan_s(result: ReportedResult) -> float:
    """Core-seconds per query and reference."""
    return result.share("exact8, the gallery", times=result.size("threads") / 1e3)


def _find_build_s(killed: ReportedResult) -> float:
    """The slope of the line through one shard and all of them: the whole store is read either
    way."""
    one = killed.value("one shard: answers whole again")
    left = killed.size("references") - killed.value("references that it had")
    return (
        max(killed.value("everything from the store") - one, 0.0) / left if left > 0 else math.nan
    )


def _find_read_s(killed: ReportedResult) -> float:
    """What that leaves, with what takes the same time at any size."""
    one = killed.value("one shard: answers whole again")
    built_s = killed.value("references that it had") * _find_build_s(killed)
    return max(one - built_s, 0.0) / killed.size("references")


def find_service_s(costs: ReportedResult) -> float:
    """Core-seconds of an enrollment that the service takes beyond the library."""
    return max(costs.value(IN_SERVICE) - costs.value(IN_LIBRARY), 0.0) / 1e3


def _find_resident(result: ReportedResult, *parts: str) -> float:
    """Bytes of the parts of a service on one machine, its gallery in the registrar's."""
    sizes = [result.value(f"memory at the end: {part}") for part in parts]
    known = [one for one in sizes if not math.isnan(one)]
    return sum(known) * MIB if known else math.nan


Reader = Callable[[ReportedResult], float]
READERS: Mapping[str, Mapping[Quantity, Reader]] = {
    "Pairs of photographs": {Quantity.PAIR: lambda r: _find_seconds(r, SOSIE, r.size("threads"))},
    # One photograph per thread: both threads are busy throughout.
    "One pair at a time": {
        Quantity.PAIR_ALONE: lambda r: r.value(SOSIE) * (r.size("threads") / 1e3)
    },
    "Decisions": {
        # It includes the search of one probe, which is small beside a commit.
        Quantity.DECISION_ALONE: lambda r: _find_seconds(r, "one a transaction"),
        Quantity.DECISION_SPREAD: lambda r: find_spread(
            r.value("a batch, p50"), r.value("a batch, p99")
        ),
    },
    f"Stages of a batch of {DECISIONS_AT_ONCE}": {
        Quantity.DECISION: lambda r: _find_batch_s(r) / DECISIONS_AT_ONCE
    },
    "One query, range": {Quantity.SCAN_ALONE: _find_scan_s},
    "A batch, range": {Quantity.SCAN: _find_scan_s},
    "Searching while everything changes": {
        Quantity.SCAN_SPREAD: lambda r: find_spread(
            r.value("nothing changes: a search"), r.value("nothing changes: a search, p99")
        )
    },
    "Memory": {Quantity.REFERENCE_BYTES: lambda r: r.value("all")},
    "Snapshot": {
        Quantity.SNAPSHOT_BYTES: lambda r: r.share("save", "MB", times=1e6),
        Quantity.SAVE: lambda r: r.share("save", "s"),
    },
    "Gallery": {
        Quantity.RESTORE: lambda r: r.share("open from the store"),
        Quantity.REOPEN: lambda r: r.share("open from a snapshot"),
        Quantity.ROW_BYTES: lambda r: r.value("store"),
    },
    "One shard is killed": {Quantity.SHARD_BUILD: _find_build_s, Quantity.SHARD_READ: _find_read_s},
    "The registrar is killed": {
        Quantity.FAILOVER: lambda r: r.value("killed: until the next decision"),
        Quantity.COUNT: lambda r: r.share("the store counted"),
    },
    # The gallery of the first size is small beside the rest.
    "Start of the service": {
        Quantity.START: lambda r: r.value("ready"),
        Quantity.RESTART: lambda r: r.value("ready after SIGKILL of the registrar"),
    },
    "Erasure": {Quantity.ERASE: lambda r: r.share("segments rewritten, no trace left")},
    # Of any dimension: the new segment is built beside the old ones, in the same form.
    "Merges": {
        Quantity.MERGE_PEAK: lambda r: r.value(
            f"{r.setup.get('dim', USUAL.dim)} dimensions, one segment in the end"
        )
    },
    COSTS: {Quantity.HTTP: find_service_s},
    "Memory under a steady load": {
        # By default one for each core.
        Quantity.INGRESS_BYTES: lambda r: _find_resident(r, "ingress replicas") / r.cores,
        Quantity.REGISTRAR_BYTES: lambda r: (
            _find_resident(r, "registrar")
            - r.size("references") * assume(Quantity.REFERENCE_BYTES).value
        ),
        Quantity.OTHER_BYTES: lambda r: _find_resident(r, *OTHER_PARTS),
    },
}
"""The quantities of a result, by its name."""
