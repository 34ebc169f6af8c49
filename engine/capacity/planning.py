"""Plans: the smallest layout that meets a demand, what to expect of it, and what was assumed."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import to_builtins

from engine.capacity.figures import PlanFigures, Quantity
from engine.capacity.model import (
    DAY_S,
    MAX_BANDWIDTH_BYTES_S,
    MAX_SHARDS,
    PROBES_AT_ONCE,
    SEARCH_PAIRS,
    Costs,
    Demand,
    Disk,
    MachineLayout,
    Memory,
    Node,
    Use,
    Waits,
)
from engine.capacity.simulation import SimulatedRun, Trial, quantile, simulate
from engine.formatting import duration, plural, size
from engine.matching.calibration import CalibrationCurve, Rate
from indexes.base import Doubles
from schema import frozen

WANTED_CANDIDATES = 0.1
"""False candidates per search that are workable, as with 100,000 faces at FMR 1e-6."""
MAX_REFUSED = 0.01
"""Largest acceptable share of refused enrollments in a simulation."""
INGRESS_SHARE = 0.5
"""Share of an objective for the way to the registrar, where that is enough."""
UNLOADED_TIMES = 2.0
"""Otherwise the way gets this many times its latency without load."""
STAGE_QUANTILE = 0.995
"""Two stages that each meet their budget at this quantile meet it together in 99 of 100."""
SHORT_TRIAL_REQUESTS = 5_000
"""Requests of a simulation that counts shards; the chosen layout is simulated in full."""
_TEMPLATES = Environment(
    loader=PackageLoader("engine.capacity"),
    autoescape=False,  # noqa: S701 - text
    undefined=StrictUndefined,
    trim_blocks=True,
)


@frozen(kw_only=True)
class FalseCandidates:
    """Expected strangers per search at `threshold`, with the calibration's 95 % interval.

    `searches_with_any` is the share of searches with at least one, `cases_a_day` the number of
    enrollments with one. `wanted_fmr` is the rate that gives `wanted` per search; unless it
    `is_supported`, no threshold of this model can be claimed to have it, since `lowest_fmr` is the
    lowest rate that the calibration supports.
    """

    threshold: float
    fmr: Rate
    expected: Rate
    searches_with_any: Rate
    cases_a_day: Rate
    wanted: float
    wanted_fmr: float
    lowest_fmr: float
    nonmated_pairs: int

    @property
    def is_supported(self) -> bool:
        return self.wanted_fmr >= self.lowest_fmr

    def to_dict(self) -> dict[str, Any]:
        return {**to_builtins(self), "is_supported": self.is_supported}

    def explain(self) -> str:
        """A sentence on the false match rate needed, and whether the calibration supports it."""
        needed = f"{self.wanted:g} a search need a false match rate of {self.wanted_fmr:.2g}"
        if self.is_supported:
            return f"{needed}, which the calibration supports"
        return (
            f"{needed}: not supported below {self.lowest_fmr:.2g} by {self.nonmated_pairs:,} "
            "non-mated pairs, so no threshold of this model can be claimed to have it; calibrate "
            "a stronger model on more people"
        )


def expect_candidates(
    faces: int, enrollments: float, curve: CalibrationCurve, threshold: float
) -> FalseCandidates:
    """Expected false candidates; `curve` of fused references, `enrollments` per second all day."""
    fmr = curve.fmr_at(threshold)
    # The probability that at least one of the faces is a false match.
    value, low, high = (-math.expm1(-faces * rate) for rate in (fmr.value, fmr.low, fmr.high))
    at_least_one = Rate(value, low, high, fmr.is_bound)
    return FalseCandidates(
        threshold=threshold,
        fmr=fmr,
        expected=fmr.times(faces),
        searches_with_any=at_least_one,
        cases_a_day=at_least_one.times(enrollments * DAY_S),
        wanted=WANTED_CANDIDATES,
        wanted_fmr=WANTED_CANDIDATES / faces,
        lowest_fmr=curve.lowest_fmr,
        nonmated_pairs=curve.nonmated_pairs,
    )


@frozen
class Quantiles:
    """Latency quantiles in seconds."""

    p50_s: float
    p99_s: float

    @classmethod
    def of(cls, times_s: Doubles) -> Self | None:
        """None without answers."""
        if not len(times_s):
            return None
        return cls(quantile(times_s, 0.5), quantile(times_s, 0.99))


@frozen(kw_only=True)
class Simulated:
    """Result of simulating a layout.

    `refused` is the share of enrollments refused, `ingress` that of time the ingresses are busy.
    """

    requests: int
    seed: int
    enroll: Quantiles | None
    search: Quantiles | None
    refused: float
    ingress: float

    @classmethod
    def of(cls, run: SimulatedRun, trial: Trial) -> Self:
        return cls(
            requests=len(run.enroll_s) + len(run.search_s),
            seed=trial.seed,
            enroll=Quantiles.of(run.enroll_s),
            search=Quantiles.of(run.search_s),
            refused=run.refused,
            ingress=run.ingress,
        )

    def holds(self, demand: Demand) -> bool:
        pairs = ((self.enroll, demand.enroll_p99_s), (self.search, demand.search_p99_s))
        in_time = all(seen is None or seen.p99_s <= goal_s for seen, goal_s in pairs)
        return in_time and self.refused <= MAX_REFUSED


@frozen(kw_only=True)
class Sizing:
    """The layout of a plan, and what depends on it."""

    layout: MachineLayout
    use: Use
    memory: Memory
    disk: Disk
    waits: Waits
    simulated: Simulated

    def to_dict(self) -> dict[str, Any]:
        layout = self.layout
        return {
            "layout": {
                "one_machine": layout.is_one_machine,
                "ingress_nodes": layout.ingress_nodes,
                "registrar_nodes": 1,
                "shards": layout.shards,
                "shard_copies": layout.copies if layout.shards else 0,
                "nodes": layout.nodes,
                "nodes_with_spare": layout.nodes + 1,
                "cores": layout.nodes * layout.node.cores,
                "busy_cores": self.use.busy_cores,
            },
            "expected": asdict(self.use),
            "simulated": asdict(self.simulated),
            "memory": asdict(self.memory),
            "disk": asdict(self.disk),
            **asdict(self.waits),
        }


UNSIZED = dict.fromkeys(("layout", "expected", "simulated", "memory", "disk"))
"""What a plan without a layout has of it."""


@frozen(kw_only=True)
class CapacityPlan:
    """A plan; `sizing` is None where no layout will do: see `shortfall`."""

    demand: Demand
    node: Node
    figures: PlanFigures
    assumptions: tuple[str, ...]
    candidates: FalseCandidates
    shortfall: str | None
    sizing: Sizing | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "feasible": self.sizing is not None,
            "shortfall": self.shortfall,
            "demand": asdict(self.demand),
            "node": asdict(self.node),
            **(self.sizing.to_dict() if self.sizing else {**UNSIZED, **asdict(Waits())}),
            "false_candidates": self.candidates.to_dict(),
            "figures": self.figures.to_dict(),
            "machine": asdict(self.figures.machine),
            "assumptions": list(self.assumptions),
        }


class Shortfall(Exception):
    """No layout will do; the message says why in one line."""


@frozen
class Planning:
    """The terms of a plan; `copies` of each shard, where it has shards."""

    demand: Demand
    costs: Costs
    figures: PlanFigures
    node: Node
    trial: Trial
    copies: int = 1

    def make_plan(self, candidates: FalseCandidates) -> CapacityPlan:
        """The smallest layout that meets the demand in a simulation, and the use of its
        machines."""
        demand, figures = self.demand, self.figures
        layout, sizing, shortfall = None, None, None
        try:
            layout, simulated = self.choose_layout()
        except Shortfall as reason:
            shortfall = str(reason)
        else:
            sizing = Sizing(
                layout=layout,
                use=Use.of(layout, demand, self.costs),
                memory=Memory.of(layout, demand.faces, figures),
                disk=Disk.of(layout, demand.faces, demand.enrollments, figures),
                waits=Waits.of(layout, demand.faces, figures),
                simulated=simulated,
            )
        return CapacityPlan(
            demand=demand,
            node=self.node,
            figures=figures,
            assumptions=self.list_assumptions(layout),
            candidates=candidates,
            shortfall=shortfall,
            sizing=sizing,
        )

    def choose_layout(self) -> tuple[MachineLayout, Simulated]:
        """One machine if it will do; else the fewest shards, then the fewest ingress nodes.

        Memory and the ceiling are calculated, the objectives simulated. Raises `Shortfall`.
        """
        alone = MachineLayout(node=self.node)
        if self.is_within_ceiling(alone):
            simulated = self.simulate(alone)
            if simulated.holds(self.demand):
                return alone, simulated
        return self.choose_cluster()

    def list_assumptions(self, layout: MachineLayout | None) -> tuple[str, ...]:
        """The assumptions in the order of a request's path; quantities without a measurement
        last."""
        page = _TEMPLATES.get_template("assumptions.txt.j2").render(
            layout=layout,
            demand=self.demand,
            costs=self.costs,
            figures=self.figures,
            node=self.node,
            max_ongoing=self.trial.max_ongoing,
            bandwidth=_describe_bandwidth(self.figures, self.node),
            merge_peak=self.figures.value(Quantity.MERGE_PEAK),
            probes_at_once=PROBES_AT_ONCE,
            plural=plural,
        )
        return tuple(line for line in page.splitlines() if line)

    def is_within_ceiling(self, layout: MachineLayout) -> bool:
        """Whether memory suffices and nothing is busier than the ceiling."""
        memory = Memory.of(layout, self.demand.faces, self.figures)
        use = Use.of(layout, self.demand, self.costs)
        busiest = max(use.ingress, use.writer, use.scanner)
        return memory.fullest_node_bytes <= self.node.usable_bytes and (
            busiest <= self.demand.ceiling * (1 + 1e-9)
        )

    def simulate(self, layout: MachineLayout) -> Simulated:
        return Simulated.of(simulate(layout, self.demand, self.costs, self.trial), self.trial)

    def choose_cluster(self) -> tuple[MachineLayout, Simulated]:
        self._require_possible()
        most_busy = self.demand.ceiling * self.node.cores
        fewest = max(math.ceil(self.costs.ingress_load(self.demand) / most_busy), 1)
        most = 4 * fewest + 2
        bare = MachineLayout(node=self.node, ingress_nodes=fewest, copies=self.copies)
        bare = replace(bare, shards=self._count_shards(bare))
        simulated: dict[int, Simulated] = {}

        def holds(count: int) -> bool:
            simulated[count] = self.simulate(replace(bare, ingress_nodes=count))
            return simulated[count].holds(self.demand)

        ingress_nodes = _least(holds, fewest, most)
        if ingress_nodes is None:
            raise Shortfall(f"more than {most:,} nodes for photographs alone: allow more time")
        return replace(bare, ingress_nodes=ingress_nodes), simulated[ingress_nodes]

    def _require_possible(self) -> None:
        """`Shortfall` for limits that no number of nodes can lift."""
        demand, costs = self.demand, self.costs
        for what, rate, objective_s, pairs in (
            ("an enrollment", demand.enrollments, demand.enroll_p99_s, 1.0),
            ("a search", demand.searches, demand.search_p99_s, SEARCH_PAIRS),
        ):
            unloaded_s = costs.unloaded_s(pairs, self.node)
            if rate and UNLOADED_TIMES * unloaded_s >= objective_s:
                raise Shortfall(
                    f"HTTP and photographs of {what} take {unloaded_s * 1e3:.0f} ms "
                    f"without load: an objective of {objective_s * 1e3:.0f} ms leaves the "
                    "registrar nothing; ask for more than "
                    f"{UNLOADED_TIMES * unloaded_s * 1e3:.0f} ms"
                )
        decided = demand.ceiling * costs.batch / costs.decision(costs.batch)
        if demand.enrollments > decided:
            raise Shortfall(
                f"one writer orders all decisions, and at {demand.ceiling:.0%} of its time it "
                f"makes {decided:,.0f} a second without any search: {demand.enrollments:,.0f} need "
                "a faster machine or disk, or larger batches (--batch)"
            )

    def _count_shards(self, bare: MachineLayout) -> int:
        """The fewest shards that suffice, independent of the ingresses."""
        # No shard is better than one: it saves the call.
        if self.is_within_ceiling(bare) and self._is_quick(bare):
            return 0
        lower = _least(lambda n: self.is_within_ceiling(replace(bare, shards=n)), 1, MAX_SHARDS)
        shards = lower and _least(
            lambda n: self._is_quick(replace(bare, shards=n)), lower, MAX_SHARDS
        )
        if not shards:
            raise Shortfall(self._explain_shards(replace(bare, shards=MAX_SHARDS)))
        return shards

    def _is_quick(self, layout: MachineLayout) -> bool:
        """Whether search and decision leave the ingresses their share of the objectives."""
        return all(took_s <= budget_s for took_s, budget_s in self._simulate_inner(layout))

    def _simulate_inner(self, layout: MachineLayout) -> list[tuple[float, float]]:
        """Seconds behind the ingress at `STAGE_QUANTILE` and their budget, by kind of request."""
        demand, costs = self.demand, self.costs
        trial = replace(self.trial, requests=min(self.trial.requests, SHORT_TRIAL_REQUESTS))
        run = simulate(layout, demand, costs, trial)
        stages = []
        for times_s, objective_s, pairs in (
            (run.enroll_inner_s, demand.enroll_p99_s, 1.0),
            (run.search_inner_s, demand.search_p99_s, SEARCH_PAIRS),
        ):
            if len(times_s):
                unloaded_s = costs.unloaded_s(pairs, self.node)
                front_s = max(INGRESS_SHARE * objective_s, UNLOADED_TIMES * unloaded_s)
                stages.append((quantile(times_s, STAGE_QUANTILE), objective_s - front_s))
        return stages

    def _explain_shards(self, widest: MachineLayout) -> str:
        demand, node = self.demand, self.node
        memory = Memory.of(widest, demand.faces, self.figures)
        if memory.fullest_node_bytes > node.usable_bytes:
            return (
                f"{demand.faces:,} faces do not fit {MAX_SHARDS} shards of "
                f"{size(node.usable_bytes)}: a shard would need "
                f"{size(memory.fullest_node_bytes)}"
            )
        use = Use.of(widest, demand, self.costs)
        if max(use.writer, use.scanner) > demand.ceiling:
            return (
                f"with {MAX_SHARDS} shards the writer would be busy {use.writer:.0%} of its time "
                f"and the scans {use.scanner:.0%}, and {demand.ceiling:.0%} is the ceiling: take "
                "nodes with more cores, or larger batches (--batch)"
            )
        needed = " and ".join(
            f"{took_s * 1e3:,.0f} ms of {budget_s * 1e3:,.0f}"
            for took_s, budget_s in self._simulate_inner(widest)
            if took_s > budget_s
        )
        return (
            f"with {MAX_SHARDS} shards search and decision take {needed}: allow more time, or take "
            "nodes with more cores"
        )


def _least(is_enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number that is enough, given that every greater one is too.

    The search starts close to `low`, where the number usually is.
    """
    reach, step = low, 1
    while not is_enough(reach):
        if reach >= high:
            return None
        low, reach, step = reach + 1, min(reach + step, high), 2 * step
    while low < reach:
        middle = (low + reach) // 2
        low, reach = (low, middle) if is_enough(middle) else (middle + 1, reach)
    return low


def _describe_bandwidth(figures: PlanFigures, node: Node) -> str:
    """The source of the bandwidth: by default `assume_node` derives it from the scans."""
    read = figures.kind.dim / figures.value(Quantity.SCAN_ALONE)
    if math.isclose(node.bandwidth_bytes_s, read * node.cores):
        return f"{read / 1e9:.0f} per core, as in the measured scans"
    if node.bandwidth_bytes_s == MAX_BANDWIDTH_BYTES_S:
        return "the highest that is assumed (set yours with --node-gb-s)"
    return "as given"


def show_value(value: float, quantity: Quantity) -> str:
    """A figure with a readable unit."""
    unit = quantity.value.unit
    if unit == "bytes":
        return size(value)
    if unit not in ("s", "core-s"):
        return f"{value:.2g} {unit}"
    return duration(value) + (" of a core" if unit == "core-s" else "")
