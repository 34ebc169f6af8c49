"""From figures and a demand to a plan: machines, what each holds, and what to expect of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.capacity.analytic import Expected, Latency, expect, expect_front, holds
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
)
from engine.capacity.simulation import ENROLLMENTS_ONGOING, Run, Trial, simulate
from engine.matching.calibration import CalibrationCurve, Rate

# Which layout a demand needs: the smallest that the formula says holds.

INGRESS_SHARE = 0.5
"""Of an objective is for the way to the registrar's door, where that is enough."""
UNLOADED_TIMES = 2.0
"""Where it is not, so many times what it takes when nobody else is there."""
ROUNDING = 0.998
"""Stages are added on a grid of a thousandth of the objective."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """No layout will do, and why, in one line."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Budget:
    """Of an objective in seconds: until the registrar's door, and inside."""

    ingress_s: float
    inner_s: float


def choose_layout(demand: Demand, costs: Costs, figures: Figures, node: Node) -> Layout | Shortfall:
    """One machine where it will do; else the fewest shards, then the fewest ingress nodes.

    Neither number depends on the other, so that more arrivals never need fewer of either.
    """
    alone = Layout(node=node)
    if _fits(alone, demand, figures) and _holds_whole(alone, demand, costs):
        return alone
    budgets = _split(demand, costs)
    if isinstance(budgets, Shortfall):
        return budgets
    decided = _writers_most(demand, costs)
    if demand.enrollments > decided:
        return Shortfall(
            f"one writer orders all decisions, and at {demand.ceiling:.0%} of its time it makes "
            f"{decided:,.0f} a second without any search: {demand.enrollments:,.0f} need a faster "
            "machine or disk, or larger batches (--batch)"
        )
    fewest, most = _bound_ingresses(demand, costs, node)

    def is_enough(shards: int) -> bool:
        layout = Layout(node=node, ingress_nodes=most, shards=shards)
        return _fits(layout, demand, figures) and _holds_inside(layout, demand, costs, budgets)

    shards = 0 if is_enough(0) else _least(is_enough, 1, MOST_SHARDS)
    if shards is None:
        return _explain_shards(demand, costs, figures, node, budgets)

    def is_served(count: int) -> bool:
        layout = Layout(node=node, ingress_nodes=count, shards=0)
        return _holds_outside(layout, demand, costs, budgets)

    ingress_nodes = _least(is_served, fewest, most)
    if ingress_nodes is None:
        return Shortfall(f"more than {most:,} nodes for photographs alone: allow more time")
    return Layout(node=node, ingress_nodes=ingress_nodes, shards=shards)


def _fits(layout: Layout, demand: Demand, figures: Figures) -> bool:
    memory = Memory.of(layout, demand.faces, figures)
    return memory.fullest_node_bytes <= layout.node.usable_bytes


def _holds_whole(layout: Layout, demand: Demand, costs: Costs) -> bool:
    expected = expect(layout, demand, costs)
    return (
        expected.answers(demand)
        and expected.is_calm(demand.ceiling)
        and holds(expected.enroll, demand.enroll_p99_s * ROUNDING)
        and holds(expected.search, demand.search_p99_s * ROUNDING)
    )


def _list_stages(
    expected: Expected, budgets: tuple[_Budget, _Budget]
) -> list[tuple[Latency, _Budget]]:
    both = ((expected.enroll, budgets[0]), (expected.search, budgets[1]))
    return [(latency, budget) for latency, budget in both if latency is not None]


def _holds_inside(
    layout: Layout, demand: Demand, costs: Costs, budgets: tuple[_Budget, _Budget]
) -> bool:
    """The writer and the scans, whatever the ingresses do."""
    expected = expect(layout, demand, costs)
    if not expected.answers(demand) or max(expected.writer, expected.scanner) > demand.ceiling:
        return False
    return all(
        latency.inner_s <= budget.inner_s for latency, budget in _list_stages(expected, budgets)
    )


def _holds_outside(
    layout: Layout, demand: Demand, costs: Costs, budgets: tuple[_Budget, _Budget]
) -> bool:
    """The ingresses, whatever the gallery."""
    use, enroll_s, search_s = expect_front(layout, demand, costs)
    return (
        use <= demand.ceiling
        and enroll_s <= budgets[0].ingress_s
        and search_s <= budgets[1].ingress_s
    )


def _split(demand: Demand, costs: Costs) -> tuple[_Budget, _Budget] | Shortfall:
    """The objectives' shares, whatever comes: they depend on no load."""
    budgets = []
    for what, rate, objective_s, pairs in (
        ("an enrollment", demand.enrollments, demand.enroll_p99_s, 1.0),
        ("a search", demand.searches, demand.search_p99_s, SEARCH_PAIRS),
    ):
        unloaded_s = costs.enrollment_s(pairs) + costs.hop_s
        ingress_s = max(INGRESS_SHARE * objective_s, UNLOADED_TIMES * unloaded_s)
        if rate and ingress_s >= objective_s:
            return Shortfall(
                f"HTTP and photographs of {what} take {unloaded_s * 1e3:.0f} ms of a core when "
                f"nobody waits: an objective of {objective_s * 1e3:.0f} ms leaves the registrar "
                f"nothing; ask for more than {UNLOADED_TIMES * unloaded_s * 1e3:.0f} ms"
            )
        budgets.append(_Budget(ingress_s * ROUNDING, (objective_s - ingress_s) * ROUNDING))
    return budgets[0], budgets[1]


def _writers_most(demand: Demand, costs: Costs) -> float:
    return demand.ceiling * costs.batch / costs.decision(costs.batch)


def _bound_ingresses(demand: Demand, costs: Costs, node: Node) -> tuple[int, int]:
    """As few as work at the ceiling, and so many that nobody waits at them."""
    enrolling = demand.enrollments * costs.enrollment_s()
    load = (enrolling + demand.searches * costs.enrollment_s(SEARCH_PAIRS)) / node.cores
    return max(math.ceil(load / demand.ceiling), 1), math.ceil(4 * load) + 2


def _least(is_enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number that is enough, given that every greater one is too."""
    if not is_enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def _explain_shards(
    demand: Demand,
    costs: Costs,
    figures: Figures,
    node: Node,
    budgets: tuple[_Budget, _Budget],
) -> Shortfall:
    layout = Layout(
        node=node, ingress_nodes=_bound_ingresses(demand, costs, node)[1], shards=MOST_SHARDS
    )
    memory = Memory.of(layout, demand.faces, figures)
    if memory.fullest_node_bytes > node.usable_bytes:
        return Shortfall(
            f"{demand.faces:,} faces do not fit {MOST_SHARDS} shards of "
            f"{node.usable_bytes / 2**30:,.0f} GiB: a shard would need "
            f"{memory.fullest_node_bytes / 2**30:,.0f} GiB"
        )
    expected = expect(layout, demand, costs)
    if max(expected.writer, expected.scanner) > demand.ceiling:
        return Shortfall(
            f"with {MOST_SHARDS} shards the writer would be busy {expected.writer:.0%} of its time "
            f"and the scans {expected.scanner:.0%}, and {demand.ceiling:.0%} is the ceiling: take "
            "nodes with more cores, or larger batches (--batch)"
        )
    needed = [
        f"{latency.inner_s * 1e3:,.0f} ms of {budget.inner_s * 1e3:,.0f}"
        for latency, budget in _list_stages(expected, budgets)
        if latency.inner_s > budget.inner_s
    ]
    return Shortfall(
        f"with {MOST_SHARDS} shards search and decision take {' and '.join(needed)}: allow more "
        "time, or take nodes with more cores"
    )


# How many strangers a search of so many faces will bring, as far as the calibration can say.

WANTED = 0.1
"""False candidates a search that a desk can work with, as with 100,000 faces at FMR 1e-6."""


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


TOLERANCE = 0.2
"""How far formula and simulation may be apart before a plan says so."""
MOST_REFUSED = 0.01
"""Of enrollments in a simulation that holds."""
_MOST_TRIES = 8


class Outcome(StrEnum):
    """`NEAR`: over an objective by less than `TOLERANCE`; `UNKNOWN`: not simulated."""

    HOLDS = "holds"
    NEAR = "near"
    MISSES = "misses"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Seen:
    """Seconds in which half, and 99 of 100, were answered."""

    p50_s: float
    p99_s: float

    @classmethod
    def of(cls, times_s: NDArray[np.float64]) -> Self | None:
        """None where nobody was answered."""
        if not len(times_s):
            return None
        p50_s, p99_s = np.quantile(times_s, (0.5, 0.99))
        return cls(float(p50_s), float(p99_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """The same layout, simulated; `refused` is a share of the enrollments, `ingress` of time."""

    requests: int
    seed: int
    enroll: Seen | None
    search: Seen | None
    refused: float
    ingress: float

    @classmethod
    def of(cls, run: Run, trial: Trial) -> Self:
        return cls(
            requests=len(run.enroll_s) + len(run.search_s),
            seed=trial.seed,
            enroll=Seen.of(run.enroll_s),
            search=Seen.of(run.search_s),
            refused=run.refused,
            ingress=run.ingress,
        )


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
    expected: Expected | None = None
    memory: Memory | None = None
    disk: Disk | None = None
    start_s: float = 0.0
    busy_cores: float = 0.0
    played: Played | None = None

    @property
    def outcome(self) -> Outcome:
        """What the simulation says of the objectives."""
        demand, played = self.demand, self.played
        if played is None:
            return Outcome.UNKNOWN
        pairs = ((played.enroll, demand.enroll_p99_s), (played.search, demand.search_p99_s))
        over = max((seen.p99_s / goal_s for seen, goal_s in pairs if seen), default=0.0)
        if over > 1 + TOLERANCE or played.refused > MOST_REFUSED:
            return Outcome.MISSES
        return Outcome.HOLDS if over <= 1 else Outcome.NEAR

    def list_ratios(self) -> dict[str, float]:
        """The formula over the simulation, for each quantile that both have."""
        if self.expected is None or self.played is None:
            return {}
        pairs = {
            "enroll": (self.expected.enroll, self.played.enroll),
            "search": (self.expected.search, self.played.search),
        }
        ratios = {}
        for name, (latency, played) in pairs.items():
            if latency is not None and played is not None:
                ratios[f"{name}_p50"] = latency.p50_s / played.p50_s
                ratios[f"{name}_p99"] = latency.p99_s / played.p99_s
        return ratios

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        layout = self.layout
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
                "busy_cores": self.busy_cores,
            },
            "expected": self.expected and asdict(self.expected),
            "simulated": self.played and asdict(self.played),
            "formula_over_simulation": self.list_ratios(),
            "outcome": self.outcome.value,
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
    """Chooses a layout by formula; with a `trial`, plays it too.

    The formula knows no bound of what is under way at an ingress: where the simulation refuses
    enrollments for it, there are more ingresses than the formula asks for.
    """
    layout = choose_layout(demand, costs, figures, node)
    most_ongoing = ENROLLMENTS_ONGOING if trial is None else trial.most_ongoing
    if isinstance(layout, Shortfall):
        return Plan(
            demand=demand,
            node=node,
            figures=figures,
            assumptions=list_assumptions(None, demand, costs, figures, node, most_ongoing),
            candidates=candidates,
            shortfall=layout.reason,
        )
    played = None
    if trial is not None:
        layout, played = _play(layout, demand, costs, trial)
    expected = expect(layout, demand, costs)
    return Plan(
        demand=demand,
        node=node,
        figures=figures,
        assumptions=list_assumptions(layout, demand, costs, figures, node, most_ongoing),
        candidates=candidates,
        layout=layout,
        expected=expected,
        memory=Memory.of(layout, demand.faces, figures),
        disk=Disk.of(layout, demand.faces, demand.enrollments, figures),
        start_s=demand.faces * figures.value(Quantity.RESTORE),
        busy_cores=_count_busy(layout, demand, costs, expected),
        played=played,
    )


def _play(layout: Layout, demand: Demand, costs: Costs, trial: Trial) -> tuple[Layout, Played]:
    """With a quarter more ingresses at a time while too many enrollments are refused."""
    played = Played.of(simulate(layout, demand, costs, trial), trial)
    for _ in range(_MOST_TRIES):
        if played.refused <= MOST_REFUSED:
            break
        more = layout.ingress_nodes + max(1, layout.ingress_nodes // 4)
        layout = replace(layout, ingress_nodes=more)
        played = Played.of(simulate(layout, demand, costs, trial), trial)
    return layout, played


def _count_busy(layout: Layout, demand: Demand, costs: Costs, expected: Expected) -> float:
    """Cores at work on average: those of the ingresses, of the scans, and the writer's own.

    While the writer waits for a scan it takes no core beside the scan's.
    """
    busy = expected.ingress * layout.ingress_cores
    if layout.is_one_machine:
        return busy
    deciding = demand.enrollments * costs.decision(costs.batch) / costs.batch
    return busy + deciding + expected.scanner * layout.node.cores * max(layout.shards, 1)
