"""Which machines a deployment runs on, and what each of them holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.capacity.costs import Node
from engine.capacity.demand import DAY_S
from engine.capacity.figures import Figures, Quantity

MOST_SHARDS = 256
"""As `[gallery] shards` allows."""
WHILE_MERGING = 2.0
"""The largest merge makes the new segment beside the old ones: times the memory at rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All on one machine (`ingress_nodes` 0), or the registrar on one and the ingresses on others.

    `shards` hold the gallery, one to a machine of its own; 0: the registrar's holds it.
    """

    node: Node
    ingress_nodes: int = 0
    shards: int = 0

    @property
    def is_one_machine(self) -> bool:
        return self.ingress_nodes == 0

    @property
    def nodes(self) -> int:
        """Those that it takes, none of them to spare."""
        return 1 + self.ingress_nodes + self.shards

    @property
    def ingress_cores(self) -> int:
        return self.node.cores * max(self.ingress_nodes, 1)

    def references_a_scanner(self, faces: int) -> int:
        """How many references the fullest machine scans."""
        return math.ceil(faces / max(self.shards, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a gallery and of whom it belongs to; `peak` while the largest segments merge."""

    gallery_bytes: float
    gallery_peak_bytes: float
    fullest_node_bytes: float
    total_bytes: float

    @classmethod
    def of(cls, layout: Layout, faces: int, figures: Figures) -> Memory:
        a_reference = figures.value(Quantity.REFERENCE_BYTES)
        others = figures.value(Quantity.OTHER_BYTES)
        registrar = figures.value(Quantity.REGISTRAR_BYTES)
        ingresses = layout.node.cores * figures.value(Quantity.INGRESS_BYTES)
        peak = WHILE_MERGING * a_reference
        a_scanner = layout.references_a_scanner(faces) * peak
        held = 0.0 if layout.shards else a_scanner
        writer = others + registrar + held + (ingresses if layout.is_one_machine else 0.0)
        nodes = [writer]
        nodes += [others + ingresses] * min(layout.ingress_nodes, 1)
        nodes += [others + registrar + a_scanner] * min(layout.shards, 1)
        bases = layout.nodes * others + (1 + layout.shards) * registrar
        bases += max(layout.ingress_nodes, 1) * ingresses
        return cls(
            gallery_bytes=faces * a_reference,
            gallery_peak_bytes=faces * peak,
            fullest_node_bytes=max(nodes),
            total_bytes=bases + faces * peak,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Bytes: of the store with an enrollment for each face, of what a day adds to it, and of the
    gallery's snapshot, which a sharded one has not."""

    store_bytes: float
    day_bytes: float
    snapshot_bytes: float

    @classmethod
    def of(cls, layout: Layout, faces: int, enrollments: float, figures: Figures) -> Disk:
        row, attempt = figures.value(Quantity.ROW_BYTES), figures.value(Quantity.ENROLLMENT_BYTES)
        snapshot = 0.0 if layout.shards else faces * figures.value(Quantity.SNAPSHOT_BYTES)
        return cls(
            store_bytes=faces * (row + attempt),
            day_bytes=enrollments * DAY_S * (row + attempt),
            # A new one is written beside the old.
            snapshot_bytes=2 * snapshot,
        )
