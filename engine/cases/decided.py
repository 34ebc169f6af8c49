"""Pairs of documents that people have decided, the cases that a sweep opens about the others, and
what decisions teach: how often people found fraud, and which threshold they speak for.

Nobody is asked about a decided pair a second time. Only other evidence makes it a question again: a
reference that is newer than the decision and more alike by `MORE_ALIKE` than what was decided on. A
renewal that scores as before changes nothing.

All pairs of a case have its outcome, so an interval counts Kish's effective number of cases and not
their pairs (Kish 1965): a ring of twenty documents is one decision, and not 190.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import combinations
from typing import Literal, NamedTuple

from engine.accuracy.pair_scores import wilson_interval
from engine.cases.opening import CaseBatch, NewCase
from engine.matching.calibration import Rate
from engine.matching.comparison import score_best
from engine.matching.registrar import Runner
from engine.registry.queues import CaseFilter
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS, JudgedPair
from engine.registry.writer import Writer
from engine.sweeps.groups import find_weakest
from schema import frozen
from schema.cases import CaseKind, CaseOrigin, CaseState, Ground, Outcome
from schema.sweeps import Group, GroupKind, Link, Outcomes

MORE_ALIKE = 0.05
"""A score that lies so far above the one that people decided on is other evidence."""

Pair = tuple[str, str]
"""Two documents, the lower id first."""


@frozen
class Decided:
    """Decisions of people: `standing` outcomes, and the pairs whose evidence has `changed`."""

    standing: Mapping[Pair, Outcome]
    changed: frozenset[Pair]

    @property
    def exceptions(self) -> set[Pair]:
        """The pairs that stand as twins or a mistake."""
        return {pair for pair, outcome in self.standing.items() if outcome in EXCEPTIONS}

    def undecided(self, links: Iterable[Link]) -> list[Link]:
        """The links that are still a question."""
        return [link for link in links if pair_of(link) not in self.standing]


def pair_of(link: Link) -> Pair:
    return min(link.left, link.right), max(link.left, link.right)


def read_decided(registry: Reader, document_ids: Sequence[str] | None = None) -> Decided:
    """Reads the decisions of people, all or between these documents, against the present
    references."""
    found = (
        registry.judged_pairs() if document_ids is None else registry.judged_between(document_ids)
    )
    judged = {(one.left_document, one.right_document): one for one in found}
    changed = _find_changed(registry, judged)
    standing = {pair: one.outcome for pair, one in judged.items() if pair not in changed}
    # One document took the other's place, for one face: nobody is asked about that either.
    return Decided(
        dict.fromkeys(_find_replaced(registry, document_ids), Outcome.MISTAKE) | standing, changed
    )


def _find_replaced(registry: Reader, document_ids: Sequence[str] | None) -> list[Pair]:
    """The pairs of documents that are one person's because one replaced another."""
    if document_ids is None:
        document_ids = sorted({one.document_id for one in registry.people.replacements()})

    def read_kin(some: Sequence[str]) -> dict[str, frozenset[str]]:
        known = registry.people.standing(some)
        return {one: known.kin(one) for one in known.replaced}

    groups = set(read_apart(document_ids, read_kin).values())
    return [pair for group in groups for pair in combinations(sorted(group), 2)]


def _find_changed(registry: Reader, judged: Mapping[Pair, JudgedPair]) -> frozenset[Pair]:
    noted = {pair: one.sequence for pair, one in judged.items() if one.sequence is not None}
    newest = registry.newest_references(sorted({key for pair in noted for key in pair}))
    newer = [
        pair
        for pair, sequence in noted.items()
        if any(newest.get(key, 0) > sequence for key in pair)
    ]
    sides = sorted({key for pair in newer for key in pair})
    templates = read_apart(sides, registry.templates_of)
    changed = []
    for left, right in newer:
        rows, others = templates.get(left), templates.get(right)
        if rows is None or others is None:
            continue
        scores = [score for row in rows if (score := score_best(row, others)) is not None]
        if scores and is_more_alike(max(scores), judged[left, right]):
            changed.append((left, right))
    return frozenset(changed)


def is_more_alike(score: float, pair: JudgedPair, attempt_of: str | None = None) -> bool:
    """True where a score exceeds that which people decided on: of references, or of an attempt by
    the holder of one of the two documents.

    A photograph of the day that they decided on says nothing of what a reference may be.
    """
    sides = {pair.left_document: pair.left_attempt_score}
    sides[pair.right_document] = pair.right_attempt_score
    of_attempt = None if attempt_of is None else sides[attempt_of]
    decided_on = pair.score if of_attempt is None else max(pair.score, of_attempt)
    return score >= decided_on + MORE_ALIKE


GROUPS_PER_TRANSACTION = 100
"""Bounds how long decisions wait for such a transaction."""


def open_sweep_cases(
    registrar: Runner, registry: Reader, sweep_id: str, groups: Sequence[Group], actor: str
) -> dict[str, str]:
    """Open a case for each group, or merge it into an open one; returns case ids by group key.

    A group with a closed case keeps that case. A pair that people have decided is in no case
    again, unless its evidence has changed: a group of such links alone gets none, and a document
    that has no other link is in none. Called again for the same sweep, as after a crash, it adds
    nothing twice.
    """
    decided = read_decided(registry)
    known = registry.cases.of_groups([group.key for group in groups])
    reopened = {
        group.key for group in groups if decided.changed.intersection(map(pair_of, group.links))
    }
    cases = {
        key: case.id
        for key, case in known.items()
        if case.state is CaseState.CLOSED and key not in reopened
    }
    asked = (_without_decided(group, decided) for group in groups if group.key not in cases)
    fresh = [group for group in asked if group is not None]
    for start in range(0, len(fresh), GROUPS_PER_TRANSACTION):
        part = fresh[start : start + GROUPS_PER_TRANSACTION]

        def perform(writer: Writer, now: datetime, part: Sequence[Group] = part) -> dict[str, str]:
            batch = CaseBatch(registry, now, known_groups=known.keys())
            batch.look_up(one.document_id for group in part for one in group.identities)
            opened = {group.key: batch.open(_new_case(group, sweep_id), actor) for group in part}
            if writes := batch.writes():
                writer.commit(writes)
            return {key: case.id for key, case in opened.items()}

        cases |= registrar.run(perform)
    return _follow(registry, cases)


def _follow(registry: Reader, cases: dict[str, str]) -> dict[str, str]:
    """Replace merged cases: a later group may have joined those of earlier ones."""
    found = registry.cases.by_id(list(cases.values()))
    return {key: found[case_id].merged_into or case_id for key, case_id in cases.items()}


def _new_case(group: Group, sweep_id: str) -> NewCase:
    documents = [one.document_id for one in group.identities]
    return NewCase(
        kind=CaseKind(group.kind.value),
        origin=CaseOrigin.SWEEP,
        document_ids=documents,
        # In groups of other kinds the references may belong to victims.
        suspect_ids=documents if group.kind is GroupKind.ONE_FACE else (),
        line_ids=[line.line_id for one in group.identities for line in one.lines],
        score=max((link.score for link in group.links), default=None),
        weakest=None if group.weakest is None else group.weakest.score,
        risk=group.risk,
        sweep_id=sweep_id,
        group_key=group.key,
    )


def _without_decided(group: Group, decided: Decided) -> Group | None:
    """The group with what is still a question in it; None where nothing is."""
    links = decided.undecided(group.links)
    if len(links) == len(group.links):
        return group
    if not links:
        return None
    linked = {end for link in links for end in (link.left, link.right)}
    members = tuple(one for one in group.identities if one.document_id in linked)
    return replace(group, identities=members, links=tuple(links), weakest=find_weakest(links))


WANTED = 0.8
"""Of the pairs at the proposed threshold so many should be one person."""
LEAST_CASES = 20
"""So many decided cases, by Kish's number, a proposal takes."""
STEPS = 100
"""Thresholds that a proposal chooses among, from score 0 to 1."""


@frozen
class MeasuredPrecision:
    """Share of the `judged` pairs at or above `threshold` that were fraud.

    `cases` decided them, which count as `effective` ones.
    """

    judged: int
    confirmed: int
    threshold: float = -math.inf
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
    pairs: Sequence[JudgedPair], sweep_id: str | None = None
) -> MeasuredPrecision:
    """Precision of the pairs that one sweep, or any, had found; twins and mistakes are wrong."""
    return measure_at(pairs, [-math.inf], sweep_id)[0]


def measure_at(
    pairs: Sequence[JudgedPair], thresholds: Sequence[float], sweep_id: str | None = None
) -> list[MeasuredPrecision]:
    """The same of those at or above each of these thresholds, in their order."""
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


@frozen
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


class ClosedCase(NamedTuple):
    """The countable part of a closed case; its month (UTC) as 2026-11."""

    kind: str
    month: str
    sweep_id: str | None
    outcome: Outcome


@frozen
class Decisions:
    """All pairs that people judged, those that support a threshold, and the outcomes of cases."""

    pairs: list[JudgedPair]
    plain: list[JudgedPair]
    closed: Counter[ClosedCase]


class DecisionReader:
    """Reads every decision, and again only once other cases are closed: what people judge changes
    with a closing, and its end, alone. May be shared by threads."""

    def __init__(self, registry: Reader) -> None:
        self._registry = registry
        self._known: tuple[object, Decisions] | None = None

    def read(self) -> Decisions:
        """The decisions as of this moment."""
        # First: what is closed meanwhile is in it, and read again at the next call.
        closings, known = self._registry.cases.closings(), self._known
        if known is not None and known[0] == closings:
            return known[1]
        found = Decisions(
            self._registry.judged_pairs(),
            read_plain(self._registry),
            Counter(
                ClosedCase(one.kind, f"{one.closed_at:%Y-%m}", one.sweep_id, one.outcome)
                for one in self._registry.cases.whole_queue(CaseFilter(state=CaseState.CLOSED))
                if one.closed_at is not None and one.outcome is not None
            ),
        )
        self._known = closings, found
        return found


def count_by(
    name: Literal["kind", "month"], closed: Mapping[ClosedCase, int], sweep_id: str | None = None
) -> list[Outcomes]:
    """Closed cases of one sweep, or of all: by kind, the kind with most cases first, or by month,
    the newest first."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for one, count in closed.items():
        if sweep_id in (None, one.sweep_id):
            found[getattr(one, name)][one.outcome.value] += count
    counted = [
        Outcomes(key, counts.total(), *(counts[one.value] for one in Outcome))
        for key, counts in sorted(found.items(), reverse=name == "month")
    ]
    return sorted(counted, key=lambda one: -one.cases) if name == "kind" else counted
