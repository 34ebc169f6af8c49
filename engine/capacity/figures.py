"""Figures of a plan, with units and sources, and the reports of `sosie bench` they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import RequestError
from indexes.segmented.merging import SegmentsConfig


class FigureOrigin(StrEnum):
    """Origin of a figure: measured here just now, from the machine of a report, or assumed."""

    MEASURED = "measured here"
    REPORTED = "report"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Assumed:
    """Label and unit of a quantity, and the value assumed without a measurement, with why."""

    label: str
    unit: str
    value: float
    why: str


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
        "decision and commit, alone, no search", "s", 6e-3, "SQLite on a disk that flushes in 2 ms"
    )
    DECISION = Assumed("decision and commit, one of 32, no search", "s", 0.6e-3, "the same")
    DECISION_SPREAD = Assumed(
        "spread of a batch's time", "of its log", 0.25, "p99 1.8 times the median"
    )
    SCAN_ALONE = Assumed(
        "scan of a reference, one probe", "core-s", 9.2e-9, "a core reads 14 GB/s of codes"
    )
    SCAN = Assumed(
        "scan of a reference, a probe of 256", "core-s", 0.6e-9, "1.7 G comparisons a core"
    )
    SCAN_SPREAD = Assumed("spread of a scan's time", "of its log", 0.17, "p99 1.5 times the median")
    FAN_OUT = Assumed(
        "asking all shards, beside their scans", "s", 3e-3, "a call of Ray to another node"
    )
    HOP = Assumed(
        "way between ingress and registrar, and back", "s", 2e-3, "a call of Ray each way"
    )
    REFERENCE_BYTES = Assumed(
        "memory of a reference", "bytes", 722.0, "its floats, their codes twice, and its ids"
    )
    SNAPSHOT_BYTES = Assumed(
        "snapshot, a reference", "bytes", 652.0, "its floats, their codes and its ids"
    )
    MERGE_PEAK = Assumed(
        "memory while all segments merge into one", "times that at rest", 2.0, "the old and the new"
    )
    ROW_BYTES = Assumed(
        "store, a reference with its document and line",
        "bytes",
        1615.0,
        "3 % more on small pages of SQLite",
    )
    ENROLLMENT_BYTES = Assumed("store, an enrollment", "bytes", 3000.0, "--measure measures it")
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
        "start from the store, a reference", "s", 7.3e-6, "1,000,000 in 7.3 s on two cores"
    )
    REOPEN = Assumed(
        "start from a snapshot, a reference", "s", 1.8e-6, "`sosie bench registrar` on two cores"
    )
    SHARD_READ = Assumed(
        "shards from the store: a reference read, whatever shard's", "s", 6.4e-6, "`bench shards`"
    )
    SHARD_BUILD = Assumed(
        "shards from the store: one unsealed and added as well", "s", 11.8e-6, "`bench shards`"
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
        "rewriting a segment after an erasure, a reference", "s", 2.7e-6, "`sosie bench gallery`"
    )
    SAVE = Assumed("writing a snapshot, a reference", "s", 1e-6, "`sosie bench gallery`")

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


Found = Mapping[Quantity, PlanFigure]


@dataclass(frozen=True, slots=True)
class VectorKind:
    """Vectors of `dim` floats of `float_bytes` each in the gallery's memory."""

    dim: int = 128
    float_bytes: int = 4


USUAL = VectorKind()
"""The vectors that values are assumed for."""
VECTOR_DEPENDENT = frozenset(Quantity) - {
    Quantity.PAIR_ALONE,
    Quantity.PAIR,
    Quantity.HTTP,
    Quantity.HOP,
    Quantity.REGISTRAR_BYTES,
    Quantity.INGRESS_BYTES,
    Quantity.OTHER_BYTES,
    Quantity.MERGE_PEAK,
    Quantity.START,
    Quantity.RESTART,
    Quantity.FAILOVER,
    Quantity.COUNT,
    Quantity.COPY_BUILD,
}
"""Quantities that depend on the kind of vectors."""


def assume(quantity: Quantity, kind: VectorKind = USUAL) -> PlanFigure:
    """The figure assumed without a measurement, for vectors of this kind."""
    assumed = quantity.value
    value = assumed.value
    match quantity:
        case Quantity.REFERENCE_BYTES | Quantity.SNAPSHOT_BYTES:
            # A float and its code of a byte; in memory one of half a byte too.
            codes = 1.5 if quantity is Quantity.REFERENCE_BYTES else 1
            value += kind.dim * (kind.float_bytes + codes) - USUAL.dim * (USUAL.float_bytes + codes)
        case Quantity.ROW_BYTES:
            # The store has float32, whatever the gallery uses.
            value += (kind.dim - USUAL.dim) * USUAL.float_bytes
        case Quantity.SCAN_ALONE | Quantity.SCAN:
            value *= kind.dim / USUAL.dim
        case Quantity.RESTORE | Quantity.REOPEN | Quantity.ERASE | Quantity.SAVE:
            value *= kind.dim / USUAL.dim
        case Quantity.SHARD_READ | Quantity.SHARD_BUILD:
            value *= kind.dim / USUAL.dim
    scaled = f", scaled to {kind.dim} floats of {8 * kind.float_bytes} bits"
    source = assumed.why if value == assumed.value else assumed.why + scaled
    return PlanFigure(value, FigureOrigin.ASSUMED, source)


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """All quantities, known or assumed; `machine` is that of most reports.

    `segment_rows` bounds what a merge or an erasure rewrites at once, whatever the gallery's size.
    """

    machine: MeasuredMachine
    kind: VectorKind
    found: Found = field(repr=False)
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


def overlay(*layers: Found) -> dict[Quantity, PlanFigure]:
    """The figures of all layers; later ones win."""
    return {quantity: figure for layer in layers for quantity, figure in layer.items()}


Setup = dict[str, str | int | float | bool]
"""Under which conditions a figure was measured."""


class _Read(BaseModel):
    # Reports of later versions may have more fields.
    model_config = ConfigDict(extra="ignore", frozen=True)


@dataclass(frozen=True, slots=True)
class ReportedResult:
    """What one setup gave: values by name and unit."""

    name: str
    setup: Setup
    values: dict[tuple[str, str], float] = field(default_factory=dict)

    def value(self, name: str, unit: str | None = None) -> float | None:
        """The figure of this name (and unit, where two share the name), if it was measured."""
        for (known, its_unit), value in self.values.items():
            if known == name and unit in (None, its_unit):
                return value if math.isfinite(value) else None
        return None

    def size(self, name: str) -> float:
        """A number of its setup; `RequestError` where it is missing."""
        found = self.setup.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or found <= 0:
            raise RequestError(f"result {self.name!r} does not say its {name}: measure it again")
        return float(found)


class _Stats(_Read):
    median: float


class _Info(_Read):
    unit: str
    scale: float
    setup: Setup


class _Benchmark(_Read):
    """An entry of pytest-benchmark's JSON; `scale` times the median is the value in its unit."""

    group: str
    name: str
    extra_info: _Info
    stats: _Stats


class SuiteReport(_Read):
    """Report of a suite on one machine; `name` is the file's."""

    machine: MeasuredMachine = Field(alias="machine_info")
    benchmarks: tuple[_Benchmark, ...]
    name: str = ""

    @cached_property
    def results(self) -> tuple[ReportedResult, ...]:
        """A result for each group of one setup."""
        found: dict[tuple[str, str], ReportedResult] = {}
        for one in self.benchmarks:
            info = one.extra_info
            key = (one.group, repr(info.setup))
            result = found.setdefault(key, ReportedResult(one.group, info.setup))
            result.values.setdefault((one.name, info.unit), one.stats.median * info.scale)
        return tuple(found.values())

    def result(self, name: str) -> ReportedResult | None:
        return next((one for one in self.results if one.name == name), None)


def read_report(path: Path) -> SuiteReport:
    """Read a report; raises `RequestError` where the file is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not a report of `sosie bench`: it is not text") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    try:
        report = SuiteReport.model_validate_json(text)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its beginning"
        raise RequestError(
            f"{path} is not a report of `sosie bench` (see {where}): write one with --json"
        ) from None
    return report.model_copy(update={"name": path.name})


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
GALLERY = "exact8, the gallery"
ENROLLING = "Enrollments with two photographs"
COSTS = "Processor time of an enrollment"
OTHER_PARTS = ("HAProxy", "Serve's proxy", "the rest of Ray")
BATCH = 32
MIB = 2**20
P99 = 2.326
"""99th percentile of the standard normal distribution."""

Values = Mapping[Quantity, float | None]
ReadValues = Callable[[ReportedResult, int], Values]


def find_figures(report: SuiteReport, kind: VectorKind = USUAL) -> dict[Quantity, PlanFigure]:
    """Figures of a report; those of galleries and stores only for vectors of this kind."""
    found: dict[Quantity, PlanFigure] = {}
    for name, read_values in READERS.items():
        result = report.result(name)
        if result is None:
            continue
        is_of_kind = _is_of(kind, result)
        source = f"{report.name}: {name} ({report.machine.cpu}, {report.machine.cores} cores)"
        references = float(result.setup.get("references", 0))
        for quantity, value in read_values(result, report.machine.cores).items():
            if (
                value is not None
                and value >= 0
                and (is_of_kind or quantity not in VECTOR_DEPENDENT)
            ):
                found[quantity] = PlanFigure(value, FigureOrigin.REPORTED, source, references)
    return found


def gather_figures(
    reports: Iterable[SuiteReport], kind: VectorKind = USUAL
) -> dict[Quantity, PlanFigure]:
    """Figures of all reports; those of more references win, then later ones."""
    found: dict[Quantity, PlanFigure] = {}
    for report in reports:
        for quantity, figure in find_figures(report, kind).items():
            if quantity not in found or figure.references >= found[quantity].references:
                found[quantity] = figure
    return found


@dataclass(frozen=True, slots=True)
class EnrollmentTime:
    """Core-seconds of an enrollment: of the library alone, and over HTTP in all parts."""

    library_s: float
    service_s: float

    @classmethod
    def of(cls, costs: ReportedResult | None) -> Self | None:
        library_ms, service_ms = (
            None if costs is None else costs.value(f"{name}: all")
            for name in ("in process", "over HTTP")
        )
        if not library_ms or not service_ms:
            return None
        return cls(library_ms / 1e3, service_ms / 1e3)

    @property
    def beyond_s(self) -> float:
        """What the service takes beyond the library."""
        return max(self.service_s - self.library_s, 0.0)


def find_spread(p50: float | None, p99: float | None) -> float | None:
    """Standard deviation of the log of a log-normal time with these quantiles."""
    if p50 is None or p99 is None or p50 <= 0 or p99 < p50:
        return None
    return math.log(p99 / p50) / P99


def _is_of(kind: VectorKind, result: ReportedResult) -> bool:
    """Whether a result is of this kind; suites use float32 and, without `--dim`, the usual size."""
    dim = result.setup.get("dim", USUAL.dim)
    return (dim, USUAL.float_bytes) == (kind.dim, kind.float_bytes)


def _read_pairs(result: ReportedResult, _cores: int) -> Values:
    rate = result.value(SOSIE)
    return {Quantity.PAIR: result.size("threads") / rate if rate else None}


def _read_lone_pair(result: ReportedResult, _cores: int) -> Values:
    # One photograph per thread: both threads are busy throughout.
    return {Quantity.PAIR_ALONE: _times(result.value(SOSIE), result.size("threads") / 1e3)}


def _read_stages(result: ReportedResult, _cores: int) -> Values:
    search, judge = result.value("the search alone"), result.value("judging, search included")
    publish = result.value("commit, and into the gallery")
    if search is None or judge is None or publish is None:
        return {}
    return {Quantity.DECISION: (max(judge - search, 0.0) + publish) / 1e3 / BATCH}


def _read_decisions(result: ReportedResult, _cores: int) -> Values:
    single = result.value("one a transaction")
    spread = find_spread(result.value("a batch, p50"), result.value("a batch, p99"))
    return {
        # It includes the search of one probe, which is small beside a commit.
        Quantity.DECISION_ALONE: 1 / single if single else None,
        Quantity.DECISION_SPREAD: spread,
    }


def _read_lone_scan(result: ReportedResult, _cores: int) -> Values:
    return {Quantity.SCAN_ALONE: _core_seconds(result)}


def _read_scan(result: ReportedResult, _cores: int) -> Values:
    return {Quantity.SCAN: _core_seconds(result)}


def _core_seconds(result: ReportedResult) -> float | None:
    """Core-seconds per query and reference."""
    milliseconds = result.value(GALLERY)
    return _times(milliseconds, result.size("threads") / 1e3 / result.size("references"))


def _read_busy_scan(result: ReportedResult, _cores: int) -> Values:
    p50 = result.value("nothing changes: a search")
    return {Quantity.SCAN_SPREAD: find_spread(p50, result.value("nothing changes: a search, p99"))}


def _read_memory(result: ReportedResult, _cores: int) -> Values:
    return {Quantity.REFERENCE_BYTES: result.value("all")}


def _read_snapshot(result: ReportedResult, _cores: int) -> Values:
    references = result.size("references")
    return {
        Quantity.SNAPSHOT_BYTES: _times(result.value("save", "MB"), 1e6 / references),
        Quantity.SAVE: _times(result.value("save", "s"), 1 / references),
    }


def _read_opening(result: ReportedResult, _cores: int) -> Values:
    references = result.size("references")
    return {
        Quantity.RESTORE: _times(result.value("open from the store"), 1 / references),
        Quantity.REOPEN: _times(result.value("open from a snapshot"), 1 / references),
        Quantity.ROW_BYTES: result.value("store"),
    }


def _read_lost_shard(result: ReportedResult, _cores: int) -> Values:
    """The line through one shard and all of them: the whole store is read either way."""
    everything, one = (
        result.value(name)
        for name in ("everything from the store", "one shard: answers whole again")
    )
    held, references = result.value("references that it had"), result.size("references")
    if everything is None or one is None or held is None or held >= references:
        return {}
    build_s = max(everything - one, 0.0) / (references - held)
    return {
        Quantity.SHARD_BUILD: build_s,
        # What takes the same time at any size is in it.
        Quantity.SHARD_READ: max(one - held * build_s, 0.0) / references,
    }


def _read_start(result: ReportedResult, _cores: int) -> Values:
    # The gallery of the first size is small beside the rest.
    return {
        Quantity.START: result.value("ready"),
        Quantity.RESTART: result.value("ready after SIGKILL of the registrar"),
    }


def _read_failover(result: ReportedResult, _cores: int) -> Values:
    counting = result.value("the store counted")
    return {
        Quantity.FAILOVER: result.value("killed: until the next decision"),
        Quantity.COUNT: _times(counting, 1 / result.size("references")),
    }


def _read_erasure(result: ReportedResult, _cores: int) -> Values:
    seconds = result.value("segments rewritten, no trace left")
    return {Quantity.ERASE: _times(seconds, 1 / result.size("references"))}


def _read_merges(result: ReportedResult, _cores: int) -> Values:
    # Of any dimension: the new segment is built beside the old ones, in the same form.
    dim = result.setup.get("dim", USUAL.dim)
    return {Quantity.MERGE_PEAK: result.value(f"{dim} dimensions, one segment in the end")}


def _read_costs(result: ReportedResult, _cores: int) -> Values:
    time = EnrollmentTime.of(result)
    return {Quantity.HTTP: None if time is None else time.beyond_s}


def _read_resident(result: ReportedResult, cores: int) -> Values:
    """Memory of the parts of a service on one machine, its gallery in the registrar's."""
    ingresses = result.value("memory at the end: ingress replicas")
    registrar = result.value("memory at the end: registrar")
    others = [result.value(f"memory at the end: {part}") for part in OTHER_PARTS]
    known = [one for one in others if one is not None]
    held = result.size("references") * assume(Quantity.REFERENCE_BYTES).value
    return {
        # By default one for each core.
        Quantity.INGRESS_BYTES: _times(ingresses, MIB / cores),
        Quantity.REGISTRAR_BYTES: None if registrar is None else registrar * MIB - held,
        Quantity.OTHER_BYTES: sum(known) * MIB if known else None,
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


READERS: Mapping[str, ReadValues] = {
    "Pairs of photographs": _read_pairs,
    "One pair at a time": _read_lone_pair,
    "Decisions": _read_decisions,
    f"Stages of a batch of {BATCH}": _read_stages,
    "One query, range": _read_lone_scan,
    "A batch, range": _read_scan,
    "Searching while everything changes": _read_busy_scan,
    "Memory": _read_memory,
    "Snapshot": _read_snapshot,
    "Gallery": _read_opening,
    "One shard is killed": _read_lost_shard,
    "The registrar is killed": _read_failover,
    "Start of the service": _read_start,
    "Erasure": _read_erasure,
    "Merges": _read_merges,
    COSTS: _read_costs,
    "Memory under a steady load": _read_resident,
}
"""Functions that read the quantities of a result, by its name."""
