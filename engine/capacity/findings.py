"""What a plan takes from a report: which result, which figure, in which unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from engine.capacity.figures import (
    OF_VECTORS,
    USUAL,
    Figure,
    Origin,
    Quantity,
    VectorKind,
    assume,
)
from engine.capacity.reports import Report, ReportedResult

SOSIE = "Sosie, cpu"
GALLERY = "exact8, the gallery"
IN_PROCESS = "in process, before and after"
ENROLLING = "Enrollments with two photographs"
OTHER_PARTS = ("HAProxy", "Serve's proxy", "the rest of Ray")
CORE_TIME = "us of a core"
BATCH = 32
MIB = 2**20
P99 = 2.326
"""Of a normal distribution, in standard deviations."""

Values = Mapping[Quantity, float | None]
Look = Callable[[ReportedResult, int], Values]


def find_figures(report: Report, kind: VectorKind = USUAL) -> dict[Quantity, Figure]:
    """What this report knows, of galleries and stores of such vectors alone."""
    found: dict[Quantity, Figure] = {}
    for name, look in LOOKS.items():
        result = report.result(name)
        if result is None:
            continue
        is_of_kind = _is_of(kind, result)
        source = f"{report.name}: {name} ({report.machine.cpu}, {report.machine.cores} cores)"
        for quantity, value in look(result, report.machine.cores).items():
            if value is not None and value >= 0 and (is_of_kind or quantity not in OF_VECTORS):
                found[quantity] = Figure(value, Origin.REPORTED, source)
    return found


def gather_figures(reports: Iterable[Report], kind: VectorKind = USUAL) -> dict[Quantity, Figure]:
    """What these know together; where two have a figure, that of the later."""
    found: dict[Quantity, Figure] = {}
    for report in reports:
        found |= find_figures(report, kind)
    return found


def processor_time(result: ReportedResult) -> float | None:
    """Core-seconds of an enrollment over HTTP, in all parts of the service."""
    spent = result.values(CORE_TIME)
    return sum(spent) / 1e6 if spent else None


def find_spread(p50: float | None, p99: float | None) -> float | None:
    """Standard deviation of the logarithm, of a log-normal time with these quantiles."""
    if p50 is None or p99 is None or p50 <= 0 or p99 < p50:
        return None
    return math.log(p99 / p50) / P99


def _is_of(kind: VectorKind, result: ReportedResult) -> bool:
    """Suites keep vectors as float32; one that names no dimension (`--dim`) has the usual."""
    dim = result.setup.get("dim", USUAL.dim)
    return (dim, USUAL.float_bytes) == (kind.dim, kind.float_bytes)


def _read_pairs(result: ReportedResult, _cores: int) -> Values:
    rate = result.value(SOSIE)
    return {Quantity.PAIR: result.size("threads") / rate if rate else None}


def _read_lone_pair(result: ReportedResult, _cores: int) -> Values:
    # A photograph a thread: both threads are busy all the while.
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
        # Its search of one probe is in it, and is small beside a commit.
        Quantity.DECISION_ALONE: 1 / single if single else None,
        Quantity.DECISION_SPREAD: spread,
    }


def _read_lone_scan(result: ReportedResult, _cores: int) -> Values:
    return {Quantity.SCAN_ALONE: _core_seconds(result)}


def _read_scan(result: ReportedResult, _cores: int) -> Values:
    return {Quantity.SCAN: _core_seconds(result)}


def _core_seconds(result: ReportedResult) -> float | None:
    """Of a query and a reference."""
    milliseconds = result.value(GALLERY)
    return _times(milliseconds, result.size("threads") / 1e3 / result.size("references"))


def _read_busy_scan(result: ReportedResult, _cores: int) -> Values:
    p50 = result.value("nothing changes: a search")
    return {Quantity.SCAN_SPREAD: find_spread(p50, result.value("nothing changes: a search, p99"))}


def _read_shards(result: ReportedResult, _cores: int) -> Values:
    whole, split = result.value("one process: one query"), result.value("2 shards: one query")
    if whole is None or split is None:
        return {}
    return {Quantity.FAN_OUT: max(split - whole, 0.0) / 1e3}


def _read_memory(result: ReportedResult, _cores: int) -> Values:
    return {Quantity.REFERENCE_BYTES: result.value("all")}


def _read_snapshot(result: ReportedResult, _cores: int) -> Values:
    megabytes = result.value("save", "MB")
    return {Quantity.SNAPSHOT_BYTES: _times(megabytes, 1e6 / result.size("references"))}


def _read_opening(result: ReportedResult, _cores: int) -> Values:
    seconds = result.value("open from the store")
    return {Quantity.RESTORE: _times(seconds, 1 / result.size("references"))}


def _read_enrollments(result: ReportedResult, cores: int) -> Values:
    """What a service spends beside the library: its processor time, less the library's."""
    own, spent = result.value(IN_PROCESS), processor_time(result)
    if not own or spent is None:
        return {}
    return {Quantity.HTTP: max(spent - cores / own, 0.0)}


def _read_resident(result: ReportedResult, cores: int) -> Values:
    """Memory of the parts of a service on one machine, its gallery in the registrar's."""
    ingresses = result.value("memory at the end: ingress replicas")
    registrar = result.value("memory at the end: registrar")
    others = [result.value(f"memory at the end: {part}") for part in OTHER_PARTS]
    known = [one for one in others if one is not None]
    held = result.size("references") * assume(Quantity.REFERENCE_BYTES).value
    return {
        # One for each core, as it comes.
        Quantity.INGRESS_BYTES: _times(ingresses, MIB / cores),
        Quantity.REGISTRAR_BYTES: None if registrar is None else registrar * MIB - held,
        Quantity.OTHER_BYTES: sum(known) * MIB if known else None,
    }


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


LOOKS: Mapping[str, Look] = {
    "Pairs of photographs": _read_pairs,
    "One pair at a time": _read_lone_pair,
    "Decisions": _read_decisions,
    f"Stages of a batch of {BATCH}": _read_stages,
    "One query, range": _read_lone_scan,
    "A batch, range": _read_scan,
    "Searching while everything changes": _read_busy_scan,
    "Shards": _read_shards,
    "Memory": _read_memory,
    "Snapshot": _read_snapshot,
    "Gallery": _read_opening,
    ENROLLING: _read_enrollments,
    "Memory under a steady load": _read_resident,
}
"""By the name of the result."""
