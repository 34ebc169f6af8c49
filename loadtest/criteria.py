"""Measurements of a run, and whether it passes: right decisions, then errors, then latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from hdrh.histogram import HdrHistogram

from loadtest.judging import Correctness, JudgedVisit
from loadtest.schedule import PLANTED, REPEATED, Kind, LoadPhase, Outcome, Traffic


@dataclass(frozen=True, slots=True)
class LoadRun:
    """A run that is over.

    `seconds` is the length of its schedule; `generator_share` is the processor time of the load
    generator in cores; `page` is Locust's report of it.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    generator_share: float
    page: str = field(default="", repr=False)

    @property
    def late_ms(self) -> float:
        """The 99th percentile of the generator's own delay; NaN without visits."""
        late = [one.lateness_s for one in self.outcomes]
        return float(np.quantile(late, 0.99)) * 1e3 if late else float("nan")


LONGEST_US = 3_600_000_000
DIGITS = 3


def measure(outcomes: Iterable[Outcome]) -> HdrHistogram:
    """Latencies, in microseconds, of all but refusals, which are quick; failed and late answers
    count. Histograms can be added up and compared later."""
    histogram = HdrHistogram(1, LONGEST_US, DIGITS)
    for one in outcomes:
        if not one.answer.is_refusal:
            histogram.record_value(min(max(1, round(one.latency_s * 1e6)), LONGEST_US - 1))
    return histogram


def read_ms(latencies: HdrHistogram, percentile: float) -> float:
    """Milliseconds; NaN if nothing was counted."""
    if not latencies.get_total_count():
        return float("nan")
    return float(latencies.get_value_at_percentile(percentile)) / 1e3


def divide_by_traffic(outcomes: Iterable[Outcome]) -> dict[Traffic, list[Outcome]]:
    """The outcomes of each kind of traffic that came."""
    found: dict[Traffic, list[Outcome]] = {traffic: [] for traffic in Traffic}
    for one in outcomes:
        found[one.visit.traffic].append(one)
    return {traffic: mine for traffic, mine in found.items() if mine}


def is_failed(outcome: Outcome) -> bool:
    """True where the answer is an error; a conflict is none for a repeated key."""
    answer, visit = outcome.answer, outcome.visit
    # The first of two may be overtaken by the second, and gets the conflict.
    is_repeat = visit.kind in REPEATED or visit.has_repeat
    return not answer.is_good and not (is_repeat and (answer.is_in_flight or answer.is_mismatch))


def count_good(run: LoadRun, start_s: float = -np.inf) -> int:
    """Visits answered well after `start_s` and before the schedule's end."""
    return sum(start_s < one.done_s <= run.seconds and not is_failed(one) for one in run.outcomes)


def write_ms(value: float | None, places: int = 1) -> str:
    """Milliseconds as text; a hyphen if nothing was measured."""
    return "-" if value is None or np.isnan(value) else f"{value:.{places}f}"


GENERATOR_LATE_MS = 50.0
"""A generator that starts visits later does not offer the rate it claims. Latency includes that, so
it is only a warning."""
LEAST_FOR_DRIFT, LEAST_FOR_RATE = 100, 50
"""Fewer visits are not enough to judge it."""
SETTLED_SHARE = 0.25
"""Share of a run after which a service has as many requests under way as it will have."""
MOST_BY_CHANCE = 4
"""Visits that may be under way at the end, beyond those at the start, by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A run's objective; `kept_up` is the share of due visits that must be answered in time."""

    p99_ms: float = 1_000.0
    most_errors: float = 0.01
    kept_up: float = 0.0
    drift: float = 0.0
    """Largest ratio of the last quarter's p99 to the first quarter's, of a soak; 0: no limit."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion of a run, with what was measured."""

    name: str
    met: bool
    measured: str
    objective: str


@dataclass(frozen=True, slots=True)
class RunVerdict:
    """The criteria of a run; `warnings` do not fail it."""

    criteria: tuple[Criterion, ...]
    warnings: tuple[str, ...] = ()
    wrong: tuple[JudgedVisit, ...] = field(default=(), repr=False)

    @property
    def is_passed(self) -> bool:
        return all(one.met for one in self.criteria)


def decide(
    run: LoadRun, judged: Sequence[JudgedVisit], phases: Sequence[LoadPhase], objective: Objective
) -> RunVerdict:
    """Decides all criteria that apply to the run."""
    outside_spike = [one for one in run.outcomes if phases[one.visit.phase].is_judged]
    in_spike = [one for one in run.outcomes if not phases[one.visit.phase].is_judged]
    criteria = [
        _decide_wrong(judged),
        *_decide_planted(judged),
        _decide_errors("errors and refusals", outside_spike, objective),
    ]
    if in_spike:
        name = "errors in the spike, refusals apart"
        criteria.append(_decide_errors(name, in_spike, objective, may_refuse=True))
    criteria += _decide_latency(outside_spike, objective)
    if objective.kept_up and len(run.outcomes) >= LEAST_FOR_RATE:
        criteria.append(_decide_rate(run, objective))
    if objective.drift:
        criteria += _decide_drift(run, objective.drift)
    wrong = tuple(one for one in judged if one.correctness is Correctness.WRONG)
    return RunVerdict(tuple(criteria), _warn(run, judged), wrong)


def count_correctness(judged: Sequence[JudgedVisit]) -> dict[Kind, Counter[Correctness]]:
    """Counts right, wrong and other answers for each kind of visit."""
    counted: dict[Kind, Counter[Correctness]] = {}
    for one in judged:
        counted.setdefault(one.outcome.visit.kind, Counter())[one.correctness] += 1
    return {kind: counted[kind] for kind in Kind if kind in counted}


def _decide_wrong(judged: Sequence[JudgedVisit]) -> Criterion:
    wrong = sum(one.correctness is Correctness.WRONG for one in judged)
    answered = sum(one.correctness is not Correctness.UNANSWERED for one in judged)
    return Criterion("wrong decisions", not wrong, f"{wrong} of {answered} answers", "0")


def _decide_planted(judged: Sequence[JudgedVisit]) -> list[Criterion]:
    """Fails kinds that were planted and never decided: they have shown nothing."""
    return [
        Criterion(f"decided: {kind.value}", False, f"0 of {sum(counted.values())}", "1 or more")
        for kind, counted in count_correctness(judged).items()
        if kind in PLANTED and counted[Correctness.UNANSWERED] == sum(counted.values())
    ]


def _decide_errors(
    name: str, outcomes: Sequence[Outcome], objective: Objective, *, may_refuse: bool = False
) -> Criterion:
    """With `may_refuse`, as in a spike, a refusal with Retry-After is no error."""
    failed = sum(is_failed(one) and not (may_refuse and one.answer.is_refusal) for one in outcomes)
    share = failed / len(outcomes) if outcomes else 1.0
    measured = f"{share:.2%} ({failed} of {len(outcomes)})"
    met = share <= objective.most_errors
    return Criterion(name, met, measured, f"≤ {objective.most_errors:.2%}")


def _decide_latency(outcomes: Sequence[Outcome], objective: Objective) -> list[Criterion]:
    criteria = []
    for traffic, mine in divide_by_traffic(outcomes).items():
        p99_ms = read_ms(measure(mine), 99)
        name, bound = f"{traffic.value}: p99", f"≤ {objective.p99_ms:g} ms"
        met = p99_ms <= objective.p99_ms
        criteria.append(Criterion(name, met, f"{write_ms(p99_ms, 0)} ms", bound))
    return criteria


def _decide_rate(run: LoadRun, objective: Objective) -> Criterion:
    """Whether work accumulates, counted from when the first answers can be expected: a service that
    takes a second for each is not a second behind.

    Those under way at the start are answered in place of those under way at the end.
    """
    start_s = min(objective.p99_ms / 1e3, SETTLED_SHARE * run.seconds)
    due, answered = sum(one.visit.due_s > start_s for one in run.outcomes), count_good(run, start_s)
    met = due - answered <= max(MOST_BY_CHANCE, (1 - objective.kept_up) * due)
    measured = f"{answered} answered while {due} came"
    return Criterion("keeps up", met, measured, f"≥ {objective.kept_up:.0%}")


def _decide_drift(run: LoadRun, most: float) -> list[Criterion]:
    quarter = run.seconds / 4
    first = [one for one in run.outcomes if one.visit.due_s < quarter]
    last = [one for one in run.outcomes if one.visit.due_s >= 3 * quarter]
    if min(len(first), len(last)) < LEAST_FOR_DRIFT:
        return []
    times = read_ms(measure(last), 99) / read_ms(measure(first), 99)
    measured = f"{times:.2f} times the first quarter's"
    return [Criterion("p99 of the last quarter", times <= most, measured, f"≤ {most:g} times")]


def _warn(run: LoadRun, judged: Sequence[JudgedVisit]) -> tuple[str, ...]:
    warnings = []
    late_ms = run.late_ms
    if late_ms > GENERATOR_LATE_MS:
        warnings.append(
            f"visits began {late_ms:.0f} ms late (p99): the generator or its bound of requests in "
            "flight was the limit too"
        )
    alike = sum(one.correctness is Correctness.LOOK_ALIKE for one in judged)
    if alike:
        warnings.append(
            f"{alike} visits met a look-alike: the model's own false matches, not counted as wrong"
        )
    return tuple(warnings)
