"""Holds every answer against the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from loadtest.errors import LoadTestRefused
from loadtest.exchange import NOT_STARTED
from loadtest.oracle import APPROVED, MISMATCH
from loadtest.people import MARGIN, Cast, Pair, Person, Survey, fuse_both, fuse_single
from loadtest.schedule import PAIRED, Kind, Outcome
from loadtest.service_calls import Enroll

ONE_NEW = "exactly one of both approved, the other stopped as a duplicate"
SAME_ANSWER = "the stored answer of the first"
REFUSED_PAYLOAD = f"422 {MISMATCH}"


class Ruling(StrEnum):
    """What an answer is held to be."""

    RIGHT = "right"
    WRONG = "wrong"
    LOOK_ALIKE = "look-alike"
    """Not as planned, and yet what the service's own model says of the photographs: a false match
    of the model, not of the service."""
    UNANSWERED = "unanswered"
    """Refused, failed or too late: nothing was decided, and it counts as an error."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An outcome with its ruling, and what was expected instead where it is wrong."""

    outcome: Outcome
    ruling: Ruling
    expected: str


def judge(outcomes: Iterable[Outcome]) -> list[Judged]:
    """One ruling for each outcome, by plan number; those that belong together are judged so."""
    by_number = {one.visit.number: one for one in outcomes}
    judged: dict[int, Judged] = {}
    for one in by_number.values():
        first = None if one.visit.partner is None else by_number.get(one.visit.partner)
        if first is not None and one.visit.kind in PAIRED:
            for ruling in _judge_both(first, one):
                judged[ruling.outcome.visit.number] = ruling
        else:
            judged.setdefault(one.visit.number, _judge_alone(one))
    return [judged[number] for number in sorted(judged)]


def _judge_alone(one: Outcome) -> Judged:
    expected = one.visit.expected
    if not one.answer.is_good:
        return Judged(one, Ruling.UNANSWERED, expected.text)
    return _rule(one, expected.text, is_right=expected.fits(one.answer))


def _judge_first(first: Outcome, second: Outcome) -> Judged:
    """One that the second has overtaken is told so, as the second usually is."""
    answer, expected = first.answer, first.visit.expected.text
    if not (answer.is_in_flight or answer.is_mismatch):
        return _judge_alone(first)
    is_overtaken = second.started_s < first.done_s and second.answer.status != NOT_STARTED
    is_other = second.visit.kind is Kind.CONFLICT
    return _rule(first, expected, is_right=is_overtaken and (answer.is_in_flight or is_other))


def _judge_both(first: Outcome, second: Outcome) -> Sequence[Judged]:
    if second.visit.kind is Kind.RACE:
        return _judge_race(first, second)
    if second.visit.kind is Kind.RETRY:
        return _judge_retry(first, second)
    return _judge_conflict(first, second)


def _judge_race(first: Outcome, second: Outcome) -> Sequence[Judged]:
    both = (first, second)
    good = [one for one in both if one.answer.is_good]
    approved = [one for one in good if one.answer.decision == APPROVED]
    # Whoever got no answer may have been decided all the same.
    may_have_won = any(
        not one.answer.is_good and not one.answer.is_refusal and one.answer.status != NOT_STARTED
        for one in both
    )
    is_decided = len(approved) == 1 or (not approved and (may_have_won or not good))
    judged = []
    for one in both:
        if not one.answer.is_good:
            judged.append(Judged(one, Ruling.UNANSWERED, ONE_NEW))
            continue
        is_stopped = one.answer.is_duplicate and one.answer.decision != APPROVED
        is_right = is_decided and (one in approved or is_stopped)
        judged.append(_rule(one, ONE_NEW, is_right=is_right))
    return judged


def _judge_retry(first: Outcome, second: Outcome) -> Sequence[Judged]:
    alone = _judge_first(first, second)
    mine, other = second.answer, first.answer
    if mine.is_in_flight or mine.is_mismatch:
        return alone, _rule(second, SAME_ANSWER, is_right=_may_be_in_flight(first, second))
    if not mine.is_good:
        return alone, Judged(second, Ruling.UNANSWERED, SAME_ANSWER)
    if not other.is_good:
        return alone, _rule(second, SAME_ANSWER, is_right=second.visit.expected.fits(mine))
    # The later one may have come first, where the generator was late.
    is_same = (mine.enrollment_id, mine.decision) == (other.enrollment_id, other.decision)
    is_right = is_same and (mine.is_repeated or other.is_repeated)
    return alone, _rule(second, SAME_ANSWER, is_right=is_right)


def _judge_conflict(first: Outcome, second: Outcome) -> Sequence[Judged]:
    alone = _judge_first(first, second)
    mine = second.answer
    if mine.is_in_flight or mine.is_mismatch:
        is_right = mine.is_mismatch or _may_be_in_flight(first, second)
        return alone, _rule(second, REFUSED_PAYLOAD, is_right=is_right)
    if not mine.is_good:
        return alone, Judged(second, Ruling.UNANSWERED, REFUSED_PAYLOAD)
    # A first that was never acknowledged, or was overtaken, may have left the key free.
    is_right = not first.answer.is_good and second.visit.expected.fits(mine)
    return alone, _rule(second, REFUSED_PAYLOAD, is_right=is_right)


def _may_be_in_flight(first: Outcome, second: Outcome) -> bool:
    """The service says so, and had indeed not acknowledged the first when it was asked."""
    is_open = first.done_s > second.started_s or not first.answer.is_good
    return second.answer.is_in_flight and is_open


def _rule(one: Outcome, expected: str, *, is_right: bool) -> Judged:
    return Judged(one, Ruling.RIGHT if is_right else Ruling.WRONG, expected)


# Tells a false match of the model from a wrong decision of the service.
#
# Two strangers may score the threshold: the calibration says how often. Who was taken for
# another is compared, one to one, with everybody whom this run has enrolled; where somebody
# scores what the answer says, the decision is what the model says of the photographs. Whoever
# was in a gallery that is not the test's own cannot be asked for: there an unplanned duplicate
# is taken for a look-alike. A retry is none, where its first was answered: it has to say what
# that said, whoever it resembles.

MOST_SUSPECTS = 50
"""That are looked into; more of them are no accident."""
UNPLANNED = frozenset({Kind.NEWCOMER, Kind.RETURNING, Kind.RACE, Kind.UNKNOWN})
"""Kinds of which nobody else was to be found."""


def excuse(
    judged: Sequence[Judged], cast: Cast, survey: Survey, *, is_own: bool = False
) -> list[Judged]:
    """The rulings, with look-alikes told apart; whom a service of the test's `own` held before are
    synthetic references, which resemble nobody. A service that cannot be asked excuses nobody."""
    by_number = {one.outcome.visit.number: one for one in judged}
    suspects = [one for one in judged if _is_suspect(one, by_number)]
    if not suspects or len(suspects) > MOST_SUSPECTS:
        return list(judged)
    people = {one.number: one for one in (*cast.list_people(), *cast.outsiders)}
    enrolled = list(cast.list_people())
    try:
        excused = {
            one.outcome.visit.number
            for one in suspects
            if (cast.had_references and not is_own) or _has_double(one, people, enrolled, survey)
        }
    except LoadTestRefused:
        excused = set()
    return [
        replace(one, ruling=Ruling.LOOK_ALIKE) if one.outcome.visit.number in excused else one
        for one in judged
    ]


def _is_suspect(one: Judged, by_number: Mapping[int, Judged]) -> bool:
    answer, visit = one.outcome.answer, one.outcome.visit
    says_double = answer.is_duplicate or bool(answer.found)
    is_unplanned = visit.kind in UNPLANNED
    if visit.kind is Kind.RETRY and visit.partner is not None:
        first = by_number.get(visit.partner)
        is_unplanned = first is None or not first.outcome.answer.is_good
    return one.ruling is Ruling.WRONG and is_unplanned and says_double


def _has_double(
    one: Judged, people: dict[int, Person], enrolled: Sequence[Person], survey: Survey
) -> bool:
    """Whether somebody else who enrolled scores with this face what the answer says."""
    visit, answer = one.outcome.visit, one.outcome.answer
    told = max(answer.found.values(), default=0.0) if answer.found else answer.best_score
    if told is None or visit.person is None or visit.person not in people:
        return False
    others = [other for other in enrolled if other.number != visit.person]
    if isinstance(visit.call, Enroll):
        scores = _score_pair(visit.call.pair, others, survey)
    else:
        scores = _score_single(people[visit.person].first.live.template, others, survey)
    return any(abs(score - told) <= MARGIN for score in scores)


def _score_pair(pair: Pair, others: Sequence[Person], survey: Survey) -> list[float]:
    asked = [
        (mine.template, theirs.template)
        for other in others
        for mine in pair.shots
        for theirs in other.first.shots
    ]
    cosines = survey.compare(asked)
    return [
        fuse_both(sum(cosines[4 * place : 4 * place + 4]), pair.score, other.first.score)
        for place, other in enumerate(others)
    ]


def _score_single(template: bytes, others: Sequence[Person], survey: Survey) -> list[float]:
    asked = [(template, theirs.template) for other in others for theirs in other.first.shots]
    cosines = survey.compare(asked)
    return [
        fuse_single(cosines[2 * place], cosines[2 * place + 1], other.first.score)
        for place, other in enumerate(others)
    ]
