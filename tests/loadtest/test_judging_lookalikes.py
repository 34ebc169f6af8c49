"""A false match of the model is told from a wrong decision of the service, by asking the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from loadtest.errors import LoadTestRefused
from loadtest.exchange import LOST
from loadtest.judging import MOST_SUSPECTS, Judged, Ruling, excuse, judge
from loadtest.oracle import APPROVED, CERTAIN, POSSIBLE, REJECTED, REVIEW, Answer, Found
from loadtest.people import Survey
from loadtest.schedule import Kind
from tests.loadtest.making import decided, make_cast, make_outcome, make_visit

CAST = make_cast()
DOUBLES = (100, 101)
"""Two newcomers whose photographs the model takes for one person's."""


class Model:
    """A survey that answers from a rule: every cosine of the two doubles is 0.62, others 0.1."""

    def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
        names = [{f"t{double}-".encode() for double in DOUBLES}] * len(pairs)
        return [
            0.62 if all(any(one.startswith(name) for name in known) for one in pair) else 0.1
            for pair, known in zip(pairs, names, strict=True)
        ]


def rule(answer: Answer, kind: Kind = Kind.NEWCOMER, person: int = 101, **changes: Any) -> Ruling:
    visit = make_visit(1, kind, person=person, **changes)
    [judged] = excuse(judge([make_outcome(visit, answer)]), CAST, cast(Survey, Model()))
    return judged.ruling


def review(score: float) -> Answer:
    return decided(REVIEW, POSSIBLE, best_score=score)


def test_a_decision_that_the_model_confirms_is_a_look_alike() -> None:
    # Four cosines of 0.62 between two means, each of two photographs that score 0.8: 0.689.
    assert rule(review(0.689)) is Ruling.LOOK_ALIKE


@pytest.mark.parametrize(
    "answer",
    [
        review(0.85),
        decided(REVIEW, POSSIBLE, best_score=None),
        decided(REJECTED, "FACE_MISMATCH", best_score=0.689),
    ],
)
def test_a_decision_that_it_does_not_confirm_is_wrong(answer: Answer) -> None:
    assert rule(answer) is Ruling.WRONG


def test_nobody_is_his_own_look_alike() -> None:
    assert rule(review(0.689), person=102) is Ruling.WRONG


def test_a_planted_duplicate_is_never_excused() -> None:
    assert rule(decided(APPROVED), Kind.DUPLICATE, expected=Found("d")) is Ruling.WRONG


def test_a_search_for_somebody_unknown_may_find_a_look_alike() -> None:
    found = Answer(200, found={"document": 0.653})
    assert rule(found, Kind.UNKNOWN, expected=Found(None)) is Ruling.LOOK_ALIKE
    far = Answer(200, found={"document": 0.9})
    assert rule(far, Kind.UNKNOWN, expected=Found(None)) is Ruling.WRONG


def test_too_many_of_them_are_no_accident() -> None:
    outcomes = [
        make_outcome(make_visit(number, person=101), decided(REJECTED, CERTAIN, best_score=0.689))
        for number in range(1, MOST_SUSPECTS + 2)
    ]
    judged: list[Judged] = excuse(judge(outcomes), CAST, cast(Survey, Model()))
    assert {one.ruling for one in judged} == {Ruling.WRONG}


@pytest.mark.parametrize(
    ("first", "ruling"),
    [
        (decided(APPROVED), Ruling.WRONG),
        (Answer(LOST), Ruling.LOOK_ALIKE),
        (Answer(503, "SERVICE.NOT_READY"), Ruling.LOOK_ALIKE),
    ],
)
def test_a_retry_has_to_say_what_its_first_was_told(first: Answer, ruling: Ruling) -> None:
    """Even in a gallery in which anybody may have a double."""
    outcomes = [
        make_outcome(make_visit(1, Kind.RETURNING, person=101), first),
        make_outcome(make_visit(2, Kind.RETRY, person=101, partner=1), review(0.85)),
    ]
    foreign = make_cast(had_references=True)
    assert excuse(judge(outcomes), foreign, cast(Survey, Model()))[1].ruling is ruling


def test_a_service_that_cannot_be_asked_excuses_nobody() -> None:
    class Silent(Model):
        def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
            del pairs
            raise LoadTestRefused("the service said nothing")

    judged = judge([make_outcome(make_visit(1, person=101), review(0.689))])
    assert excuse(judged, CAST, cast(Survey, Silent()))[0].ruling is Ruling.WRONG


def test_in_a_gallery_with_people_of_its_own_nobody_can_be_asked_for() -> None:
    foreign = make_cast(had_references=True)
    visit = make_visit(1, person=101)
    ruled = judge([make_outcome(visit, review(0.85))])
    [judged] = excuse(ruled, foreign, cast(Survey, Model()))
    assert judged.ruling is Ruling.LOOK_ALIKE
    # What its own service holds resembles nobody.
    [judged] = excuse(ruled, foreign, cast(Survey, Model()), is_own=True)
    assert judged.ruling is Ruling.WRONG
