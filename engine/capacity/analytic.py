"""What a layout is expected to do, by formula: how busy it is, and how soon it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from engine.capacity.model import PAIRS_AT_ONCE, PROBES_AT_ONCE, SEARCH_PAIRS, Costs, Demand, Layout
from engine.capacity.queueing import (
    GRID,
    Batches,
    Times,
    join_shortest,
    serve_batches,
    slowdown,
    slowest_of,
)

SPANS = 4.0
"""Times longer than so many objectives are one: too long."""
SURE = 0.995
"""Two stages that each hold in so many cases hold together in 99 of 100."""
NEVER = 1e6
"""Times slower: what never ends."""
ROUNDS = 3
"""Until two queues that slow each other agree how much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds: medians and 99 of 100 answers, and what the two stages take in 995 of 1000."""

    p50_s: float
    p99_s: float
    ingress_s: float
    inner_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Shares of time that ingress cores, the writer and the fullest scanner are busy, of what they
    could do in full batches; a share of 1 and more never catches up, and has no latency."""

    ingress: float
    writer: float
    scanner: float
    batch: float
    enroll: Latency | None
    search: Latency | None

    def answers(self, demand: Demand) -> bool:
        """Whether whoever comes is answered some time."""
        is_enrolled = self.enroll is not None or demand.enrollments == 0
        return is_enrolled and (self.search is not None or demand.searches == 0)

    def is_calm(self, ceiling: float) -> bool:
        """Whether nothing is busier than that."""
        return max(self.ingress, self.writer, self.scanner) <= ceiling


@dataclass(frozen=True, slots=True)
class _Rooms:
    """The load of cores, and what it does to those who share them."""

    ingress_load: float
    slow: float
    scan_slow: float


def expect(layout: Layout, demand: Demand, costs: Costs, regularity: float = 1.0) -> Expected:
    """Stages are taken as independent; on one machine they share its cores in equal parts.

    `regularity` is of arrivals: 1 for Poisson's, less where they are evenly spaced.
    """
    step_s = SPANS * max(demand.enroll_p99_s, demand.search_p99_s) / GRID
    work = _Work(layout, demand, costs)
    rooms = work.rooms(regularity)
    busy = (work.ingress_use(rooms), work.writer_use(rooms), work.scanner_use())
    if max(busy) >= 1:
        return Expected(
            ingress=busy[0], writer=busy[1], scanner=busy[2], batch=1.0, enroll=None, search=None
        )
    writer, searcher = work.inner(rooms, step_s)
    enroll: Latency | None = None
    search: Latency | None = None
    if writer is not None and demand.enrollments:
        inner = writer.latency.jittered(work.spread(writer.batch))
        enroll = _tell(work.front(rooms, 1.0, step_s, regularity), inner)
    if writer is not None and searcher is not None and demand.searches:
        audit = Times.constant(costs.decision(0) * rooms.slow, step_s).plus(writer.left)
        inner = searcher.latency.jittered(work.scan_spread).plus(audit)
        search = _tell(work.front(rooms, SEARCH_PAIRS, step_s, regularity), inner)
    return Expected(
        ingress=busy[0],
        writer=busy[1],
        scanner=busy[2],
        batch=writer.batch if writer else 1.0,
        enroll=enroll,
        search=search,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    layout: Layout
    demand: Demand
    costs: Costs

    def rooms(self, regularity: float) -> _Rooms:
        """On one machine writer and scans take cores from the ingresses, and they from these."""
        front = self._front_load()
        if not self.layout.is_one_machine:
            return _Rooms(front, 1.0, 1.0)
        cores = self.layout.node.cores
        deciding = self.demand.enrollments * self._share_s()
        load = front + deciding + self._scan_load()
        slow = min(1 + (slowdown(cores, load) - 1) * regularity, NEVER)
        return _Rooms(load, slow, 1 + (front + deciding) / cores)

    def ingress_use(self, rooms: _Rooms) -> float:
        return rooms.ingress_load / self.layout.ingress_cores

    def writer_use(self, rooms: _Rooms) -> float:
        full_s = self._batch_s(self.costs.batch, rooms, 0.0)
        return self.demand.enrollments * full_s / self.costs.batch

    def scanner_use(self) -> float:
        """Of the time, in full batches of both kinds."""
        batch = self.costs.batch
        return (
            self.demand.enrollments * self._scan_s(batch) / batch
            + self.demand.searches * self._scan_s(PROBES_AT_ONCE) / PROBES_AT_ONCE
        )

    def front(self, rooms: _Rooms, pairs: float, step_s: float, regularity: float) -> Times:
        """HTTP and photographs of one request, with the way to the registrar and back."""
        costs = self.costs
        served = join_shortest(
            self.layout.ingress_cores,
            rooms.ingress_load,
            self.demand.enrollments + SEARCH_PAIRS * self.demand.searches,
            lambda others: costs.enrollment_s(others - 1 + pairs),
            PAIRS_AT_ONCE,
            step_s,
            regularity,
        )
        assert served is not None, "its use is below 1"
        return served.jittered(costs.pair_spread).plus(Times.constant(costs.hop_s, step_s))

    def inner(self, rooms: _Rooms, step_s: float) -> tuple[Batches | None, Batches | None]:
        """The writer's queue and that of searches; each scans while the other does."""
        costs, demand = self.costs, self.demand
        writing = searching = 0.0
        writer: Batches | None = None
        searcher: Batches | None = None
        for _ in range(ROUNDS if demand.enrollments and demand.searches else 1):
            writer = serve_batches(
                demand.enrollments,
                partial(self._batch_s, rooms=rooms, shared=searching),
                costs.batch,
                step_s,
                costs.gather_s,
            )
            searcher = serve_batches(
                demand.searches,
                partial(self._search_s, rooms=rooms, shared=writing),
                PROBES_AT_ONCE,
                step_s,
            )
            if writer is None or searcher is None:
                break
            searching = searcher.busy
            scan = self._scan_s(writer.batch) / self._batch_s(writer.batch, rooms, 0.0)
            writing = writer.busy * min(scan, 1.0)
        return writer, searcher

    @property
    def scan_spread(self) -> float:
        """Of one scanner; the slowest of many varies little."""
        return 0.0 if self.layout.shards else self.costs.scan_spread

    def spread(self, size: float) -> float:
        """Of a batch's time, whose parts vary independently of each other."""
        decision_s, scan_s = self.costs.decision(size), self._scan_s(size)
        deviation = math.hypot(decision_s * self.costs.decision_spread, scan_s * self.scan_spread)
        return deviation / (decision_s + scan_s)

    def _front_load(self) -> float:
        demand, costs = self.demand, self.costs
        return demand.enrollments * costs.enrollment_s() + demand.searches * costs.enrollment_s(
            SEARCH_PAIRS
        )

    def _share_s(self) -> float:
        """The writer's time for one of a full batch."""
        return self.costs.decision(self.costs.batch) / self.costs.batch

    def _scan_load(self) -> float:
        return self.scanner_use() * self.layout.node.cores

    def _scan_s(self, probes: float) -> float:
        """Until the slowest shard has answered."""
        layout, costs = self.layout, self.costs
        references = layout.references_a_scanner(self.demand.faces)
        alone_s = costs.scan_s(references, probes, layout.node)
        fan_out_s = costs.fan_out_s if layout.shards else 0.0
        return alone_s * slowest_of(layout.shards, costs.scan_spread) + fan_out_s

    def _search_s(self, size: float, rooms: _Rooms, shared: float) -> float:
        """A scan for so many searches."""
        return self._scan_s(size) * rooms.scan_slow * (1 + shared)

    def _batch_s(self, size: float, rooms: _Rooms, shared: float) -> float:
        """The writer's time for a batch, with the audit entry of a search in between."""
        costs = self.costs
        batch_s = costs.decision(size) * rooms.slow + self._search_s(size, rooms, shared)
        audits = min(1.0, self.demand.searches * batch_s)
        return batch_s + audits * costs.decision(0) * rooms.slow


def expect_front(layout: Layout, demand: Demand, costs: Costs) -> tuple[float, float, float]:
    """The ingresses of a cluster alone: the share of time that they are busy, and the seconds
    until the registrar's door, in `SURE` of the enrollments and of the searches."""
    step_s = SPANS * max(demand.enroll_p99_s, demand.search_p99_s) / GRID
    work = _Work(layout, demand, costs)
    rooms = work.rooms(1.0)
    use = work.ingress_use(rooms)
    if use >= 1:
        return use, math.inf, math.inf
    enroll, search = (
        work.front(rooms, pairs, step_s, 1.0).quantile(SURE) if rate else 0.0
        for pairs, rate in ((1.0, demand.enrollments), (SEARCH_PAIRS, demand.searches))
    )
    return use, enroll, search


def _tell(front: Times, inner: Times) -> Latency:
    total = front.plus(inner)
    return Latency(
        p50_s=total.quantile(0.5),
        p99_s=total.quantile(0.99),
        ingress_s=front.quantile(SURE),
        inner_s=inner.quantile(SURE),
    )


def holds(latency: Latency | None, objective_s: float) -> bool:
    """Whether 99 of 100 are answered in time; nothing asked is held."""
    return latency is None or (math.isfinite(latency.p99_s) and latency.p99_s <= objective_s)
