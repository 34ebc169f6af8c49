"""A measured run beside the simulation and the formula of the same: how far each is off.

Given by the report: the processor time of an enrollment in the service's parts, the library's own
rate in the same run, and how the load was made. From these the rate of a closed loop follows where
nothing but the cores is in the way, and its median from the rate; that nothing is, is what these
two rows hold. How long an answer takes below that, and how the times spread, is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from engine.capacity.analytic import SPANS, expect
from engine.capacity.figures import (
    ENROLLING,
    IN_PROCESS,
    Figures,
    Report,
    ReportedResult,
    processor_time,
)
from engine.capacity.model import (
    DECISIONS_AT_ONCE,
    PAIRS_AT_ONCE,
    Affine,
    Costs,
    Demand,
    Layout,
    Node,
)
from engine.capacity.simulation import Trial, simulate
from engine.errors import RequestError

WITHIN = 0.2
CALM = "Enrollments below and far above what it can do"
CALM_SHARE = 0.7
OVER_HTTP, FULL = "over HTTP", "100 %: answers in a closed loop"
CALM_P50, CALM_P99 = "70 %: p50", "70 %: p99"
EVEN = 0.1
"""How far evenly spaced arrivals are from Poisson's: they wait for the spread of service alone."""
LONGEST_S = 1.0


class Held(StrEnum):
    """Who must be `WITHIN`: what is not held is told."""

    BOTH = "simulation and formula"
    SIMULATION = "simulation"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure three times over, in the same unit; there is no formula for everything.

    What is not `is_predicted` follows from what was given, where only the cores are in the way.
    """

    name: str
    unit: str
    measured: float
    simulated: float
    formula: float | None
    held: Held = Held.BOTH
    is_predicted: bool = True

    @property
    def simulated_ratio(self) -> float:
        return self.simulated / self.measured

    @property
    def formula_ratio(self) -> float | None:
        return None if self.formula is None else self.formula / self.measured

    @property
    def holds(self) -> bool | None:
        """None for a figure that is told and not held to."""
        if self.held is Held.NEITHER:
            return None
        formula = self.formula_ratio if self.held is Held.BOTH else None
        ratios = (self.simulated_ratio, formula)
        return all(x is None or 1 - WITHIN <= x <= 1 + WITHIN for x in ratios)

    @property
    def verdict(self) -> str:
        """In words, with whom it is about where that is one of two."""
        if self.holds is None:
            return "told only"
        words = f"within {WITHIN * 100:.0f} %" if self.holds else "off"
        is_of_one = self.held is Held.SIMULATION and self.formula is not None
        return f"simulation {words}" if is_of_one else words


@dataclass(frozen=True, slots=True)
class Check:
    """`given` is what was taken from the report, by what it is called; `notes` say what of the
    rows follows from it, and what is told only."""

    report: str
    machine: str
    given: Mapping[str, str]
    rows: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return all(row.holds is not False for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        rows = [
            asdict(row)
            | {
                "simulated_over_measured": row.simulated_ratio,
                "formula_over_measured": row.formula_ratio,
                "holds": row.holds,
                "verdict": row.verdict,
            }
            for row in self.rows
        ]
        return asdict(self) | {"rows": rows, "holds": self.holds}


def check_report(report: Report, figures: Figures, seed: int = 0) -> Check:
    """Plays what `sosie bench serve` did, on its machine; `figures` for what it does not say.

    Raises `RequestError` where the report has no enrollments over HTTP.
    """
    enrolling = report.result(ENROLLING)
    if enrolling is None:
        raise RequestError(
            f"{report.name} has no enrollments over HTTP: give the report of `sosie bench serve`"
        )
    measured = enrolling.value(OVER_HTTP, "1/s")
    own, spent = enrolling.value(IN_PROCESS), processor_time(enrolling)
    if not measured or not own or spent is None:
        raise RequestError(f"{report.name} lacks figures of its enrollments: measure them again")
    cores = report.machine.cores
    costs = _fit_costs(figures, cores / own, spent)
    site = _Site(report, costs, enrolling, seed)
    rows = site.compare_loop(measured)
    given = {
        "an enrollment, processor time of all parts": f"{spent * 1e3:.1f} ms",
        "the same in the library": f"{cores / own * 1e3:.1f} ms",
        "references": f"{enrolling.size('references'):,.0f}",
        "connections": f"{enrolling.size('connections'):.0f}",
    }
    calm = report.result(CALM)
    full = None if calm is None else calm.value(FULL)
    below: list[Comparison] = []
    if calm is not None and full:
        given["arrivals at 70 %, evenly spaced"] = f"{full * CALM_SHARE:.1f} a second"
        below = site.compare_calm(calm, full * CALM_SHARE)
    return Check(report.name, str(report.stamp), given, (*rows, *below), _note(below))


def _note(below: Sequence[Comparison]) -> tuple[str, ...]:
    """What a reader must know of the rows; `below` are those of the calm load."""
    notes = [
        "The closed loop's rate follows from the processor time given, where nothing but the cores "
        "is in the way, and its p50 from the rate: that nothing is, is what they show.",
        "The p99 of the closed loop is predicted, and told only.",
    ]
    if below:
        notes.append(
            "At 70 % both are predicted, and the simulation is held to both. The formula has an "
            "approximation for evenly spaced arrivals: its p99 is told only."
        )
    return tuple(notes)


def _fit_costs(figures: Figures, own_s: float, spent_s: float) -> Costs:
    """The library's own time is photographs and a decision; what the service takes more, HTTP."""
    costs = Costs.of(figures)
    decision_s = costs.decision(DECISIONS_AT_ONCE) / DECISIONS_AT_ONCE
    pair_s = max(own_s - decision_s, 0.0)
    usual = costs.photographs(PAIRS_AT_ONCE) / PAIRS_AT_ONCE
    scale = pair_s / usual if usual else 1.0
    return replace(
        costs,
        photographs=Affine(costs.photographs.fixed_s * scale, costs.photographs.item_s * scale),
        http_s=max(spent_s - own_s, 0.0),
    )


@dataclass(frozen=True, slots=True)
class _Site:
    report: Report
    costs: Costs
    enrolling: ReportedResult
    seed: int

    @property
    def layout(self) -> Layout:
        machine = self.report.machine
        # Its memory is read as fast as the scans were measured to read it.
        return Layout(
            node=Node(
                cores=machine.cores,
                memory_bytes=machine.memory_bytes,
                bandwidth_bytes_s=float("inf"),
            )
        )

    def _demand(self, result: ReportedResult, rate: float) -> Demand:
        return Demand(
            faces=int(result.size("references")),
            enrollments=rate,
            enroll_p99_s=LONGEST_S,
            search_p99_s=LONGEST_S,
        )

    def compare_loop(self, measured: float) -> list[Comparison]:
        """A closed loop: each connection sends again when it is answered.

        Costs are fitted to this run, so its rate is given but for what keeps cores idle; its
        median is about connections over rate, whatever the queues are.
        """
        connections = int(self.enrolling.size("connections"))
        layout, costs = self.layout, self.costs
        demand = self._demand(self.enrolling, measured)
        trial = Trial(requests=4_000, seed=self.seed, connections=connections)
        run = simulate(layout, demand, costs, trial)
        # All at once: what is busy longest for each is the limit.
        together = max(1.0, min(PAIRS_AT_ONCE, connections / layout.ingress_cores))
        scan_s = costs.scan_core_s(demand.faces, connections / 2) / (connections / 2)
        cores_s = (
            costs.http_s
            + costs.photographs(together) / together
            + costs.decision(connections / 2) / (connections / 2)
            + scan_s
        )
        rate = layout.node.cores / cores_s
        rows = [
            Comparison("closed loop, rate", "1/s", measured, run.rate, rate, is_predicted=False)
        ]
        p50, p99 = (self.enrolling.value(f"{OVER_HTTP}: {name}") for name in ("p50", "p99"))
        if p50 and p99:
            played = run.quantile(0.5) * 1e3, run.quantile(0.99) * 1e3
            loop = connections / rate * 1e3
            rows += [
                Comparison("closed loop, p50", "ms", p50, played[0], loop, is_predicted=False),
                Comparison("closed loop, p99", "ms", p99, played[1], None, Held.NEITHER),
            ]
        return rows

    def compare_calm(self, calm: ReportedResult, rate: float) -> list[Comparison]:
        """At 70 % of that, evenly spaced: the simulation is held to both, the formula to p50.

        The generator works on the same two cores, and its own delays are in the measured p99.
        """
        p50, p99 = calm.value(CALM_P50), calm.value(CALM_P99)
        if not p50 or not p99:
            return []
        demand = self._demand(calm, rate)
        trial = Trial(requests=6_000, seed=self.seed, is_even=True)
        run = simulate(self.layout, demand, self.costs, trial)
        enroll = expect(self.layout, demand, self.costs, regularity=EVEN).enroll
        times_s = (enroll.p50_s, enroll.p99_s) if enroll else (math.inf, math.inf)
        # What never catches up is at the end of the formula's grid.
        formula = [min(one, SPANS * LONGEST_S) * 1e3 for one in times_s]
        played = [run.quantile(share) * 1e3 for share in (0.5, 0.99)]
        return [
            Comparison("at 70 %, p50", "ms", p50, played[0], formula[0]),
            Comparison("at 70 %, p99", "ms", p99, played[1], formula[1], Held.SIMULATION),
        ]
