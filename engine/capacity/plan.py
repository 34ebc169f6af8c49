"""From figures and a demand to a plan: the smallest layout that holds, and what to expect of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.capacity.assumptions import list_assumptions
from engine.capacity.figures import Figures, Quantity
from engine.capacity.model import (
    DAY_S,
    MOST_SHARDS,
    SEARCH_PAIRS,
    Costs,
    Demand,
    Disk,
    Layout,
    Memory,
    Node,
    Use,
)
from engine.capacity.simulation import Run, Trial, quantile, simulate
from engine.matching.calibration import CalibrationCurve, Rate

WANTED = 0.1
"""False candidates a search that a fraud team can work with, as with 100,000 faces at FMR 1e-6."""
MOST_REFUSED = 0.01
"""Of enrollments in a simulation that holds."""
INGRESS_SHARE = 0.5
"""Of an objective is for the way to the registrar's door, where that is enough."""
UNLOADED_TIMES = 2.0
"""Where it is not, so many times what it takes when nobody else is there."""
SURE = 0.995
"""Two stages that each hold in so many cases hold together in 99 of 100."""
SHORT_TRIAL = 5_000
"""Requests that tell how many shards are enough; what is chosen is played at full length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseCandidates:
    """At `threshold`: expected strangers a search, each with the calibration's 95 % interval.

    `searches_with_any` is the share of searches that bring one at least, and `cases_a_day` of
    enrollments; `wanted_fmr` is the rate that would bring `wanted` a search. Where that is not
    `is_supported`, no threshold of this model can be claimed to have it: `lowest_fmr` is the
    lowest that its calibration supports.
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
        return asdict(self) | {"is_supported": self.is_supported}

    def explain(self) -> str:
        """In words: what may be claimed, and what would be needed."""
        needed = f"{self.wanted:g} a search need a false match rate of {self.wanted_fmr:.2g}"
        if self.is_supported:
            return f"{needed}, which the calibration supports"
        return (
            f"{needed}: not supported below {self.lowest_fmr:.2g} by {self.nonmated_pairs:,} "
            "non-mated pairs, so no threshold of this model can be said to have it; calibrate a "
            "stronger model on more people"
        )


def expect_candidates(
    faces: int,
    enrollments: float,
    curve: CalibrationCurve,
    threshold: float,
    wanted: float = WANTED,
) -> FalseCandidates:
    """`curve` is of fused references; `enrollments` a second, for all of a day."""
    fmr = curve.fmr_at(threshold)
    any_of_them = Rate(
        value=_some(faces, fmr.value),
        low=_some(faces, fmr.low),
        high=_some(faces, fmr.high),
        is_bound=fmr.is_bound,
    )
    return FalseCandidates(
        threshold=threshold,
        fmr=fmr,
        expected=fmr.times(faces),
        searches_with_any=any_of_them,
        cases_a_day=any_of_them.times(enrollments * DAY_S),
        wanted=wanted,
        wanted_fmr=wanted / faces,
        lowest_fmr=curve.lowest_fmr,
        nonmated_pairs=curve.nonmated_pairs,
    )


def _some(faces: int, rate: float) -> float:
    """How likely one of so many is a false match, each at this rate."""
    return -math.expm1(-faces * rate)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds in which half, and 99 of 100, were answered."""

    p50_s: float
    p99_s: float

    @classmethod
    def of(cls, times_s: NDArray[np.float64]) -> Self | None:
        """None where nobody was answered."""
        if not len(times_s):
            return None
        return cls(quantile(times_s, 0.5), quantile(times_s, 0.99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A layout, simulated; `refused` is a share of the enrollments, `ingress` of time."""

    requests: int
    seed: int
    enroll: Quantiles | None
    search: Quantiles | None
    refused: float
    ingress: float

    @classmethod
    def of(cls, run: Run, trial: Trial) -> Self:
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
        return in_time and self.refused <= MOST_REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`layout` is None where none will do, and `shortfall` says why; then the rest is, too.

    `start_s` is a start from the store alone: what a sharded gallery always takes.
    """

    demand: Demand
    node: Node
    figures: Figures
    assumptions: tuple[str, ...]
    candidates: FalseCandidates
    shortfall: str | None = None
    layout: Layout | None = None
    use: Use | None = None
    memory: Memory | None = None
    disk: Disk | None = None
    start_s: float = 0.0
    played: Played | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        layout, use = self.layout, self.use
        return {
            "feasible": layout is not None,
            "shortfall": self.shortfall,
            "demand": asdict(self.demand),
            "node": asdict(self.node),
            "layout": layout
            and {
                "one_machine": layout.is_one_machine,
                "ingress_nodes": layout.ingress_nodes,
                "registrar_nodes": 1,
                "shards": layout.shards,
                "nodes": layout.nodes,
                "nodes_with_spare": layout.nodes + 1,
                "cores": layout.nodes * self.node.cores,
                "busy_cores": use and use.busy_cores,
            },
            "expected": use and asdict(use),
            "simulated": self.played and asdict(self.played),
            "memory": self.memory and asdict(self.memory),
            "disk": self.disk and asdict(self.disk),
            "start_s": self.start_s,
            "false_candidates": self.candidates.to_dict(),
            "figures": self.figures.to_dict(),
            "machine": asdict(self.figures.machine),
            "assumptions": list(self.assumptions),
        }


def make_plan(
    demand: Demand,
    figures: Figures,
    costs: Costs,
    node: Node,
    candidates: FalseCandidates,
    trial: Trial | None = None,
) -> Plan:
    """The smallest layout that holds in a simulation, and what each of its machines does."""
    trial = trial or Trial()
    chosen = choose_layout(demand, costs, figures, node, trial)
    layout, played = (None, None) if isinstance(chosen, Shortfall) else chosen
    plan = Plan(
        demand=demand,
        node=node,
        figures=figures,
        assumptions=list_assumptions(layout, demand, costs, figures, node, trial.most_ongoing),
        candidates=candidates,
        shortfall=chosen.reason if isinstance(chosen, Shortfall) else None,
    )
    if layout is None:
        return plan
    return replace(
        plan,
        layout=layout,
        use=Use.of(layout, demand, costs),
        memory=Memory.of(layout, demand.faces, figures),
        disk=Disk.of(layout, demand.faces, demand.enrollments, figures),
        start_s=demand.faces * figures.value(Quantity.RESTORE),
        played=played,
    )


@dataclass(frozen=True, slots=True)
class Shortfall:
    """No layout will do, and why, in one line."""

    reason: str


def choose_layout(
    demand: Demand, costs: Costs, figures: Figures, node: Node, trial: Trial
) -> tuple[Layout, Played] | Shortfall:
    """One machine where it will do; else the fewest shards, then the fewest ingress nodes.

    What must be larger because of memory or of the ceiling is reckoned, and what because of the
    objectives is played.
    """
    search = _Search(demand, costs, figures, node, trial)
    alone = Layout(node=node)
    if search.is_calm(alone):
        played = search.play(alone)
        if played.holds(demand):
            return alone, played
    return search.choose_cluster()


@dataclass(frozen=True, slots=True)
class _Search:
    demand: Demand
    costs: Costs
    figures: Figures
    node: Node
    trial: Trial

    def is_calm(self, layout: Layout) -> bool:
        """Whether its memory is enough, and nothing is busier than the ceiling."""
        memory = Memory.of(layout, self.demand.faces, self.figures)
        use = Use.of(layout, self.demand, self.costs)
        busiest = max(use.ingress, use.writer, use.scanner)
        return memory.fullest_node_bytes <= self.node.usable_bytes and (
            busiest <= self.demand.ceiling * (1 + 1e-9)
        )

    def play(self, layout: Layout) -> Played:
        return Played.of(simulate(layout, self.demand, self.costs, self.trial), self.trial)

    def choose_cluster(self) -> tuple[Layout, Played] | Shortfall:
        shortfall = self._find_shortfall()
        if shortfall is not None:
            return shortfall
        most_busy = self.demand.ceiling * self.node.cores
        fewest = max(math.ceil(self.costs.ingress_load(self.demand) / most_busy), 1)
        most = 4 * fewest + 2
        shards = self._count_shards(Layout(node=self.node, ingress_nodes=fewest))
        if isinstance(shards, Shortfall):
            return shards
        played: dict[int, Played] = {}

        def holds(count: int) -> bool:
            layout = Layout(node=self.node, ingress_nodes=count, shards=shards)
            played[count] = self.play(layout)
            return played[count].holds(self.demand)

        ingress_nodes = _least(holds, fewest, most)
        if ingress_nodes is None:
            return Shortfall(f"more than {most:,} nodes for photographs alone: allow more time")
        chosen = Layout(node=self.node, ingress_nodes=ingress_nodes, shards=shards)
        return chosen, played[ingress_nodes]

    def _find_shortfall(self) -> Shortfall | None:
        """What no number of nodes can lift."""
        demand, costs = self.demand, self.costs
        for what, rate, objective_s, pairs in (
            ("an enrollment", demand.enrollments, demand.enroll_p99_s, 1.0),
            ("a search", demand.searches, demand.search_p99_s, SEARCH_PAIRS),
        ):
            unloaded_s = costs.enrollment_s(pairs) + costs.hop_s
            if rate and UNLOADED_TIMES * unloaded_s >= objective_s:
                return Shortfall(
                    f"HTTP and photographs of {what} take {unloaded_s * 1e3:.0f} ms of a core when "
                    f"nobody waits: an objective of {objective_s * 1e3:.0f} ms leaves the "
                    "registrar nothing; ask for more than "
                    f"{UNLOADED_TIMES * unloaded_s * 1e3:.0f} ms"
                )
        decided = demand.ceiling * costs.batch / costs.decision(costs.batch)
        if demand.enrollments > decided:
            return Shortfall(
                f"one writer orders all decisions, and at {demand.ceiling:.0%} of its time it "
                f"makes {decided:,.0f} a second without any search: {demand.enrollments:,.0f} need "
                "a faster machine or disk, or larger batches (--batch)"
            )
        return None

    def _count_shards(self, bare: Layout) -> int | Shortfall:
        """The fewest that hold, whatever the ingresses do."""
        # None at all is another thing than one: it spares the call to them.
        if self.is_calm(bare) and self._is_quick(bare):
            return 0
        calm = _least(lambda n: self.is_calm(replace(bare, shards=n)), 1, MOST_SHARDS)
        shards = calm and _least(
            lambda n: self._is_quick(replace(bare, shards=n)), calm, MOST_SHARDS
        )
        return shards or self._explain_shards(replace(bare, shards=MOST_SHARDS))

    def _is_quick(self, layout: Layout) -> bool:
        """Whether search and decision leave the ingresses their share of the objectives."""
        return all(took_s <= budget_s for took_s, budget_s in self._play_inner(layout))

    def _play_inner(self, layout: Layout) -> list[tuple[float, float]]:
        """Seconds from the registrar's door on, in `SURE` of the answers, and those it may take."""
        demand, costs = self.demand, self.costs
        trial = replace(self.trial, requests=min(self.trial.requests, SHORT_TRIAL))
        run = simulate(layout, demand, costs, trial)
        stages = []
        for times_s, objective_s, pairs in (
            (run.enroll_inner_s, demand.enroll_p99_s, 1.0),
            (run.search_inner_s, demand.search_p99_s, SEARCH_PAIRS),
        ):
            if len(times_s):
                unloaded_s = costs.enrollment_s(pairs) + costs.hop_s
                front_s = max(INGRESS_SHARE * objective_s, UNLOADED_TIMES * unloaded_s)
                stages.append((quantile(times_s, SURE), objective_s - front_s))
        return stages

    def _explain_shards(self, widest: Layout) -> Shortfall:
        demand, node = self.demand, self.node
        memory = Memory.of(widest, demand.faces, self.figures)
        if memory.fullest_node_bytes > node.usable_bytes:
            return Shortfall(
                f"{demand.faces:,} faces do not fit {MOST_SHARDS} shards of "
                f"{node.usable_bytes / 2**30:,.0f} GiB: a shard would need "
                f"{memory.fullest_node_bytes / 2**30:,.0f} GiB"
            )
        use = Use.of(widest, demand, self.costs)
        if max(use.writer, use.scanner) > demand.ceiling:
            return Shortfall(
                f"with {MOST_SHARDS} shards the writer would be busy {use.writer:.0%} of its time "
                f"and the scans {use.scanner:.0%}, and {demand.ceiling:.0%} is the ceiling: take "
                "nodes with more cores, or larger batches (--batch)"
            )
        needed = [
            f"{took_s * 1e3:,.0f} ms of {budget_s * 1e3:,.0f}"
            for took_s, budget_s in self._play_inner(widest)
            if took_s > budget_s
        ]
        return Shortfall(
            f"with {MOST_SHARDS} shards search and decision take {' and '.join(needed)}: allow "
            "more time, or take nodes with more cores"
        )


def _least(is_enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number that is enough, given that every greater one is too.

    It is looked for close to `low` first, where it usually is.
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
