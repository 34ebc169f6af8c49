"""Every answer is right, wrong or missing; requests that belong together are judged as pairs."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from loadtest.criteria import MOST_CHECKED, Correctness, judge, mark_look_alikes
from loadtest.errors import LoadTestRefused
from loadtest.exchange import LOST, NOT_STARTED, ModelClient
from loadtest.participants import LoadParticipants
from loadtest.schedule import Kind, Outcome
from loadtest.service_calls import (
    APPROVED,
    CERTAIN,
    IMPOSTOR_REJECTED,
    IN_FLIGHT,
    MISMATCH,
    NEW,
    NOBODY_FOUND,
    NOT_RECOGNISED,
    POSSIBLE,
    REJECTED,
    REVIEW,
    Answer,
    ExpectedAnswer,
    expect_duplicate,
    expect_found,
    expect_lines,
)
from tests.loadtest.making import THRESHOLDS, decided, make_outcome, make_participants, make_visit

RIGHT, WRONG, UNANSWERED = Correctness.RIGHT, Correctness.WRONG, Correctness.UNANSWERED
NEW_ENROLLMENT = decided(APPROVED)
DUPLICATE = decided(REJECTED, CERTAIN)
REFUSED = Answer(429, "SERVICE.BUSY", is_refusal=True)
STOLEN_REASON = "DOCUMENT_HELD_BY_ANOTHER_FACE"


def judge_answers(*pairs: tuple[Kind, Answer], latency_s: float = 0.1) -> list[Correctness]:
    """Judges visits, the later ones as partners of the first."""
    outcomes = [
        make_outcome(
            make_visit(number, kind, partner=1 if number > 1 else None, due_s=number * 0.5),
            answer,
            latency_s=latency_s,
        )
        for number, (kind, answer) in enumerate(pairs, 1)
    ]
    return [one.correctness for one in judge(outcomes)]


@pytest.mark.parametrize(
    ("expected", "answer", "correctness"),
    [
        (NEW, NEW_ENROLLMENT, RIGHT),
        (NEW, decided(REJECTED, "FACE_MISMATCH"), WRONG),
        (NEW, Answer(503, "SERVICE.NOT_READY"), UNANSWERED),
        (NEW, REFUSED, UNANSWERED),
        (NEW, Answer(LOST), UNANSWERED),
        (IMPOSTOR_REJECTED, decided(REJECTED, STOLEN_REASON, CERTAIN), RIGHT),
        (IMPOSTOR_REJECTED, decided(REJECTED, "LINE_IN_USE"), WRONG),
        (IMPOSTOR_REJECTED, NEW_ENROLLMENT, WRONG),
        (expect_duplicate(0.9, THRESHOLDS), decided(REVIEW, POSSIBLE), WRONG),
        (expect_duplicate(0.6, THRESHOLDS), decided(REVIEW, POSSIBLE), RIGHT),
        (expect_duplicate(0.6, THRESHOLDS), NEW_ENROLLMENT, WRONG),
        (expect_lines(1), Answer(200, is_positive=True, lines=2), RIGHT),
        (expect_lines(1), Answer(200, is_positive=True, lines=0), WRONG),
        (NOT_RECOGNISED, Answer(200, is_positive=False), RIGHT),
        (NOT_RECOGNISED, Answer(200, is_positive=False, lines=1), WRONG),
        (expect_found("d"), Answer(200, found={"d": 0.9, "e": 0.6}), RIGHT),
        (expect_found("d"), Answer(200, found={"e": 0.6}), WRONG),
        (NOBODY_FOUND, Answer(200, found={"e": 0.6}), WRONG),
    ],
)
def test_one_visit(expected: ExpectedAnswer, answer: Answer, correctness: Correctness) -> None:
    [judged] = judge([make_outcome(make_visit(expected=expected), answer)])
    assert judged.correctness is correctness


RETRIED = decided(APPROVED, is_repeated=True)
RACE, RETRY = (Kind.RACE, Kind.RACE), (Kind.RETURNING, Kind.RETRY)
CONFLICT = (Kind.RETURNING, Kind.CONFLICT)
Judged = tuple[Correctness | None, Correctness]
"""Of the first, where it is looked at, and of the second."""
PAIRS: dict[tuple[str, tuple[Kind, Kind], float], list[tuple[Answer, Answer, Judged]]] = {
    ("of a race exactly one is new", RACE, 0.1): [
        (NEW_ENROLLMENT, DUPLICATE, (RIGHT, RIGHT)),
        (DUPLICATE, NEW_ENROLLMENT, (RIGHT, RIGHT)),
        (NEW_ENROLLMENT, decided(REVIEW, POSSIBLE), (RIGHT, RIGHT)),
        (NEW_ENROLLMENT, NEW_ENROLLMENT, (WRONG, WRONG)),
        (DUPLICATE, DUPLICATE, (WRONG, WRONG)),
        (NEW_ENROLLMENT, decided(REJECTED, "LINE_IN_USE"), (RIGHT, WRONG)),
        (NEW_ENROLLMENT, REFUSED, (RIGHT, UNANSWERED)),
        (DUPLICATE, REFUSED, (WRONG, UNANSWERED)),
        (DUPLICATE, Answer(LOST), (RIGHT, UNANSWERED)),
        (DUPLICATE, Answer(NOT_STARTED), (WRONG, UNANSWERED)),
        (REFUSED, REFUSED, (UNANSWERED, UNANSWERED)),
    ],
    ("a retry gets the answer of the first", RETRY, 0.1): [
        (NEW_ENROLLMENT, RETRIED, (None, RIGHT)),
        (RETRIED, NEW_ENROLLMENT, (None, RIGHT)),
        (NEW_ENROLLMENT, NEW_ENROLLMENT, (None, WRONG)),
        (NEW_ENROLLMENT, decided(APPROVED, is_repeated=True, enrollment_id="other"), (None, WRONG)),
        (NEW_ENROLLMENT, decided(REJECTED, CERTAIN, is_repeated=True), (None, WRONG)),
        (Answer(LOST), RETRIED, (None, RIGHT)),
        (REFUSED, NEW_ENROLLMENT, (None, RIGHT)),
        (NEW_ENROLLMENT, REFUSED, (None, UNANSWERED)),
        (NEW_ENROLLMENT, Answer(409, IN_FLIGHT), (None, WRONG)),
        (Answer(LOST), Answer(409, IN_FLIGHT), (None, RIGHT)),
        (NEW_ENROLLMENT, Answer(422, MISMATCH), (None, WRONG)),
        (NEW_ENROLLMENT, Answer(422, "REQUEST.INVALID"), (None, UNANSWERED)),
    ],
    ("or is told that it is in flight, while it is", RETRY, 0.6): [
        (NEW_ENROLLMENT, Answer(409, IN_FLIGHT), (None, RIGHT))
    ],
    ("another payload under the same key is refused", CONFLICT, 0.1): [
        (NEW_ENROLLMENT, Answer(422, MISMATCH), (RIGHT, RIGHT)),
        (NEW_ENROLLMENT, NEW_ENROLLMENT, (RIGHT, WRONG)),
        (NEW_ENROLLMENT, RETRIED, (RIGHT, WRONG)),
        (NEW_ENROLLMENT, Answer(409, IN_FLIGHT), (RIGHT, WRONG)),
        (Answer(422, MISMATCH), NEW_ENROLLMENT, (WRONG, RIGHT)),
        (REFUSED, NEW_ENROLLMENT, (UNANSWERED, RIGHT)),
        (Answer(503, "REQUEST.DEADLINE_PASSED"), NEW_ENROLLMENT, (UNANSWERED, RIGHT)),
        (REFUSED, DUPLICATE, (UNANSWERED, WRONG)),
        (NEW_ENROLLMENT, REFUSED, (RIGHT, UNANSWERED)),
    ],
    ("or the first is, where it was overtaken", CONFLICT, 0.6): [
        (Answer(422, MISMATCH), NEW_ENROLLMENT, (RIGHT, RIGHT)),
        (Answer(422, MISMATCH), DUPLICATE, (RIGHT, WRONG)),
        (Answer(409, IN_FLIGHT), NEW_ENROLLMENT, (RIGHT, RIGHT)),
        (Answer(422, MISMATCH), Answer(NOT_STARTED), (WRONG, UNANSWERED)),
    ],
    ("which no retry does", RETRY, 0.6): [
        (Answer(409, IN_FLIGHT), NEW_ENROLLMENT, (RIGHT, RIGHT)),
        (Answer(422, MISMATCH), NEW_ENROLLMENT, (WRONG, RIGHT)),
    ],
}


@pytest.mark.parametrize("promise", PAIRS, ids=lambda one: one[0])
def test_requests_that_belong_together_are_judged_as_a_pair(
    promise: tuple[str, tuple[Kind, Kind], float],
) -> None:
    _, (kind, other), latency_s = promise
    for first, second, judged in PAIRS[promise]:
        found = judge_answers((kind, first), (other, second), latency_s=latency_s)
        assert judged in (tuple(found), (None, found[1])), (first, second)


PARTICIPANTS = make_participants()
LOOK_ALIKES = (100, 101)
"""Two newcomers whose photographs the model takes for one person's."""


class Model:
    """A `ModelClient`: every cosine between the two look-alikes is 0.62, others 0.1."""

    def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
        known = tuple(f"t{number}-".encode() for number in LOOK_ALIKES)
        return [0.62 if all(one.startswith(known) for one in pair) else 0.1 for pair in pairs]


def mark(
    *outcomes: Outcome,
    others: LoadParticipants = PARTICIPANTS,
    model: Model | None = None,
    is_local: bool = False,
) -> list[Correctness]:
    client = cast(ModelClient, model or Model())
    marked = mark_look_alikes(judge(outcomes), others, client, is_local=is_local)
    return [one.correctness for one in marked]


def judge_answer(
    answer: Answer, kind: Kind = Kind.NEWCOMER, person: int = 101, **changes: Any
) -> Correctness:
    [judged] = mark(make_outcome(make_visit(1, kind, person=person, **changes), answer))
    return judged


def review(score: float | None) -> Answer:
    return decided(REVIEW, POSSIBLE, review=score)


UNKNOWN: dict[str, Any] = {"kind": Kind.UNKNOWN, "expected": NOBODY_FOUND}
JUDGED: dict[str, list[tuple[Answer, dict[str, Any]]]] = {
    # Four cosines of 0.62 between two means, each of two photographs that score 0.8: 0.689.
    "look alike": [(review(0.689), {}), (Answer(200, found={"document": 0.653}), UNKNOWN)],
    "not confirmed": [
        (review(0.85), {}),
        (review(None), {}),
        (decided(REJECTED, "FACE_MISMATCH", review=0.689), {}),
        (Answer(200, found={"document": 0.9}), UNKNOWN),
    ],
    "nobody of himself": [(review(0.689), {"person": 102})],
    "no planted one": [
        (decided(APPROVED), {"kind": Kind.DUPLICATE, "expected": expect_found("d")})
    ],
}


@pytest.mark.parametrize("why", JUDGED)
def test_a_decision_that_the_model_confirms_is_a_look_alike_and_any_other_is_wrong(
    why: str,
) -> None:
    expected = Correctness.LOOK_ALIKE if why == "look alike" else WRONG
    assert {judge_answer(answer, **given) for answer, given in JUDGED[why]} == {expected}


def test_too_many_look_alikes_are_wrong_decisions() -> None:
    outcomes = [
        make_outcome(make_visit(number, person=101), decided(REJECTED, CERTAIN, review=0.689))
        for number in range(1, MOST_CHECKED + 2)
    ]
    assert set(mark(*outcomes)) == {Correctness.WRONG}


@pytest.mark.parametrize(
    ("first", "correctness"),
    [
        (decided(APPROVED), Correctness.WRONG),
        (Answer(LOST), Correctness.LOOK_ALIKE),
        (Answer(503, "SERVICE.NOT_READY"), Correctness.LOOK_ALIKE),
    ],
)
def test_a_retry_must_repeat_the_first_answer(first: Answer, correctness: Correctness) -> None:
    outcomes = [
        make_outcome(make_visit(1, Kind.RETURNING, person=101), first),
        make_outcome(make_visit(2, Kind.RETRY, person=101, partner=1), review(0.85)),
    ]
    assert mark(*outcomes, others=make_participants(had_references=True))[1] is correctness


def test_without_an_answer_of_the_model_a_decision_is_wrong() -> None:
    class Silent(Model):
        def compare(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[float]:
            del pairs
            raise LoadTestRefused("the service said nothing")

    outcome = make_outcome(make_visit(1, person=101), review(0.689))
    assert mark(outcome, model=Silent()) == [Correctness.WRONG]


def test_a_duplicate_in_a_gallery_that_held_people_is_a_look_alike() -> None:
    others = make_participants(had_references=True)
    outcome = make_outcome(make_visit(1, person=101), review(0.85))
    assert mark(outcome, others=others) == [Correctness.LOOK_ALIKE]
    # The references of a local service resemble nobody.
    assert mark(outcome, others=others, is_local=True) == [Correctness.WRONG]
