"""From figures and a demand to a plan: machines, what each holds, and what to expect of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.capacity.assumptions import list_assumptions
from engine.capacity.candidates import FalseCandidates
from engine.capacity.choosing import Shortfall, choose_layout
from engine.capacity.costs import Costs, Node
from engine.capacity.demand import Demand
from engine.capacity.expectation import Expected, expect
from engine.capacity.figures import Figures, Quantity
from engine.capacity.layout import Disk, Layout, Memory
from engine.capacity.simulation import ENROLLMENTS_ONGOING, Run, Trial, simulate

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
