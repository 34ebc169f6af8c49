"""Validation of the simulation against a measured run.

Given by the report: the processor time of an enrollment in all parts of the service and in the
library alone, in the same run, and the load. If only the cores limit a closed loop, its rate
follows from these, and its median from the rate; those two rows check that. Predicted is how much
load there may be below that, as a plan must: near the limit a few percent of load are half of a
latency, so it is the load of the measured latency that has to agree, not the latency of the load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine.capacity.figures import (
    COSTS,
    ENROLLING,
    EnrollmentTime,
    PlanFigures,
    ReportedResult,
    SuiteReport,
)
from engine.capacity.model import (
    DECISIONS_AT_ONCE,
    PAIRS_AT_ONCE,
    Affine,
    Costs,
    Demand,
    MachineLayout,
    Node,
)
from engine.capacity.simulation import Trial, quantile, simulate
from engine.errors import RequestError

TOLERANCE = 0.2
CALM = "Enrollments below and far above what it can do"
CALM_SHARE = 0.7
OVER_HTTP, FULL = "over HTTP", "100 %: answers in a closed loop"
LOAD_STEPS = 7
"""Halvings of an interval: to about one percent of the load."""
CALM_P50, CALM_P99 = "70 %: p50", "70 %: p99"


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
    enrolling = report.result(ENROLLING)
    if enrolling is None:
        raise RequestError(
            f"{report.name} has no enrollments over HTTP: give the report of `sosie bench serve`"
        )
    measured = enrolling.value(OVER_HTTP, "1/s")
    time = EnrollmentTime.of(report.result(COSTS))
    if not measured or time is None:
        raise RequestError(f"{report.name} lacks figures of its enrollments: measure them again")
    costs = _fit_costs(figures, time)
    rows = _compare_loop(report, enrolling, costs, measured, seed)
    given = {
        "an enrollment, processor time of all parts": f"{time.service_s * 1e3:.1f} ms",
        "the same in the library": f"{time.library_s * 1e3:.1f} ms",
        "references": f"{enrolling.size('references'):,.0f}",
        "connections": f"{enrolling.size('connections'):.0f}",
    }
    calm = report.result(CALM)
    full = None if calm is None else calm.value(FULL)
    below: list[ComparedFigure] = []
    if calm is not None and full:
        given["arrivals at 70 %, evenly spaced"] = f"{full * CALM_SHARE:.1f} a second"
        below = _compare_calm(report, calm, costs, full * CALM_SHARE, seed)
    return Check(report.name, str(report.machine), given, (*rows, *below), _explain(below))


def _explain(below: Sequence[ComparedFigure]) -> tuple[str, ...]:
    """Notes on the rows; `below` are those below full load."""
    notes = [
        "The closed loop's rate follows from the processor time given, and its p50 from the rate, "
        "if only the cores limit the service: these two rows check that.",
        "The p99 of the closed loop is predicted, but not checked.",
    ]
    if below:
        notes.append(
            "Predicted and checked is the load at which the simulation has a latency measured at "
            "70 %: a few percent of load change a latency there by half."
        )
    return tuple(notes)


def _fit_costs(figures: PlanFigures, time: EnrollmentTime) -> Costs:
    """The library's time is photographs and a decision; the rest of the service's is HTTP."""
    costs = Costs.of(figures)
    decision_s = costs.decision(DECISIONS_AT_ONCE) / DECISIONS_AT_ONCE
    pair_s = max(time.library_s - decision_s, 0.0)
    usual = costs.photographs(PAIRS_AT_ONCE) / PAIRS_AT_ONCE
    scale = pair_s / usual if usual else 1.0
    return replace(
        costs,
        photographs=Affine(costs.photographs.fixed_s * scale, costs.photographs.item_s * scale),
        http_s=time.beyond_s,
    )


def _replay(
    report: SuiteReport, result: ReportedResult, costs: Costs, rate: float, trial: Trial
) -> tuple[float, float, float]:
    """Answers a second, p50 and p99 in ms of this load on the report's machine."""
    # The measured scans include the limit of the memory's bandwidth.
    machine = report.machine
    node = Node(
        cores=machine.cores, memory_bytes=machine.memory_bytes, bandwidth_bytes_s=float("inf")
    )
    demand = Demand(faces=int(result.size("references")), enrollments=rate)
    run = simulate(MachineLayout(node=node), demand, costs, trial)
    return run.rate, quantile(run.enroll_s, 0.5) * 1e3, quantile(run.enroll_s, 0.99) * 1e3


def _compare_loop(
    report: SuiteReport, enrolling: ReportedResult, costs: Costs, measured: float, seed: int
) -> list[ComparedFigure]:
    """A closed loop: each connection sends again when it is answered.

    Costs are fitted to this run, so its rate is given but for idle cores; its median is about
    connections over rate, whatever the queues.
    """
    trial = Trial(requests=4_000, seed=seed, connections=int(enrolling.size("connections")))
    rate, *simulated = _replay(report, enrolling, costs, measured, trial)
    rows = [ComparedFigure("closed loop, rate", "1/s", measured, rate, is_predicted=False)]
    p50, p99 = (enrolling.value(f"{OVER_HTTP}: {name}") for name in ("p50", "p99"))
    if p50 and p99:
        rows += [
            ComparedFigure("closed loop, p50", "ms", p50, simulated[0], is_predicted=False),
            ComparedFigure("closed loop, p99", "ms", p99, simulated[1], is_held=False),
        ]
    return rows


def _compare_calm(
    report: SuiteReport, calm: ReportedResult, costs: Costs, rate: float, seed: int
) -> list[ComparedFigure]:
    """At 70 % of that rate, evenly spaced.

    The generator runs on the same two cores, and its delays are in the measured p99.
    """
    p50, p99 = calm.value(CALM_P50), calm.value(CALM_P99)
    if not p50 or not p99:
        return []
    trial = Trial(requests=4_000, seed=seed, is_even=True)

    def reach(load: float) -> tuple[float, float]:
        return _replay(report, calm, costs, load, trial)[1:]

    def find(place: int, latency_ms: float) -> float:
        return _find_load(lambda load: reach(load)[place], latency_ms, rate)

    rows = [
        ComparedFigure(f"at 70 %, {name}", "ms", measured, simulated, is_held=False)
        for name, measured, simulated in zip(("p50", "p99"), (p50, p99), reach(rate), strict=True)
    ]
    found = ComparedFigure("load of this p50", "1/s", rate, find(0, p50))
    return [*rows, found, replace(found, name="load of this p99", simulated=find(1, p99))]


def _find_load(reach: Callable[[float], float], latency_ms: float, rate: float) -> float:
    """The load, from half of `rate` to twice as much, at which the simulation has this latency."""
    low, high = rate / 2, rate * 2
    for _ in range(LOAD_STEPS):
        middle = (low + high) / 2
        if reach(middle) < latency_ms:
            low = middle
        else:
            high = middle
    return (low + high) / 2
