"""What decisions teach: how often people found fraud, and which threshold they speak for.

All pairs of a case have its outcome, so an interval counts Kish's effective number of cases and not
their pairs (Kish 1965): a ring of twenty documents is one decision, and not 190.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from engine.accuracy.pair_scores import wilson_interval
from engine.matching.calibration import Rate
from engine.registry.queues import CaseFilter
from engine.registry.store import Reader
from engine.registry.sweeps import JudgedPair
from schema.cases import CaseState, Ground, Outcome
from schema.sweeps import Outcomes

WANTED = 0.8
"""Of the pairs at the proposed threshold so many should be one person."""
LEAST_CASES = 20
"""So many decided cases, by Kish's number, a proposal takes."""
STEPS = 100
"""Thresholds that a proposal chooses among, from score 0 to 1."""


@dataclass(frozen=True, slots=True)
class MeasuredPrecision:
    """Share of the `judged` pairs at or above `threshold` (None: of all) that were fraud.

    `cases` decided them, which count as `effective` ones.
    """

    judged: int
    confirmed: int
    threshold: float | None = None
    cases: int = 0
    effective: float = 0.0

    @property
    def rate(self) -> Rate | None:
        """Share of confirmed pairs, with a 95 % interval; None where nothing was judged."""
        if not self.judged:
            return None
        share = self.confirmed / self.judged
        low, high = wilson_interval(share * self.effective, self.effective)
        return Rate(share, min(low, share), max(high, share))


def read_plain(registry: Reader) -> list[JudgedPair]:
    """The pairs that people judged, without those of sweeps with a budget: they were chosen by more
    than their score, so they say nothing of a threshold."""
    pairs = registry.judged_pairs()
    named = {pair.sweep_id for pair in pairs if pair.sweep_id is not None}
    chosen = {one for one in named if registry.sweeps.get(one).terms.budget is not None}
    return [pair for pair in pairs if pair.sweep_id not in chosen]


def measure_precision(
    pairs: Sequence[JudgedPair], threshold: float | None = None, sweep_id: str | None = None
) -> MeasuredPrecision:
    """Precision of the pairs that one sweep, or any, had found; twins and mistakes are wrong."""
    [found] = measure_at(pairs, [-math.inf if threshold is None else threshold], sweep_id)
    return MeasuredPrecision(found.judged, found.confirmed, threshold, found.cases, found.effective)


def measure_at(
    pairs: Sequence[JudgedPair], thresholds: Sequence[float], sweep_id: str | None = None
) -> list[MeasuredPrecision]:
    """The same at each of these thresholds, in their order."""
    found = [
        pair for pair in pairs if pair.sweep_id is not None and sweep_id in (None, pair.sweep_id)
    ]
    found.sort(key=lambda pair: -pair.score)
    measured: dict[float, MeasuredPrecision] = {}
    of_case: Counter[str] = Counter()
    place = confirmed = squares = 0
    for threshold in sorted(set(thresholds), reverse=True):
        while place < len(found) and found[place].score >= threshold:
            pair = found[place]
            # (m + 1)^2 - m^2
            squares += 2 * of_case[pair.case_id] + 1
            of_case[pair.case_id] += 1
            confirmed += pair.outcome is Outcome.FRAUD
            place += 1
        effective = place**2 / squares if squares else 0.0
        measured[threshold] = MeasuredPrecision(
            place, confirmed, threshold, len(of_case), effective
        )
    return [measured[one] for one in thresholds]


@dataclass(frozen=True, slots=True)
class ThresholdProposal:
    """The lowest threshold, at a hundredth, of which the lower end of the precision's interval is
    at least `wanted`; None for `ground`. `measured` is at it, else of all pairs."""

    threshold: float | None
    wanted: float
    ground: Ground
    measured: MeasuredPrecision


def propose_threshold(pairs: Sequence[JudgedPair], wanted: float = WANTED) -> ThresholdProposal:
    """The threshold that the decisions on the pairs of all sweeps support; none below the lowest
    score that was decided."""
    whole = measure_precision(pairs)
    scores = [pair.score for pair in pairs if pair.sweep_id is not None]
    if whole.effective < LEAST_CASES:
        return ThresholdProposal(None, wanted, Ground.TOO_FEW, whole)
    first, last = math.ceil(min(scores) * STEPS), math.floor(max(scores) * STEPS)
    for found in measure_at(pairs, [step / STEPS for step in range(first, last + 1)]):
        if found.effective < LEAST_CASES:
            break
        if found.rate is not None and found.rate.low >= wanted:
            return ThresholdProposal(found.threshold, wanted, Ground.ENOUGH, found)
    return ThresholdProposal(None, wanted, Ground.NEVER, whole)


def measure_fraud(found: Outcomes) -> Rate:
    """The share of fraud among them, with its 95 % interval (Wilson 1927)."""
    low, high = wilson_interval(found.fraud, found.cases)
    return Rate(found.fraud / found.cases, low, high)


@dataclass(frozen=True, slots=True)
class ClosedCase:
    """The countable part of a closed case, which no longer changes."""

    kind: str
    outcome: Outcome | None
    closed_at: datetime | None
    sweep_id: str | None


@dataclass(frozen=True, slots=True)
class Decisions:
    """All pairs that people judged, those that support a threshold, and the outcomes of cases."""

    pairs: list[JudgedPair]
    plain: list[JudgedPair]
    closed: list[ClosedCase]


class DecisionReader:
    """Reads every decision, and again only once more cases are closed: what people judge changes
    with a closing alone. May be shared by threads."""

    def __init__(self, registry: Reader) -> None:
        self._registry = registry
        self._known: tuple[int, Decisions] | None = None

    def read(self) -> Decisions:
        """The decisions as of this moment."""
        # Counted first: what is closed meanwhile is in it, and read again at the next call.
        count, known = self._registry.cases.count_closed(), self._known
        if known is not None and known[0] == count:
            return known[1]
        found = Decisions(
            self._registry.judged_pairs(),
            read_plain(self._registry),
            [
                ClosedCase(one.kind, one.outcome, one.closed_at, one.sweep_id)
                for one in self._registry.cases.whole_queue(CaseFilter(state=CaseState.CLOSED))
            ],
        )
        self._known = count, found
        return found


def count_by_kind(closed: Iterable[ClosedCase]) -> list[Outcomes]:
    """By kind, the kind with most cases first."""
    return sorted(_count(closed, lambda one: one.kind), key=lambda one: (-one.cases, one.name))


def count_by_month(closed: Iterable[ClosedCase]) -> list[Outcomes]:
    """By the month in which they were closed (UTC, as 2026-11), the newest first."""
    return sorted(_count(closed, _month_of), key=lambda one: one.name, reverse=True)


def _month_of(case: ClosedCase) -> str:
    assert case.closed_at is not None, "it is closed"
    return case.closed_at.astimezone(UTC).strftime("%Y-%m")


def _count(closed: Iterable[ClosedCase], name_of: Callable[[ClosedCase], str]) -> list[Outcomes]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for case in closed:
        if case.outcome is not None:
            found[name_of(case)][case.outcome.value] += 1
    return [
        Outcomes(name, counts.total(), *(counts[one.value] for one in Outcome))
        for name, counts in found.items()
    ]
