"""The figures that a plan is made of: each with its unit and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Origin(StrEnum):
    """`MEASURED` on this machine, just now; `REPORTED` of the machine that the report names."""

    MEASURED = "measured here"
    REPORTED = "report"
    ASSUMED = "assumed"


class Quantity(StrEnum):
    """What a plan must know."""

    PAIR_ALONE = "pair_alone"
    PAIR = "pair"
    HTTP = "http"
    DECISION_ALONE = "decision_alone"
    DECISION = "decision"
    DECISION_SPREAD = "decision_spread"
    SCAN_ALONE = "scan_alone"
    SCAN = "scan"
    SCAN_SPREAD = "scan_spread"
    FAN_OUT = "fan_out"
    HOP = "hop"
    REFERENCE_BYTES = "reference_bytes"
    SNAPSHOT_BYTES = "snapshot_bytes"
    ROW_BYTES = "row_bytes"
    ENROLLMENT_BYTES = "enrollment_bytes"
    REGISTRAR_BYTES = "registrar_bytes"
    INGRESS_BYTES = "ingress_bytes"
    OTHER_BYTES = "other_bytes"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Assumed:
    """What a quantity means, and what is taken where nobody has measured it, and why."""

    label: str
    unit: str
    value: float
    why: str


ASSUMED: Mapping[Quantity, Assumed] = {
    Quantity.PAIR_ALONE: Assumed(
        "photographs of an enrollment, alone", "core-s", 28.5e-3, "as on two cores of a Xeon"
    ),
    Quantity.PAIR: Assumed(
        "photographs of an enrollment, eight together", "core-s", 24.2e-3, "the same"
    ),
    Quantity.HTTP: Assumed(
        "HTTP, proxy and Ray, an enrollment", "core-s", 3e-3, "a hop between deployments costs one"
    ),
    Quantity.DECISION_ALONE: Assumed(
        "decision and commit, alone, no search", "s", 6e-3, "SQLite on a disk that flushes in 2 ms"
    ),
    Quantity.DECISION: Assumed(
        "decision and commit, one of 32, no search", "s", 0.6e-3, "the same"
    ),
    Quantity.DECISION_SPREAD: Assumed(
        "spread of a batch's time", "of its log", 0.25, "p99 1.8 times the median"
    ),
    Quantity.SCAN_ALONE: Assumed(
        "scan of a reference, one probe", "core-s", 9.2e-9, "a core reads 14 GB/s of codes"
    ),
    Quantity.SCAN: Assumed(
        "scan of a reference, a probe of 256", "core-s", 0.6e-9, "1.7 G comparisons a core"
    ),
    Quantity.SCAN_SPREAD: Assumed(
        "spread of a scan's time", "of its log", 0.17, "p99 1.5 times the median"
    ),
    Quantity.FAN_OUT: Assumed(
        "asking all shards, beside their scans", "s", 3e-3, "a call of Ray to another node"
    ),
    Quantity.HOP: Assumed(
        "way between ingress and registrar, and back", "s", 2e-3, "a call of Ray each way"
    ),
    Quantity.REFERENCE_BYTES: Assumed(
        "memory of a reference", "bytes", 657.0, "its floats, their codes and its ids"
    ),
    Quantity.SNAPSHOT_BYTES: Assumed(
        "snapshot, a reference", "bytes", 652.0, "what is in memory, but for the order of ids"
    ),
    Quantity.ROW_BYTES: Assumed(
        "store, a reference with its document", "bytes", 600.0, "rows, template, indexes"
    ),
    Quantity.ENROLLMENT_BYTES: Assumed(
        "store, an enrollment", "bytes", 3000.0, "--measure measures it"
    ),
    Quantity.REGISTRAR_BYTES: Assumed(
        "memory of the registrar, no gallery", "bytes", 0.3e9, "operations.md, sizing"
    ),
    Quantity.INGRESS_BYTES: Assumed(
        "memory of an ingress", "bytes", 0.35e9, "operations.md, sizing"
    ),
    Quantity.OTHER_BYTES: Assumed(
        "memory of Ray and the proxy, a node", "bytes", 1e9, "GCS, raylet, agents, HAProxy"
    ),
    Quantity.RESTORE: Assumed(
        "start from the store, a reference", "s", 10e-6, "operations.md, what to alert on"
    ),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A value in the unit of its quantity; `source` says of what machine, or why it is assumed."""

    value: float
    origin: Origin
    source: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that figures were measured on."""

    cpu: str
    cores: int
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB"


Found = Mapping[Quantity, Figure]


@dataclass(frozen=True, slots=True)
class VectorKind:
    """Vectors of so many floats, each kept in a gallery's memory in so many bytes."""

    dim: int = 128
    float_bytes: int = 4


USUAL = VectorKind()
"""What `ASSUMED` is of."""
OF_VECTORS = frozenset(Quantity) - {
    Quantity.PAIR_ALONE,
    Quantity.PAIR,
    Quantity.HTTP,
    Quantity.HOP,
    Quantity.REGISTRAR_BYTES,
    Quantity.INGRESS_BYTES,
    Quantity.OTHER_BYTES,
}
"""What is another figure where vectors are of another kind."""


def assume(quantity: Quantity, kind: VectorKind = USUAL) -> Figure:
    """What is taken where nobody has measured it, of vectors of this kind."""
    assumed = ASSUMED[quantity]
    value = assumed.value
    match quantity:
        case Quantity.REFERENCE_BYTES | Quantity.SNAPSHOT_BYTES:
            # A float and its code of a byte.
            value += kind.dim * (kind.float_bytes + 1) - USUAL.dim * (USUAL.float_bytes + 1)
        case Quantity.ROW_BYTES:
            # The store keeps float32, whatever the gallery does.
            value += (kind.dim - USUAL.dim) * USUAL.float_bytes
        case Quantity.SCAN_ALONE | Quantity.SCAN | Quantity.RESTORE:
            value *= kind.dim / USUAL.dim
    scaled = f", scaled to {kind.dim} floats of {8 * kind.float_bytes} bits"
    source = assumed.why if value == assumed.value else assumed.why + scaled
    return Figure(value, Origin.ASSUMED, source)


@dataclass(frozen=True, slots=True)
class Figures:
    """Every quantity, known or assumed; `machine` is the one that most is known of."""

    machine: Machine
    kind: VectorKind
    found: Found = field(repr=False)

    def __getitem__(self, quantity: Quantity) -> Figure:
        known = self.found.get(quantity)
        return assume(quantity, self.kind) if known is None else known

    def value(self, quantity: Quantity) -> float:
        return self[quantity].value

    def list_assumed(self) -> tuple[Quantity, ...]:
        """What nobody has measured."""
        return tuple(one for one in Quantity if self[one].origin is Origin.ASSUMED)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: each figure with its unit and where it comes from."""
        return {
            one.value: {
                "label": ASSUMED[one].label,
                "unit": ASSUMED[one].unit,
                "value": self[one].value,
                "origin": self[one].origin.value,
                "source": self[one].source,
            }
            for one in Quantity
        }


def overlay(*layers: Found) -> dict[Quantity, Figure]:
    """All figures of these; where two have one, that of the later."""
    return {quantity: figure for layer in layers for quantity, figure in layer.items()}
