"""Tells a false match of the model from a wrong decision of the service.

Two strangers may score the threshold: the calibration says how often. Who was taken for another is
compared, one to one, with everybody whom this run has enrolled; where somebody scores what the
answer says, the decision is what the model says of the photographs. Whoever was in a gallery that
is not the test's own cannot be asked for: there an unplanned duplicate is taken for a look-alike.
A retry is none, where its first was answered: it has to say what that said, whoever it resembles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loadtest.calls import Enroll
from loadtest.cast import Cast, Pair, Person
from loadtest.casting import MARGIN
from loadtest.errors import LoadTestRefused
from loadtest.judging import Judged, Ruling
from loadtest.likeness import fuse_both, fuse_single
from loadtest.mix import Kind
from loadtest.survey import Survey

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
