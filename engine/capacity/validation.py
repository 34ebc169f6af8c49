"""Validation of the simulation against a measured run.

Given by the report: the processor time of an enrollment in all parts of the service and in the
library alone, in the same run, and the load. If only the cores limit a closed loop, its rate
follows from these, and its median from the rate; those two rows check that. Predicted is how much
load there may be below that, as a plan must: near the limit a few percent of load are half of a
latency, so it is the load of the measured latency that has to agree, not the latency of the load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.capacity.figures import (
    COSTS,
    DECISIONS_AT_ONCE,
    ENROLLING,
    IN_LIBRARY,
    IN_SERVICE,
    MeasuredMachine,
    PlanFigures,
    ReportedResult,
    SuiteReport,
    find_service_s,
)
from engine.capacity.model import PAIRS_AT_ONCE, Affine, Costs, Demand, MachineLayout, Node
from engine.capacity.simulation import Trial, quantile, simulate
from engine.errors import RequestError

TOLERANCE = 0.2
CALM = "Enrollments below and far above what it can do"
CALM_SHARE = 0.7
OVER_HTTP, FULL = "over HTTP", "100 %: answers in a closed loop"
LOAD_STEPS = 7
"""Halvings of an interval: to about one percent of the load."""
NOTES = (
    "The closed loop's rate follows from the processor time given, and its p50 from the rate, "
    "if only the cores limit the service: these two rows check that.",
    "The p99 of the closed loop is predicted, but not checked.",
)
Replay = Callable[..., tuple[float, float, float]]
"""`run(rate, **load)` simulates it: answers a second, p50 and p99 in ms."""
CALM_NOTE = (
    "Predicted and checked is the load at which the simulation has a latency measured at "
    "70 %: a few percent of load change a latency there by half."
)


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """A figure, measured and simulated, in the same unit.

    Those with `is_held` must agree. Those without `is_predicted` follow from what was given, if
    only the cores limit the service.
    """

    name: str
    unit: str
    measured: float
    simulated: float
    is_held: bool = True
    is_predicted: bool = True

    @property
    def ratio(self) -> float:
        return self.simulated / self.measured

    @property
    def holds(self) -> bool | None:
        """Whether it agrees; None for a figure that is not checked."""
        return 1 - TOLERANCE <= self.ratio <= 1 + TOLERANCE if self.is_held else None

    @property
    def verdict(self) -> str:
        if self.holds is None:
            return "not checked"
        return f"within {TOLERANCE * 100:.0f} %" if self.holds else "off"


@dataclass(frozen=True, slots=True)
class Check:
    """Result of a validation; `given` was taken from the report, `notes` explain the rows."""

    report: str
    machine: str
    given: Mapping[str, str]
    rows: tuple[ComparedFigure, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return all(row.holds is not False for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        rows = [
            asdict(row)
            | {"simulated_over_measured": row.ratio, "holds": row.holds, "verdict": row.verdict}
            for row in self.rows
        ]
        return asdict(self) | {"rows": rows, "holds": self.holds}


def check_report(report: SuiteReport, figures: PlanFigures, seed: int = 0) -> Check:
    """Simulate a run of `sosie bench serve` and compare; `figures` fill in what it lacks.

    Raises `RequestError` where the report has no enrollments over HTTP.
    """
    enrolling, costs = report.result(ENROLLING), report.result(COSTS)
    if enrolling is None:
        raise RequestError(
            f"{report.name} has no enrollments over HTTP: give the report of `sosie bench serve`"
        )
    if costs is None or not (enrolling.value(OVER_HTTP, "1/s") and find_service_s(costs) >= 0):
        raise RequestError(f"{report.name} lacks figures of its enrollments: measure them again")
    library_s = costs.value(IN_LIBRARY) / 1e3
    fitted = _fit_costs(figures, library_s, find_service_s(costs))
    given = {
        "an enrollment, processor time of all parts": f"{costs.value(IN_SERVICE):.1f} ms",
        "the same in the library": f"{library_s * 1e3:.1f} ms",
        "references": f"{enrolling.size('references'):,.0f}",
        "connections": f"{enrolling.size('connections'):.0f}",
    }
    rows = _compare_loop(_replay(report.machine, enrolling, fitted, seed), enrolling)
    notes = [*NOTES]
    calm = report.result(CALM)
    if calm is not None and (full := calm.value(FULL)) > 0:
        given["arrivals at 70 %, evenly spaced"] = f"{full * CALM_SHARE:.1f} a second"
        replay = _replay(report.machine, calm, fitted, seed)
        below = _compare_calm(replay, calm, full * CALM_SHARE)
        rows += below
        notes += [CALM_NOTE] * bool(below)
    return Check(report.name, str(report.machine), given, tuple(rows), tuple(notes))


def _fit_costs(figures: PlanFigures, library_s: float, service_s: float) -> Costs:
    """The library's time is photographs and a decision; what the service takes beyond is HTTP."""
    costs = Costs.of(figures)
    decision_s = costs.decision(DECISIONS_AT_ONCE) / DECISIONS_AT_ONCE
    pair_s = max(library_s - decision_s, 0.0)
    usual = costs.photographs(PAIRS_AT_ONCE) / PAIRS_AT_ONCE
    scale = pair_s / usual if usual else 1.0
    photographs = Affine(costs.photographs.fixed_s * scale, costs.photographs.item_s * scale)
    return replace(costs, photographs=photographs, http_s=service_s)


def _replay(machine: MeasuredMachine, result: ReportedResult, costs: Costs, seed: int) -> Replay:
    """Simulates the load of a result on the report's machine."""
    # The measured scans include the limit of the memory's bandwidth.
    node = Node(cores=machine.cores, memory_bytes=machine.memory_bytes, bandwidth_bytes_s=math.inf)

    def run(rate: float, **load: Any) -> tuple[float, float, float]:
        demand = Demand(faces=int(result.size("references")), enrollments=rate)
        trial = Trial(requests=4_000, seed=seed, **load)
        made = simulate(MachineLayout(node=node), demand, costs, trial)
        return made.rate, quantile(made.enroll_s, 0.5) * 1e3, quantile(made.enroll_s, 0.99) * 1e3

    return run


def _compare_loop(run: Replay, result: ReportedResult) -> list[ComparedFigure]:
    """A closed loop: each connection sends again when it is answered.

    Costs are fitted to this run, so its rate is given but for idle cores; its median is about
    connections over rate, whatever the queues.
    """
    measured = result.value(OVER_HTTP, "1/s")
    rate, *simulated = run(measured, connections=int(result.size("connections")))
    rows = [ComparedFigure("closed loop, rate", "1/s", measured, rate, is_predicted=False)]
    p50, p99 = (result.value(f"{OVER_HTTP}: {name}") for name in ("p50", "p99"))
    if p50 > 0 and p99 > 0:
        rows += [
            ComparedFigure("closed loop, p50", "ms", p50, simulated[0], is_predicted=False),
            ComparedFigure("closed loop, p99", "ms", p99, simulated[1], is_held=False),
        ]
    return rows


def _compare_calm(run: Replay, result: ReportedResult, rate: float) -> list[ComparedFigure]:
    """At 70 % of that rate, evenly spaced.

    The generator runs on the same two cores, and its delays are in the measured p99.
    """
    measured = {name: result.value(f"70 %: {name}") for name in ("p50", "p99")}
    if not all(latency_ms > 0 for latency_ms in measured.values()):
        return []
    rows, loads = [], []
    simulated = run(rate, is_even=True)
    for place, (name, latency_ms) in enumerate(measured.items(), 1):
        rows.append(
            ComparedFigure(f"at 70 %, {name}", "ms", latency_ms, simulated[place], is_held=False)
        )
        low, high = rate / 2, rate * 2
        for _ in range(LOAD_STEPS):
            middle = (low + high) / 2
            is_below = run(middle, is_even=True)[place] < latency_ms
            low, high = (middle, high) if is_below else (low, middle)
        loads.append(ComparedFigure(f"load of this {name}", "1/s", rate, (low + high) / 2))
    return rows + loads
