"""Model of the service for a plan: demand, costs of the steps, machines and their use."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Self

from engine.capacity import ERASURES_GATHER_S, EXTRACTING_THREADS
from engine.capacity.figures import PlanFigures, Quantity
from engine.errors import RequestError
from schema import frozen

MAX_FACES = 100_000_000_000
MAX_ARRIVALS = 1_000_000.0
DAY_S = 86_400
"""A day is calculated at the busiest rate throughout."""


@frozen(kw_only=True)
class Demand:
    """Demand: `faces` in the gallery, enrollments and searches per second in the busiest hour.

    `*_p99_s` are the latency objectives; each core, the writer and each shard may be busy for at
    most `ceiling` of the time.
    """

    faces: int
    enrollments: float
    searches: float = 0.0
    enroll_p99_s: float = 1.0
    search_p99_s: float = 1.0
    ceiling: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.faces <= MAX_FACES:
            raise RequestError(f"{self.faces:,} faces: ask for 1 to {MAX_FACES:,}")
        for name, rate in (("enrollments", self.enrollments), ("searches", self.searches)):
            if not 0 <= rate <= MAX_ARRIVALS:
                raise RequestError(f"{rate:g} {name} a second: ask for 0 to {MAX_ARRIVALS:,.0f}")
        if self.enrollments == 0 and self.searches == 0:
            raise RequestError("no demand: give enrollments or searches a second")
        for objective in (self.enroll_p99_s, self.search_p99_s):
            if not 0 < objective < math.inf:
                raise RequestError(f"an objective of {objective:g} s: give a time above 0")
        if not 0.05 <= self.ceiling <= 0.95:
            raise RequestError(
                f"a ceiling of {self.ceiling:g}: give the share of time that anything may be busy, "
                "0.05 to 0.95"
            )


DECISIONS_AT_ONCE = 32
PAIRS_AT_ONCE = 8
"""An ingress extracts 16 photographs at once."""
PROBES_AT_ONCE = 256
"""Batch size of the measured scans."""
SEARCH_PAIRS = 0.5
"""A search has one photograph, half of an enrollment's pair."""
MAX_BANDWIDTH_BYTES_S = 200e9
"""What a server's memory sustains, however many cores read it."""


@frozen
class Affine:
    """Seconds of a call by its number of items: a fixed part, and one for each item."""

    fixed_s: float
    item_s: float

    def __call__(self, items: float) -> float:
        return self.fixed_s + self.item_s * items

    @classmethod
    def through(cls, alone_s: float, share_s: float, at: int) -> Self:
        """The line through one item alone, and an item's share in a call with `at` items."""
        item_s = max((at * share_s - alone_s) / (at - 1), 0.0)
        if item_s > alone_s:
            # Batches cost more than single calls: there is no fixed part.
            return cls(0.0, max(share_s, alone_s))
        return cls(alone_s - item_s, item_s)


@frozen(kw_only=True)
class Node:
    """A machine; a gallery may take `memory_share` of its memory.

    `bandwidth_bytes_s` of its memory is shared by all cores.
    """

    cores: int
    memory_bytes: float
    bandwidth_bytes_s: float
    memory_share: float = 0.85

    @property
    def usable_bytes(self) -> float:
        return self.memory_bytes * self.memory_share


@frozen(kw_only=True)
class Costs:
    """Core-seconds of photographs, HTTP and scans, and seconds of the one writer.

    A pass takes `stream_s` of a core for each reference, and `probe_s` more for each probe; it
    reads `code_bytes` of a reference. `*_spread` are standard deviations of the log of a time.
    """

    photographs: Affine
    http_s: float
    decision: Affine
    stream_s: float
    probe_s: float
    code_bytes: int
    fan_out_s: float
    hop_s: float
    decision_spread: float
    scan_spread: float
    batch: int = DECISIONS_AT_ONCE
    pair_spread: float = 0.2
    """Photographs differ in size and in detector passes."""

    @classmethod
    def of(cls, figures: PlanFigures, batch: int = DECISIONS_AT_ONCE) -> Self:
        """Costs by the figures; `batch`: largest number of decisions in a transaction."""
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
        """Core-seconds at an ingress of an enrollment, or of a search with its share of a pair."""
        return self.http_s + self.photographs(pairs)

    def extraction_s(self, pairs: float, node: Node) -> tuple[float, int]:
        """Seconds for a batch of pairs at an ingress, and the threads that each take so long."""
        threads = min(EXTRACTING_THREADS, node.cores, round(pairs / SEARCH_PAIRS))
        return self.photographs(pairs) / threads, threads

    def unloaded_s(self, pairs: float, node: Node) -> float:
        """Seconds of a request that waits for nothing, without what the registrar does."""
        return self.http_s + self.extraction_s(pairs, node)[0] + self.hop_s

    def ingress_load(self, demand: Demand) -> float:
        """Number of cores that HTTP and photographs keep busy."""
        searching = demand.searches * self.enrollment_s(SEARCH_PAIRS)
        return demand.enrollments * self.enrollment_s() + searching

    def scan_s(self, references: float, probes: float, node: Node) -> float:
        """Seconds of a pass over the references with all cores of a node."""
        stream_s = max(self.stream_s / node.cores, self.code_bytes / node.bandwidth_bytes_s)
        return references * (stream_s + probes * self.probe_s / node.cores)

    def slowest_of(self, shards: int) -> float:
        """Factor by which the slowest of so many scans is slower: the median of their maximum."""
        if shards <= 1:
            return 1.0
        return math.exp(self.scan_spread * NormalDist().inv_cdf(0.5 ** (1 / shards)))


def assume_node(
    figures: PlanFigures,
    cores: int | None = None,
    memory_bytes: float | None = None,
    bandwidth_bytes_s: float | None = None,
) -> Node:
    """A node like the machine of the figures, but for the values given.

    By default its bandwidth is the measured one of a core times its cores, up to a maximum.
    """
    machine = figures.machine
    count = cores or machine.cores
    read = figures.kind.dim / figures.value(Quantity.SCAN_ALONE)
    most = max(MAX_BANDWIDTH_BYTES_S, read * machine.cores)
    return Node(
        cores=count,
        memory_bytes=memory_bytes or machine.memory_bytes,
        bandwidth_bytes_s=bandwidth_bytes_s or min(read * count, most),
    )


MAX_SHARDS = 256
"""Limit of `[gallery] shards`."""


@frozen(kw_only=True)
class MachineLayout:
    """Machines: a single one (`ingress_nodes` 0), or one for the registrar and some for ingresses.

    Each of the `copies` of each of the `shards` of the gallery has a machine of its own; no shards:
    the registrar's holds it, once.
    """

    node: Node
    ingress_nodes: int = 0
    shards: int = 0
    copies: int = 1

    @property
    def shard_nodes(self) -> int:
        return self.shards * self.copies

    @property
    def is_one_machine(self) -> bool:
        return self.ingress_nodes == 0

    @property
    def nodes(self) -> int:
        """Number of machines, without a spare one."""
        return 1 + self.ingress_nodes + self.shard_nodes

    @property
    def ingress_cores(self) -> int:
        return self.node.cores * max(self.ingress_nodes, 1)

    def references_per_scanner(self, faces: int) -> int:
        """Number of references on the fullest machine that scans."""
        return math.ceil(faces / max(self.shards, 1))


@frozen(kw_only=True)
class Memory:
    """Bytes of memory of the gallery and of the nodes; `peak` while the largest segments merge."""

    gallery_bytes: float
    gallery_peak_bytes: float
    fullest_node_bytes: float
    total_bytes: float

    @classmethod
    def of(cls, layout: MachineLayout, faces: int, figures: PlanFigures) -> Memory:
        a_reference = figures.value(Quantity.REFERENCE_BYTES)
        others = figures.value(Quantity.OTHER_BYTES)
        registrar = figures.value(Quantity.REGISTRAR_BYTES)
        ingresses = layout.node.cores * figures.value(Quantity.INGRESS_BYTES)
        references = layout.references_per_scanner(faces)
        merged = min(references, figures.segment_rows)
        merging = merged * (figures.value(Quantity.MERGE_PEAK) - 1) * a_reference
        a_scanner = references * a_reference + merging
        held = 0.0 if layout.shards else a_scanner
        writer = others + registrar + held + (ingresses if layout.is_one_machine else 0.0)
        nodes = [writer]
        nodes += [others + ingresses] * min(layout.ingress_nodes, 1)
        nodes += [others + registrar + a_scanner] * min(layout.shards, 1)
        copies = layout.copies if layout.shards else 1
        peak = copies * (faces * a_reference + max(layout.shards, 1) * merging)
        bases = layout.nodes * others + (1 + layout.shard_nodes) * registrar
        bases += max(layout.ingress_nodes, 1) * ingresses
        return cls(
            gallery_bytes=copies * faces * a_reference,
            gallery_peak_bytes=peak,
            fullest_node_bytes=max(nodes),
            total_bytes=bases + peak,
        )


@frozen(kw_only=True)
class Disk:
    """Bytes of the store with an enrollment for each face, of its growth in a day, and of the
    gallery's snapshot; that of shards is in parts, each on the node of its shard."""

    store_bytes: float
    day_bytes: float
    snapshot_bytes: float

    @classmethod
    def of(
        cls, layout: MachineLayout, faces: int, enrollments: float, figures: PlanFigures
    ) -> Disk:
        row, attempt = figures.value(Quantity.ROW_BYTES), figures.value(Quantity.ENROLLMENT_BYTES)
        copies = layout.copies if layout.shards else 1
        snapshot = copies * faces * figures.value(Quantity.SNAPSHOT_BYTES)
        return cls(
            store_bytes=faces * (row + attempt),
            day_bytes=enrollments * DAY_S * (row + attempt),
            # A new snapshot is written beside the old one.
            snapshot_bytes=2 * snapshot,
        )


@frozen(kw_only=True)
class Waits:
    """Seconds until the gallery is there, and until an erasure is in a snapshot.

    `start_s`: a start from the store alone, `reopen_s`: from snapshots; on one machine of the whole
    service, over shards of these alone. `failover_s`: from the end of a registrar to the next one's
    decision; shards are kept. `erasure_s`: until a snapshot without an erased reference, which is
    out of memory at once, is whole again. `lost_shard_s`, only over shards: until a lost one is
    built from the store alone, or a lost copy is made again.
    """

    start_s: float = 0.0
    reopen_s: float = 0.0
    failover_s: float = 0.0
    erasure_s: float = 0.0
    lost_shard_s: float | None = None

    @classmethod
    def of(cls, layout: MachineLayout, faces: int, figures: PlanFigures) -> Self:
        value, part = figures.value, layout.references_per_scanner(faces)
        reopen_s = part * value(Quantity.REOPEN)
        rewrite_s = value(Quantity.ERASE) + value(Quantity.SAVE)
        erasure_s = ERASURES_GATHER_S + min(part, figures.segment_rows) * rewrite_s
        if not layout.shards:
            start_s = value(Quantity.START)
            return cls(
                start_s=start_s + faces * value(Quantity.RESTORE),
                reopen_s=start_s + reopen_s,
                failover_s=value(Quantity.RESTART) + reopen_s,
                erasure_s=erasure_s,
            )
        read_s, build_s = faces * value(Quantity.SHARD_READ), value(Quantity.SHARD_BUILD)
        lost_s = read_s + part * build_s
        slower = 1.0 if layout.copies == 1 else value(Quantity.COPY_BUILD)
        return cls(
            start_s=read_s + faces * build_s,
            reopen_s=reopen_s,
            failover_s=value(Quantity.FAILOVER) + faces * value(Quantity.COUNT),
            erasure_s=erasure_s,
            lost_shard_s=slower * lost_s,
        )


@frozen(kw_only=True)
class Use:
    """Shares of time that ingress cores, the writer and the fullest scanner are busy, relative to
    full batches, and the average number of busy cores."""

    ingress: float
    writer: float
    scanner: float
    busy_cores: float

    @classmethod
    def of(cls, layout: MachineLayout, demand: Demand, costs: Costs) -> Self:
        """The use of a layout; on one machine ingresses, writer and scans share the cores."""
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
        # Audit entries of searches are committed between two batches.
        batch_s += min(1.0, demand.searches * batch_s) * costs.decision(0)
        busy = load
        if not layout.is_one_machine:
            # While the writer waits for a scan it uses no core of its own.
            busy += deciding + scanner * cores * max(layout.shards, 1)
        return cls(
            ingress=load / layout.ingress_cores,
            writer=demand.enrollments * batch_s / batch,
            scanner=scanner,
            busy_cores=busy,
        )


def _scan_s(layout: MachineLayout, demand: Demand, costs: Costs, probes: int) -> float:
    """Seconds until the slowest shard has answered."""
    references = layout.references_per_scanner(demand.faces)
    alone_s = costs.scan_s(references, probes, layout.node)
    fan_out_s = costs.fan_out_s if layout.shards else 0.0
    return alone_s * costs.slowest_of(layout.shards) + fan_out_s
