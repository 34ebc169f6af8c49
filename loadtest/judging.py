"""Compares every answer with the plan, and tells look-alikes from wrong decisions.

Two strangers may score the threshold: the calibration says how often. An unplanned duplicate is
therefore compared, one to one, with everybody whom this run has enrolled; if one of them scores
what the answer says, the decision is what the model says of the photographs (a look-alike). People
who were in the gallery before cannot be compared: in a gallery that is not the test's own, an
unplanned duplicate counts as a look-alike. A retry never does if its first request was answered: it
has to repeat that answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from loadtest.errors import LoadTestRefused
from loadtest.exchange import NOT_STARTED
from loadtest.participants import (
    ALONE,
    MARGIN,
    LoadParticipants,
    ModelClient,
    Person,
    PhotographTemplate,
    fuse_both,
)
from loadtest.schedule import PAIRED, Kind, Outcome
from loadtest.service_calls import APPROVED, MISMATCH, Enroll

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


@dataclass(frozen=True, slots=True)
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

    With `is_local` the references from before are synthetic and resemble nobody. If the service
    does not answer, nothing is marked.
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
    if isinstance(visit.call, Enroll):
        pair = visit.call.pair
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
