"""Whether a run passes: right decisions, by comparing every answer with the plan, then errors, then
latency."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum

import numpy as np
from hdrh.histogram import HdrHistogram

from loadtest.errors import LoadTestRefused
from loadtest.exchange import NOT_STARTED, ModelClient
from loadtest.participants import (
    ALONE,
    MARGIN,
    LoadParticipants,
    Person,
    PhotographTemplate,
    fuse_both,
)
from loadtest.schedule import PAIRED, PLANTED, REPEATED, Kind, LoadPhase, Outcome, Traffic
from loadtest.service_calls import APPROVED, MISMATCH
from schema import frozen

ONE_NEW = "exactly one of both approved, the other stopped as a duplicate"
SAME_ANSWER = "the stored answer of the first"
REFUSED_PAYLOAD = f"422 {MISMATCH}"


class Correctness(StrEnum):
    """The result of comparing an answer with the plan."""

    RIGHT = "right"
    WRONG = "wrong"
    LOOK_ALIKE = "look-alike"
    """Not as planned, but what the service's own model says of the photographs: a false match of
    the model, and no error of the service."""
    UNANSWERED = "unanswered"
    """Refused, failed or too late: nothing was decided, which counts as an error."""


@frozen
class JudgedVisit:
    """An outcome, how it compares with the plan, and what was expected."""

    outcome: Outcome
    correctness: Correctness
    expected: str


def judge(outcomes: Iterable[Outcome]) -> list[JudgedVisit]:
    """Judges each outcome, in the order of plan numbers; requests that belong together as pairs."""
    by_number = {one.visit.number: one for one in outcomes}
    judged: dict[int, JudgedVisit] = {}
    for one in by_number.values():
        first = None if one.visit.partner is None else by_number.get(one.visit.partner)
        if first is not None and one.visit.kind in PAIRED:
            judge_both = _judge_race if one.visit.kind is Kind.RACE else _judge_repeat
            for each in judge_both(first, one):
                judged[each.outcome.visit.number] = each
        else:
            judged.setdefault(one.visit.number, _judge_alone(one))
    return [judged[number] for number in sorted(judged)]


def _judge_alone(one: Outcome) -> JudgedVisit:
    expected = one.visit.expected
    is_right = expected.fits(one.answer) if one.answer.is_good else None
    return _judge_as(one, expected.text, is_right)


def _judge_first(first: Outcome, second: Outcome) -> JudgedVisit:
    """The first of two with one key; if the second overtook it, a conflict is its right answer."""
    answer, expected = first.answer, first.visit.expected.text
    if not (answer.is_in_flight or answer.is_mismatch):
        return _judge_alone(first)
    is_overtaken = second.started_s < first.done_s and second.answer.status != NOT_STARTED
    is_other = second.visit.kind is Kind.CONFLICT
    return _judge_as(first, expected, is_overtaken and (answer.is_in_flight or is_other))


def _judge_race(first: Outcome, second: Outcome) -> Sequence[JudgedVisit]:
    both = (first, second)
    good = [one for one in both if one.answer.is_good]
    approved = [one for one in good if one.answer.decision == APPROVED]
    # A request without an answer may have been decided all the same.
    may_have_won = any(
        not one.answer.is_good and not one.answer.is_refusal and one.answer.status != NOT_STARTED
        for one in both
    )
    is_decided = len(approved) == 1 or (not approved and (may_have_won or not good))

    def is_right(one: Outcome) -> bool | None:
        if not one.answer.is_good:
            return None
        return is_decided and (one.answer.decision == APPROVED or one.answer.is_duplicate)

    return [_judge_as(one, ONE_NEW, is_right(one)) for one in both]


def _judge_repeat(first: Outcome, second: Outcome) -> Sequence[JudgedVisit]:
    """A retry, or the same key for another payload."""
    mine, other = second.answer, first.answer
    is_conflict = second.visit.kind is Kind.CONFLICT
    is_right: bool | None = None
    if mine.is_in_flight or mine.is_mismatch:
        # Until the first was acknowledged.
        is_open = first.done_s > second.started_s or not other.is_good
        is_right = (mine.is_in_flight and is_open) or (mine.is_mismatch and is_conflict)
    elif mine.is_good and not other.is_good:
        # A first that was never acknowledged, or was overtaken, may have left the key free.
        is_right = second.visit.expected.fits(mine)
    elif mine.is_good:
        # The later one may have arrived first if the generator was late.
        is_same = (mine.enrollment_id, mine.decision) == (other.enrollment_id, other.decision)
        is_right = is_same and (mine.is_repeated or other.is_repeated) and not is_conflict
    expected = REFUSED_PAYLOAD if is_conflict else SAME_ANSWER
    return _judge_first(first, second), _judge_as(second, expected, is_right)


def _judge_as(one: Outcome, expected: str, is_right: bool | None) -> JudgedVisit:
    """None: nothing was decided."""
    if is_right is None:
        return JudgedVisit(one, Correctness.UNANSWERED, expected)
    return JudgedVisit(one, Correctness.RIGHT if is_right else Correctness.WRONG, expected)


MOST_CHECKED = 50
"""Unplanned duplicates that are compared; more of them are no coincidence."""
UNPLANNED = frozenset({Kind.NEWCOMER, Kind.RETURNING, Kind.RACE, Kind.UNKNOWN})
"""Kinds that must find nobody else."""


def mark_look_alikes(
    judged: Sequence[JudgedVisit],
    participants: LoadParticipants,
    model: ModelClient,
    *,
    is_local: bool = False,
) -> list[JudgedVisit]:
    """The same outcomes with look-alikes marked.

    Two strangers may score the threshold: the calibration says how often. So an unplanned duplicate
    is compared with everybody whom this run has enrolled; if one of them scores what the answer
    says, it is a look-alike. Nobody who was in the gallery before can be compared: there an
    unplanned duplicate counts as a look-alike, but with `is_local`, whose synthetic references
    resemble nobody. A retry never does if its first request was answered, which it has to repeat.
    If the service does not answer, nothing is marked.
    """
    by_number = {one.outcome.visit.number: one for one in judged}
    candidates = [one for one in judged if _may_be_look_alike(one, by_number)]
    if not candidates or len(candidates) > MOST_CHECKED:
        return list(judged)
    people = {one.number: one for one in (*participants.list_enrolling(), *participants.outsiders)}
    enrolled = list(participants.list_enrolling())
    try:
        look_alikes = {
            one.outcome.visit.number
            for one in candidates
            if (participants.had_references and not is_local)
            or _has_look_alike(one, people, enrolled, model)
        }
    except LoadTestRefused:
        look_alikes = set()
    return [
        replace(one, correctness=Correctness.LOOK_ALIKE)
        if one.outcome.visit.number in look_alikes
        else one
        for one in judged
    ]


def _may_be_look_alike(one: JudgedVisit, by_number: Mapping[int, JudgedVisit]) -> bool:
    answer, visit = one.outcome.answer, one.outcome.visit
    says_duplicate = answer.is_duplicate or bool(answer.found)
    is_unplanned = visit.kind in UNPLANNED
    if visit.kind is Kind.RETRY and visit.partner is not None:
        first = by_number.get(visit.partner)
        is_unplanned = first is None or not first.outcome.answer.is_good
    return one.correctness is Correctness.WRONG and is_unplanned and says_duplicate


def _has_look_alike(
    one: JudgedVisit, people: dict[int, Person], enrolled: Sequence[Person], model: ModelClient
) -> bool:
    """Whether another enrolled person scores with this face what the answer says, or enough for
    one that shows no scores."""
    visit, answer = one.outcome.visit, one.outcome.answer
    if visit.person is None or visit.person not in people:
        return False
    others = [other for other in enrolled if other.number != visit.person]
    if (pair := visit.call.pair) is not None:
        scores = _score(pair.samples, pair.score, others, model)
    else:
        scores = _score([people[visit.person].first.live], ALONE, others, model)
    if answer.found:
        return any(abs(score - max(answer.found.values())) <= MARGIN for score in scores)
    least = answer.review
    return least is not None and any(score >= least - MARGIN for score in scores)


def _score(
    shown: Sequence[PhotographTemplate], within: float, others: Sequence[Person], model: ModelClient
) -> list[float]:
    """What the mean of the photographs, whose own cosine is `within`, scores with each of `others`;
    of one photograph it is `ALONE`."""
    asked = [
        (mine.template, theirs.template)
        for other in others
        for mine in shown
        for theirs in other.first.samples
    ]
    cosines, size = model.compare(asked), 2 * len(shown)
    return [
        fuse_both(sum(cosines[size * place : size * (place + 1)]), within, other.first.score)
        for place, other in enumerate(others)
    ]


@frozen
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
        late = [one.started_s - one.visit.due_s for one in self.outcomes]
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


@frozen(kw_only=True)
class Objective:
    """A run's objective; `kept_up` is the share of due visits that must be answered in time."""

    p99_ms: float = 1_000.0
    most_errors: float = 0.01
    kept_up: float = 0.0
    drift: float = 0.0
    """Largest ratio of the last quarter's p99 to the first quarter's, of a soak; 0: no limit."""


@frozen
class Criterion:
    """One criterion of a run, with what was measured."""

    name: str
    met: bool
    measured: str
    objective: str


@frozen
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
