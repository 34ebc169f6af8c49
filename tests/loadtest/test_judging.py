"""Every answer is right, wrong, or no answer; what belongs together is judged together."""

from __future__ import annotations

import pytest

from loadtest.exchange import LOST, NOT_STARTED
from loadtest.judging import Ruling, judge
from loadtest.oracle import (
    APPROVED,
    CERTAIN,
    IN_FLIGHT,
    MISMATCH,
    NEW,
    POSSIBLE,
    REJECTED,
    REVIEW,
    STOPPED,
    Answer,
    Expectation,
    Found,
    Recognised,
    expect_duplicate,
)
from loadtest.schedule import Kind
from tests.loadtest.making import THRESHOLDS, decided, make_outcome, make_visit

RIGHT, WRONG, UNANSWERED = Ruling.RIGHT, Ruling.WRONG, Ruling.UNANSWERED
NEW_ONE = decided(APPROVED)
DOUBLE = decided(REJECTED, CERTAIN)
REFUSED = Answer(429, "SERVICE.BUSY", is_refusal=True)
STOLEN_REASON = "DOCUMENT_HELD_BY_ANOTHER_FACE"


def rule(*pairs: tuple[Kind, Answer], latency_s: float = 0.1) -> list[Ruling]:
    """Rulings of visits, the later ones partners of the first."""
    outcomes = [
        make_outcome(
            make_visit(number, kind, partner=1 if number > 1 else None, due_s=number * 0.5),
            answer,
            latency_s=latency_s,
        )
        for number, (kind, answer) in enumerate(pairs, 1)
    ]
    return [one.ruling for one in judge(outcomes)]


@pytest.mark.parametrize(
    ("expected", "answer", "ruling"),
    [
        (NEW, NEW_ONE, RIGHT),
        (NEW, decided(REJECTED, "FACE_MISMATCH"), WRONG),
        (NEW, Answer(503, "SERVICE.NOT_READY"), UNANSWERED),
        (NEW, REFUSED, UNANSWERED),
        (NEW, Answer(LOST), UNANSWERED),
        (STOPPED, decided(REJECTED, STOLEN_REASON, CERTAIN), RIGHT),
        (STOPPED, decided(REJECTED, "LINE_IN_USE"), WRONG),
        (STOPPED, NEW_ONE, WRONG),
        (expect_duplicate(0.9, THRESHOLDS), decided(REVIEW, POSSIBLE), WRONG),
        (expect_duplicate(0.6, THRESHOLDS), decided(REVIEW, POSSIBLE), RIGHT),
        (expect_duplicate(0.6, THRESHOLDS), NEW_ONE, WRONG),
        (Recognised(True, 1), Answer(200, is_positive=True, lines=2), RIGHT),
        (Recognised(True, 1), Answer(200, is_positive=True, lines=0), WRONG),
        (Recognised(False), Answer(200, is_positive=False), RIGHT),
        (Recognised(False), Answer(200, is_positive=False, lines=1), WRONG),
        (Found("d"), Answer(200, found={"d": 0.9, "e": 0.6}), RIGHT),
        (Found("d"), Answer(200, found={"e": 0.6}), WRONG),
        (Found(None), Answer(200, found={"e": 0.6}), WRONG),
    ],
)
def test_one_visit(expected: Expectation, answer: Answer, ruling: Ruling) -> None:
    [judged] = judge([make_outcome(make_visit(expected=expected), answer)])
    assert judged.ruling is ruling


@pytest.mark.parametrize(
    ("answers", "rulings"),
    [
        ((NEW_ONE, DOUBLE), [RIGHT, RIGHT]),
        ((DOUBLE, NEW_ONE), [RIGHT, RIGHT]),
        ((NEW_ONE, decided(REVIEW, POSSIBLE)), [RIGHT, RIGHT]),
        ((NEW_ONE, NEW_ONE), [WRONG, WRONG]),
        ((DOUBLE, DOUBLE), [WRONG, WRONG]),
        ((NEW_ONE, decided(REJECTED, "LINE_IN_USE")), [RIGHT, WRONG]),
        ((NEW_ONE, REFUSED), [RIGHT, UNANSWERED]),
        ((DOUBLE, REFUSED), [WRONG, UNANSWERED]),
        ((DOUBLE, Answer(LOST)), [RIGHT, UNANSWERED]),
        ((DOUBLE, Answer(NOT_STARTED)), [WRONG, UNANSWERED]),
        ((REFUSED, REFUSED), [UNANSWERED, UNANSWERED]),
    ],
)
def test_of_a_race_exactly_one_is_new(
    answers: tuple[Answer, Answer], rulings: list[Ruling]
) -> None:
    assert rule((Kind.RACE, answers[0]), (Kind.RACE, answers[1])) == rulings


@pytest.mark.parametrize(
    ("first", "second", "ruling"),
    [
        (NEW_ONE, decided(APPROVED, is_repeated=True), RIGHT),
        (decided(APPROVED, is_repeated=True), NEW_ONE, RIGHT),
        (NEW_ONE, NEW_ONE, WRONG),
        (NEW_ONE, decided(APPROVED, is_repeated=True, enrollment_id="other"), WRONG),
        (NEW_ONE, decided(REJECTED, CERTAIN, is_repeated=True), WRONG),
        (Answer(LOST), decided(APPROVED, is_repeated=True), RIGHT),
        (REFUSED, NEW_ONE, RIGHT),
        (NEW_ONE, REFUSED, UNANSWERED),
        (NEW_ONE, Answer(409, IN_FLIGHT), WRONG),
        (Answer(LOST), Answer(409, IN_FLIGHT), RIGHT),
        (NEW_ONE, Answer(422, MISMATCH), WRONG),
        (NEW_ONE, Answer(422, "REQUEST.INVALID"), UNANSWERED),
    ],
)
def test_a_retry_gets_the_answer_of_the_first(
    first: Answer, second: Answer, ruling: Ruling
) -> None:
    assert rule((Kind.RETURNING, first), (Kind.RETRY, second))[1] is ruling


def test_a_key_in_flight_may_be_told_so_while_it_is() -> None:
    answers = ((Kind.RETURNING, NEW_ONE), (Kind.RETRY, Answer(409, IN_FLIGHT)))
    assert rule(*answers, latency_s=0.6)[1] is RIGHT


@pytest.mark.parametrize(
    ("first", "second", "rulings"),
    [
        (NEW_ONE, Answer(422, MISMATCH), [RIGHT, RIGHT]),
        (NEW_ONE, NEW_ONE, [RIGHT, WRONG]),
        (NEW_ONE, decided(APPROVED, is_repeated=True), [RIGHT, WRONG]),
        (NEW_ONE, Answer(409, IN_FLIGHT), [RIGHT, WRONG]),
        (Answer(422, MISMATCH), NEW_ONE, [WRONG, RIGHT]),
        (REFUSED, NEW_ONE, [UNANSWERED, RIGHT]),
        (Answer(503, "REQUEST.DEADLINE_PASSED"), NEW_ONE, [UNANSWERED, RIGHT]),
        (REFUSED, DOUBLE, [UNANSWERED, WRONG]),
        (NEW_ONE, REFUSED, [RIGHT, UNANSWERED]),
    ],
)
def test_another_payload_under_the_same_key_is_refused(
    first: Answer, second: Answer, rulings: list[Ruling]
) -> None:
    assert rule((Kind.RETURNING, first), (Kind.CONFLICT, second)) == rulings


@pytest.mark.parametrize(
    ("kind", "first", "second", "rulings"),
    [
        (Kind.CONFLICT, Answer(422, MISMATCH), NEW_ONE, [RIGHT, RIGHT]),
        (Kind.CONFLICT, Answer(422, MISMATCH), DOUBLE, [RIGHT, WRONG]),
        (Kind.CONFLICT, Answer(409, IN_FLIGHT), NEW_ONE, [RIGHT, RIGHT]),
        (Kind.CONFLICT, Answer(422, MISMATCH), Answer(NOT_STARTED), [WRONG, UNANSWERED]),
        (Kind.RETRY, Answer(409, IN_FLIGHT), NEW_ONE, [RIGHT, RIGHT]),
        (Kind.RETRY, Answer(422, MISMATCH), NEW_ONE, [WRONG, RIGHT]),
    ],
)
def test_a_first_that_was_overtaken_is_told_so(
    kind: Kind, first: Answer, second: Answer, rulings: list[Ruling]
) -> None:
    assert rule((Kind.RETURNING, first), (kind, second), latency_s=0.6) == rulings
