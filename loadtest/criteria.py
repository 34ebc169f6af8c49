"""Measurements of a run, and whether it passes: right decisions, then errors, then latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from loadtest.judging import Correctness, JudgedVisit
from loadtest.schedule import PLANTED, REPEATED, Kind, LoadPhase, Outcome, Traffic
from loadtest.setup import EnrollmentTracker

OUTCOME = "outcome"
"""Key of an outcome in the context of Locust's request event."""


@dataclass(slots=True)
class OutcomeRecorder:
    """A listener of `events.request` that records outcomes and tracks enrollments."""

    enrolled: EnrollmentTracker
    outcomes: list[Outcome] = field(default_factory=list)

    def listen(self, context: Mapping[str, Any], **others: Any) -> None:
        del others
        outcome: Outcome = context[OUTCOME]
        self.outcomes.append(outcome)
        self.enrolled.finish(outcome.visit.call.idempotency_key, outcome.answer)


@dataclass(frozen=True, slots=True)
class LoadRun:
    """A run that is over.

    `seconds` is the length of its schedule, `elapsed_s` the time until the last answer;
    `generator_share` is the processor time of the load generator in cores; `omitted` counts planned
    visits that a closed loop never sent.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float
    elapsed_s: float
    generator_share: float
    omitted: int = 0


LONGEST_US = 3_600_000_000
DIGITS, DIGITS_OVER_TIME = 3, 2
"""Significant figures of a histogram: of a whole run, and of a slice."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
MOST_SLICES, LEAST_SLICES, LEAST_IN_SLICE = 120, 16, 40
SHORTEST_SLICE_S = 0.5


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """Milliseconds by percentile; empty if nothing was counted.

    `histogram` is in HdrHistogram's encoding (V2, microseconds), so that runs can be added up and
    compared later.
    """

    count: int
    by_percentile: dict[float, float]
    histogram: str = ""

    def at(self, percentile: float) -> float:
        """NaN if nothing was counted."""
        return self.by_percentile.get(percentile, float("nan"))


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a run: visits per second that were due in it (`offered`) and answered well in it
    (`achieved`), and the latencies of those that were due."""

    start_s: float
    width_s: float
    offered: float
    achieved: float
    refused: int
    failed: int
    latencies: LatencyFigures


def measure(outcomes: Iterable[Outcome], *, is_whole: bool = True) -> LatencyFigures:
    """Latencies of all but refusals, which are quick; failed and late answers count."""
    digits = DIGITS if is_whole else DIGITS_OVER_TIME
    histogram = HdrHistogram(1, LONGEST_US, digits)
    count = 0
    for one in outcomes:
        if not one.answer.is_refusal:
            count += 1
            histogram.record_value(min(max(1, round(one.latency_s * 1e6)), LONGEST_US - 1))
    if not count:
        return LatencyFigures(0, {})
    values = histogram.get_percentile_to_value_dict(list(PERCENTILES))
    encoded = histogram.encode().decode() if is_whole else ""
    return LatencyFigures(count, {share: value / 1e3 for share, value in values.items()}, encoded)


def measure_traffics(outcomes: Sequence[Outcome]) -> dict[Traffic, LatencyFigures]:
    """Latencies of each kind of traffic."""
    came = sorted({one.visit.traffic for one in outcomes}, key=list(Traffic).index)
    return {
        traffic: measure(one for one in outcomes if one.visit.traffic is traffic)
        for traffic in came
    }


def slice_run(run: LoadRun) -> tuple[Slice, ...]:
    """Cuts the run into slices of equal width, to the last answer."""
    width_s = choose_width(run.seconds, len(run.outcomes))
    count = max(1, int(np.ceil(max(run.elapsed_s, run.seconds) / width_s)))
    due: list[list[Outcome]] = [[] for _ in range(count)]
    answered = [0] * count
    for one in run.outcomes:
        due[min(int(one.visit.due_s / width_s), count - 1)].append(one)
        if not is_failed(one):
            answered[min(int(one.done_s / width_s), count - 1)] += 1
    return tuple(
        Slice(
            start_s=place * width_s,
            width_s=width_s,
            offered=len(mine) / width_s,
            achieved=answered[place] / width_s,
            refused=sum(one.answer.is_refusal for one in mine),
            failed=sum(is_failed(one) and not one.answer.is_refusal for one in mine),
            latencies=measure(mine, is_whole=False),
        )
        for place, mine in enumerate(due)
    )


def choose_width(seconds: float, visits: int) -> float:
    """A round number of seconds for a slice: enough visits in each for a percentile, but neither
    more slices than a chart can show nor too few."""
    for width_s in (SHORTEST_SLICE_S, 1, 2, 5, 10, 30, 60, 300, 600):
        is_few = seconds / width_s <= MOST_SLICES
        is_full = visits * width_s / seconds >= LEAST_IN_SLICE
        if is_few and (is_full or seconds / width_s <= LEAST_SLICES):
            return float(width_s)
    return 1800.0


def is_failed(outcome: Outcome) -> bool:
    """True where the answer is an error; a conflict is none for a repeated key."""
    answer, visit = outcome.answer, outcome.visit
    # The first of two may be overtaken by the second, and gets the conflict.
    is_repeat = visit.kind in REPEATED or visit.has_repeat
    return not answer.is_good and not (is_repeat and (answer.is_in_flight or answer.is_mismatch))


def measure_rates(run: LoadRun) -> tuple[float, float]:
    """Visits offered per second, and visits answered well before the schedule's end."""
    in_time = sum(not is_failed(one) and one.done_s <= run.seconds for one in run.outcomes)
    offered = len(run.outcomes) + run.omitted
    return offered / run.seconds, in_time / run.seconds


def count_from(run: LoadRun, start_s: float) -> tuple[int, int]:
    """Visits due after `start_s`, and visits answered well from then to the schedule's end.

    Both are alike if a service keeps up, however slow each answer is: those under way at the start
    are answered in place of those under way at the end.
    """
    due = sum(one.visit.due_s > start_s for one in run.outcomes)
    answered = sum(
        start_s < one.done_s <= run.seconds and not is_failed(one) for one in run.outcomes
    )
    return due, answered


def quantile(values: Iterable[float], share: float) -> float:
    """NaN of no values."""
    found = np.fromiter(values, np.float64)
    return float(np.quantile(found, share)) if len(found) else float("nan")


def count_failures(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Errors by status and code, most frequent first."""
    counted = Counter(one.answer.describe() for one in outcomes if is_failed(one))
    return dict(counted.most_common())


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
    is_met: bool
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
        return all(one.is_met for one in self.criteria)


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
    is_met = share <= objective.most_errors
    return Criterion(name, is_met, measured, f"≤ {objective.most_errors:.2%}")


def _decide_latency(outcomes: Sequence[Outcome], objective: Objective) -> list[Criterion]:
    criteria = []
    for traffic in Traffic:
        mine = [one for one in outcomes if one.visit.traffic is traffic]
        if mine:
            p99_ms = measure(mine).at(99.0)
            is_met = p99_ms <= objective.p99_ms
            name, bound = f"{traffic.value}: p99", f"≤ {objective.p99_ms:g} ms"
            criteria.append(Criterion(name, is_met, f"{write_ms(p99_ms, 0)} ms", bound))
    return criteria


def _decide_rate(run: LoadRun, objective: Objective) -> Criterion:
    """Whether work accumulates, counted from when the first answers can be expected: a service that
    takes a second for each is not a second behind."""
    start_s = min(objective.p99_ms / 1e3, SETTLED_SHARE * run.seconds)
    due, answered = count_from(run, start_s)
    is_met = due - answered <= max(MOST_BY_CHANCE, (1 - objective.kept_up) * due)
    measured = f"{answered} answered while {due} came"
    return Criterion("keeps up", is_met, measured, f"≥ {objective.kept_up:.0%}")


def _decide_drift(run: LoadRun, most: float) -> list[Criterion]:
    quarter = run.seconds / 4
    first = [one for one in run.outcomes if one.visit.due_s < quarter]
    last = [one for one in run.outcomes if one.visit.due_s >= 3 * quarter]
    if min(len(first), len(last)) < LEAST_FOR_DRIFT:
        return []
    times = measure(last).at(99.0) / measure(first).at(99.0)
    measured = f"{times:.2f} times the first quarter's"
    return [Criterion("p99 of the last quarter", times <= most, measured, f"≤ {most:g} times")]


def _warn(run: LoadRun, judged: Sequence[JudgedVisit]) -> tuple[str, ...]:
    warnings = []
    late_ms = quantile((one.lateness_s for one in run.outcomes), 0.99) * 1e3
    if late_ms > GENERATOR_LATE_MS:
        warnings.append(
            f"visits began {late_ms:.0f} ms late (p99): the generator or its bound of requests in "
            "flight was the limit too"
        )
    if run.omitted:
        warnings.append(
            f"closed loop: {run.omitted} of {run.omitted + len(run.outcomes)} visits were never "
            "sent, and have no latency"
        )
    alike = sum(one.correctness is Correctness.LOOK_ALIKE for one in judged)
    if alike:
        warnings.append(
            f"{alike} visits met a look-alike: the model's own false matches, not counted as wrong"
        )
    return tuple(warnings)
