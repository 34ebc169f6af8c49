"""Whether a run passes: right decisions first, then errors, then latency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from loadtest.arrivals import Stretch
from loadtest.figures import count_from, is_failed, measure, quantile, write_ms
from loadtest.judging import Judged, Ruling
from loadtest.mix import PLANTED, Kind, Traffic
from loadtest.tally import Run
from loadtest.visits import Outcome

GENERATOR_LATE_MS = 50.0
"""A generator that starts visits later than this does not offer what it says. Latency counts it all
the same, so it is a warning, and never a reason to pass."""
LEAST_FOR_DRIFT, LEAST_FOR_RATE = 100, 50
"""Fewer visits say nothing about it."""
SETTLED_SHARE = 0.25
"""Of a run: by then at the latest a service has as many on their way as it will have."""
MOST_BY_CHANCE = 4
"""Visits that may be on their way at the end, beyond those at the start, of any service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a run must hold; `kept_up`: the share of what comes that is answered meanwhile."""

    p99_ms: float = 1_000.0
    most_errors: float = 0.01
    kept_up: float = 0.0
    drift: float = 0.0
    """Of a soak: how many times the first quarter's p99 the last quarter's may be; 0: any."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that a run must hold."""

    name: str
    is_met: bool
    measured: str
    objective: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A run's criteria; `warnings` do not fail it."""

    criteria: tuple[Criterion, ...]
    warnings: tuple[str, ...] = ()
    wrong: tuple[Judged, ...] = field(default=(), repr=False)

    @property
    def is_passed(self) -> bool:
        return all(one.is_met for one in self.criteria)

    @property
    def failures(self) -> tuple[Criterion, ...]:
        return tuple(one for one in self.criteria if not one.is_met)


def decide(
    run: Run, judged: Sequence[Judged], stretches: Sequence[Stretch], objective: Objective
) -> Verdict:
    """All criteria that apply to the run."""
    quiet = [one for one in run.outcomes if stretches[one.visit.stretch].is_judged]
    stormy = [one for one in run.outcomes if not stretches[one.visit.stretch].is_judged]
    criteria = [
        _decide_wrong(judged),
        *_decide_planted(judged),
        _decide_errors(quiet, objective),
        *_decide_storm(stormy, objective),
        *_decide_latency(quiet, objective),
    ]
    if objective.kept_up and len(run.outcomes) >= LEAST_FOR_RATE:
        criteria.append(_decide_rate(run, objective))
    if objective.drift:
        criteria += _decide_drift(run, objective.drift)
    wrong = tuple(one for one in judged if one.ruling is Ruling.WRONG)
    return Verdict(tuple(criteria), _warn(run, judged), wrong)


def count_rulings(judged: Sequence[Judged]) -> dict[Kind, Counter[Ruling]]:
    """How many visits of each kind were ruled what."""
    counted: dict[Kind, Counter[Ruling]] = {}
    for one in judged:
        counted.setdefault(one.outcome.visit.kind, Counter())[one.ruling] += 1
    return {kind: counted[kind] for kind in Kind if kind in counted}


def _decide_wrong(judged: Sequence[Judged]) -> Criterion:
    wrong = sum(one.ruling is Ruling.WRONG for one in judged)
    answered = sum(one.ruling is not Ruling.UNANSWERED for one in judged)
    return Criterion("wrong decisions", not wrong, f"{wrong} of {answered} answers", "0")


def _decide_planted(judged: Sequence[Judged]) -> list[Criterion]:
    """What was planted and never decided has shown nothing."""
    return [
        Criterion(f"decided: {kind.value}", False, f"0 of {sum(counted.values())}", "1 or more")
        for kind, counted in count_rulings(judged).items()
        if kind in PLANTED and counted[Ruling.UNANSWERED] == sum(counted.values())
    ]


def _decide_errors(outcomes: Sequence[Outcome], objective: Objective) -> Criterion:
    failed = sum(map(is_failed, outcomes))
    share = failed / len(outcomes) if outcomes else 1.0
    measured = f"{share:.2%} ({failed} of {len(outcomes)})"
    is_met = share <= objective.most_errors
    return Criterion("errors and refusals", is_met, measured, f"≤ {objective.most_errors:.2%}")


def _decide_storm(outcomes: Sequence[Outcome], objective: Objective) -> list[Criterion]:
    """In a spike a service may refuse, and say when to come again; nothing else."""
    if not outcomes:
        return []
    bad = sum(is_failed(one) and not one.answer.is_refusal for one in outcomes)
    share = bad / len(outcomes)
    measured = f"{share:.2%} ({bad} of {len(outcomes)})"
    is_met, bound = share <= objective.most_errors, f"≤ {objective.most_errors:.2%}"
    return [Criterion("errors in the spike, refusals apart", is_met, measured, bound)]


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


def _decide_rate(run: Run, objective: Objective) -> Criterion:
    """Whether work gathers; from when the first answers may have come, so that their time alone is
    no fault: a second for each is not a second's work undone."""
    start_s = min(objective.p99_ms / 1e3, SETTLED_SHARE * run.seconds)
    due, answered = count_from(run, start_s)
    is_met = due - answered <= max(MOST_BY_CHANCE, (1 - objective.kept_up) * due)
    measured = f"{answered} answered while {due} came"
    return Criterion("keeps up", is_met, measured, f"≥ {objective.kept_up:.0%}")


def _decide_drift(run: Run, most: float) -> list[Criterion]:
    quarter = run.seconds / 4
    first = [one for one in run.outcomes if one.visit.due_s < quarter]
    last = [one for one in run.outcomes if one.visit.due_s >= 3 * quarter]
    if min(len(first), len(last)) < LEAST_FOR_DRIFT:
        return []
    times = measure(last).at(99.0) / measure(first).at(99.0)
    measured = f"{times:.2f} times the first quarter's"
    return [Criterion("p99 of the last quarter", times <= most, measured, f"≤ {most:g} times")]


def _warn(run: Run, judged: Sequence[Judged]) -> tuple[str, ...]:
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
            "sent, and no latency tells of them"
        )
    alike = sum(one.ruling is Ruling.LOOK_ALIKE for one in judged)
    if alike:
        warnings.append(
            f"{alike} visits met a look-alike: the model's own false matches, not counted as wrong"
        )
    return tuple(warnings)
