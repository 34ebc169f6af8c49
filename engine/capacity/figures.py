"""Figures of a plan, with their units and sources."""

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum, StrEnum
from typing import Any

from indexes.segmented.merging import SegmentsConfig
from schema import frozen


class FigureOrigin(StrEnum):
    """Origin of a figure: measured here just now, or assumed."""

    MEASURED = "measured here"
    ASSUMED = "assumed"


@frozen
class VectorKind:
    """Vectors of `dim` floats of `float_bytes` each in the gallery's memory."""

    dim: int = 128
    float_bytes: int = 4


USUAL = VectorKind()
"""The vectors that values are assumed for."""
Scale = Callable[[float, VectorKind], float]
"""The value for other vectors than the usual."""


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


@frozen
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

    PAIR_ALONE = Assumed("photographs of an enrollment, alone", "core-s", 44e-3, "`bench extract`")
    PAIR = Assumed(
        "photographs of an enrollment, eight together", "core-s", 35e-3, "`bench extract`"
    )
    HTTP = Assumed("HTTP, proxy and Ray, an enrollment", "core-s", 5.9e-3, "`bench serve`")
    DECISION_ALONE = Assumed(
        "decision and commit, alone, no search", "s", 7.8e-3, "SQLite: `bench registrar`"
    )
    DECISION = Assumed("decision and commit, one of 32, no search", "s", 1e-3, "`bench registrar`")
    DECISION_SPREAD = Assumed(
        "spread of a batch's time", "of its log", 0.84, "p99 7 times the median"
    )
    SCAN_ALONE = Assumed(
        "scan of a reference, one probe",
        "core-s",
        7.2e-9,
        "a core reads 18 GB/s of codes",
        _by_length,
    )
    SCAN = Assumed(
        "scan of a reference, a probe of 256",
        "core-s",
        0.6e-9,
        "1.7 G comparisons a core",
        _by_length,
    )
    SCAN_SPREAD = Assumed("spread of a scan's time", "of its log", 0.21, "p99 1.6 times the median")
    FAN_OUT = Assumed(
        "asking all shards, beside their scans", "s", 3e-3, "a call of Ray to another node"
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
        1670.0,
        "`bench registrar`",
        _by_stored_bytes,
    )
    ENROLLMENT_BYTES = Assumed("store, an enrollment", "bytes", 3000.0, "--measure measures it")
    REGISTRAR_BYTES = Assumed(
        "memory of the registrar, no gallery", "bytes", 0.27e9, "`bench serve`"
    )
    INGRESS_BYTES = Assumed("memory of an ingress", "bytes", 0.375e9, "`bench serve`")
    OTHER_BYTES = Assumed(
        "memory of Ray and the proxy, a node", "bytes", 1.1e9, "GCS, raylet, agents, HAProxy"
    )
    START = Assumed(
        "start of the service, its gallery apart", "s", 16.6, "Ray, Serve, models: `bench serve`"
    )
    RESTART = Assumed(
        "from a registrar's end to the next one, its gallery apart", "s", 3.9, "`bench serve`"
    )
    RESTORE = Assumed(
        "start from the store, a reference",
        "s",
        7.7e-6,
        "1,000,000 in 7.7 s on two cores",
        _by_length,
    )
    REOPEN = Assumed(
        "start from a snapshot, a reference", "s", 3e-6, "`bench registrar`", _by_length
    )
    SHARD_READ = Assumed(
        "shards from the store: a reference read, whatever shard's",
        "s",
        4.1e-6,
        "`bench shards`",
        _by_length,
    )
    SHARD_BUILD = Assumed(
        "shards from the store: one unsealed and added as well",
        "s",
        6.7e-6,
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
        "from a registrar's end to the next one's decision", "s", 2.4, "shards kept: `bench shards`"
    )
    COUNT = Assumed(
        "counting the store's references then, each", "s", 0.05e-6, "an index of SQLite is read"
    )
    ERASE = Assumed(
        "rewriting a segment after an erasure, a reference",
        "s",
        0.5e-6,
        "`bench gallery`",
        _by_length,
    )
    SAVE = Assumed("writing a snapshot, a reference", "s", 0.94e-6, "`bench gallery`", _by_length)

    @property
    def key(self) -> str:
        return self.name.lower()


@frozen
class PlanFigure:
    """A value in the unit of its quantity; `source` names the machine, or why it is assumed."""

    value: float
    origin: FigureOrigin
    source: str


@frozen
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


@frozen
class PlanFigures:
    """All quantities, measured on `machine` or assumed.

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
