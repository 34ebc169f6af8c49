"""The service as a plan knows it: what is asked of it, what its steps cost, on which machines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

from engine.capacity.figures import Figures, Quantity
from engine.errors import RequestError

MOST_FACES = 100_000_000_000
MOST_ARRIVALS = 1_000_000.0
DAY_S = 86_400
"""What comes in a day is reckoned at the busiest rate all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """`faces` in the gallery; enrollments and searches a second in the busiest hour.

    `*_p99_s` are the objectives: 99 of 100 are answered within so long. Each core, the writer and
    each shard may be busy for `ceiling` of the time.
    """

    faces: int
    enrollments: float
    searches: float = 0.0
    enroll_p99_s: float = 1.0
    search_p99_s: float = 1.0
    ceiling: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.faces <= MOST_FACES:
            raise RequestError(f"{self.faces:,} faces: ask for 1 to {MOST_FACES:,}")
        for name, rate in (("enrollments", self.enrollments), ("searches", self.searches)):
            if not 0 <= rate <= MOST_ARRIVALS:
                raise RequestError(f"{rate:g} {name} a second: ask for 0 to {MOST_ARRIVALS:,.0f}")
        if self.enrollments == 0 and self.searches == 0:
            raise RequestError("nobody comes: give enrollments or searches a second")
        for objective in (self.enroll_p99_s, self.search_p99_s):
            if not 0 < objective < math.inf:
                raise RequestError(f"an objective of {objective:g} s: give a time above 0")
        if not 0.05 <= self.ceiling <= 0.95:
            raise RequestError(
                f"a ceiling of {self.ceiling:g}: give the share of time, 0.05 to 0.95, that "
                "something may be busy"
            )


PAIRS_AT_ONCE = 8
"""An ingress takes 16 photographs at once."""
DECISIONS_AT_ONCE = 32
PROBES_AT_ONCE = 256
"""With so many a scan was measured; one search takes more, which this leaves unsaid."""
SEARCH_PAIRS = 0.5
"""A search brings one photograph."""
GATHER_S = 0.015
"""After a batch of several the registrar waits so long for more to share a transaction."""
PAIR_SPREAD = 0.2
"""Photographs differ in size and in how often a detector looks: of the logarithm of their time."""
MOST_BANDWIDTH_BYTES_S = 200e9
"""What a server's memory sustains, however many cores read it."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Seconds of a call with so many items: what the call takes, and what each of them adds."""

    fixed_s: float
    item_s: float

    def __call__(self, items: float) -> float:
        return self.fixed_s + self.item_s * items

    @classmethod
    def through(cls, alone_s: float, share_s: float, at: int) -> Self:
        """From one item alone, and an item's share among `at` of them."""
        item_s = max((at * share_s - alone_s) / (at - 1), 0.0)
        if item_s > alone_s:
            # Together they would cost more than one by one: no call has a fixed part then.
            return cls(0.0, max(share_s, alone_s))
        return cls(alone_s - item_s, item_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of those that are to be had; a gallery may take `memory_share` of its memory.

    Its memory is read at `bandwidth_bytes_s`, however many cores read.
    """

    cores: int
    memory_bytes: float
    bandwidth_bytes_s: float
    memory_share: float = 0.85

    @property
    def usable_bytes(self) -> float:
        return self.memory_bytes * self.memory_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Core-seconds of photographs, HTTP and scans; seconds of the one writer.

    `stream_s` of a core is what a reference takes in a pass whoever asks, `probe_s` what it takes
    for each probe; `code_bytes` is what is read of it. `*_spread` are standard deviations of the
    logarithm of a time.
    """

    photographs: Affine
    http_s: float
    decision: Affine
    stream_s: float
    probe_s: float
    code_bytes: int
    fan_out_s: float
    hop_s: float
    gather_s: float = GATHER_S
    batch: int = DECISIONS_AT_ONCE
    pair_spread: float = PAIR_SPREAD
    decision_spread: float = 0.25
    scan_spread: float = 0.17

    @classmethod
    def of(cls, figures: Figures, batch: int = DECISIONS_AT_ONCE) -> Self:
        """From figures; `batch` is the most that one transaction decides."""
        value = figures.value
        scan = Affine.through(value(Quantity.SCAN_ALONE), value(Quantity.SCAN), PROBES_AT_ONCE)
        return cls(
            photographs=Affine.through(
                value(Quantity.PAIR_ALONE), value(Quantity.PAIR), PAIRS_AT_ONCE
            ),
            http_s=value(Quantity.HTTP),
            decision=Affine.through(
                value(Quantity.DECISION_ALONE), value(Quantity.DECISION), DECISIONS_AT_ONCE
            ),
            stream_s=scan.fixed_s,
            probe_s=scan.item_s,
            code_bytes=figures.kind.dim,
            fan_out_s=value(Quantity.FAN_OUT),
            hop_s=value(Quantity.HOP),
            batch=batch,
            decision_spread=value(Quantity.DECISION_SPREAD),
            scan_spread=value(Quantity.SCAN_SPREAD),
        )

    def enrollment_s(self, pairs: float = 1.0) -> float:
        """Core-seconds of an enrollment, or of a search with its share of a pair, at an ingress."""
        return self.http_s + self.photographs(pairs)

    def ingress_load(self, demand: Demand) -> float:
        """Cores that HTTP and photographs keep busy."""
        searching = demand.searches * self.enrollment_s(SEARCH_PAIRS)
        return demand.enrollments * self.enrollment_s() + searching

    def scan_s(self, references: float, probes: float, node: Node) -> float:
        """Seconds of a pass over so many references with all cores of a node."""
        stream_s = max(self.stream_s / node.cores, self.code_bytes / node.bandwidth_bytes_s)
        return references * (stream_s + probes * self.probe_s / node.cores)

    def slowest_of(self, shards: int) -> float:
        """How many times as long as one scan the slowest of so many takes: the median of the
        greatest."""
        if shards <= 1:
            return 1.0
        return math.exp(self.scan_spread * NormalDist().inv_cdf(0.5 ** (1 / shards)))


def assume_node(
    figures: Figures,
    cores: int | None = None,
    memory_bytes: float | None = None,
    bandwidth_bytes_s: float | None = None,
) -> Node:
    """A node like the machine of the figures, but for what is given.

    Its bandwidth is what a core was seen to read, times its cores, as far as memory goes.
    """
    machine = figures.machine
    count = cores or machine.cores
    read = figures.kind.dim / figures.value(Quantity.SCAN_ALONE)
    most = max(MOST_BANDWIDTH_BYTES_S, read * machine.cores)
    return Node(
        cores=count,
        memory_bytes=memory_bytes or machine.memory_bytes,
        bandwidth_bytes_s=bandwidth_bytes_s or min(read * count, most),
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Shares of time that ingress cores, the writer and the fullest scanner are busy, of what they
    could do in full batches; `busy_cores` are at work on average."""

    ingress: float
    writer: float
    scanner: float
    busy_cores: float

    @classmethod
    def of(cls, layout: Layout, demand: Demand, costs: Costs) -> Self:
        """On one machine writer and scans take cores from the ingresses, and they from these."""
        cores, batch = layout.node.cores, costs.batch
        photographing = costs.ingress_load(demand)
        deciding = demand.enrollments * costs.decision(batch) / batch
        scan_s = _scan_s(layout, demand, costs, batch)
        searching = _scan_s(layout, demand, costs, PROBES_AT_ONCE) / PROBES_AT_ONCE
        scanner = demand.enrollments * scan_s / batch + demand.searches * searching
        load, others = photographing, 0.0
        if layout.is_one_machine:
            others = photographing + deciding
            load = others + scanner * cores
        batch_s = costs.decision(batch) + scan_s * (1 + others / cores)
        # The audit entry of a search takes its turn between two batches.
        batch_s += min(1.0, demand.searches * batch_s) * costs.decision(0)
        busy = load
        if not layout.is_one_machine:
            # While the writer waits for a scan it takes no core beside the scan's.
            busy += deciding + scanner * cores * max(layout.shards, 1)
        return cls(
            ingress=load / layout.ingress_cores,
            writer=demand.enrollments * batch_s / batch,
            scanner=scanner,
            busy_cores=busy,
        )


def _scan_s(layout: Layout, demand: Demand, costs: Costs, probes: int) -> float:
    """Until the slowest shard has answered."""
    references = layout.references_a_scanner(demand.faces)
    alone_s = costs.scan_s(references, probes, layout.node)
    fan_out_s = costs.fan_out_s if layout.shards else 0.0
    return alone_s * costs.slowest_of(layout.shards) + fan_out_s
