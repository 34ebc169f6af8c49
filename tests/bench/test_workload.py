from collections import Counter

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from bench.suites.workload import MIX, Expected, VisitKind, Visits, draw_visits, expect_answers
from engine.errors import RequestError
from engine.matching.calibration import Thresholds
from schema.reasons import Decision, Reason

DIM = 32
AT = Thresholds(verify=0.40, same_document=0.42, review=0.60, certain=0.70)
AXES = np.eye(DIM, dtype=np.float32)
APPROVED_NEW = Expected(Decision.APPROVED, frozenset(), adds_reference=True)
APPROVED_KNOWN = Expected(Decision.APPROVED, frozenset(), adds_reference=False)


def rejected(*reasons: Reason) -> Expected:
    return Expected(Decision.REJECTED, frozenset(reasons), adds_reference=False)


def near(axis: int, score: float) -> NDArray[np.float32]:
    """A unit vector with this score to an axis and none to the others that tests use."""
    other = AXES[DIM - 1 - axis]
    return (score * AXES[axis] + np.sqrt(1 - score**2) * other).astype(np.float32)


def expect(
    *visitors: tuple[VisitKind, int, NDArray[np.float32], NDArray[np.float32]],
) -> list[object]:
    """Visitors (kind, person, live, portrait) to a gallery of the first three axes."""
    kinds, people, live, portrait = zip(*visitors, strict=True)
    visits = Visits(kinds, np.array(people), np.stack(live), np.stack(portrait))
    return list(expect_answers(visits, AXES[:3], AT))


def test_a_stranger_is_approved() -> None:
    assert expect((VisitKind.NEWCOMER, -1, AXES[5], AXES[5])) == [APPROVED_NEW]


@pytest.mark.parametrize(
    ("score", "answer"),
    [
        (0.59, APPROVED_NEW),
        (
            0.65,
            Expected(Decision.REVIEW, frozenset({Reason.POSSIBLE_DUPLICATE}), adds_reference=False),
        ),
        (0.75, rejected(Reason.DUPLICATE_IDENTITY)),
    ],
)
def test_an_enrolled_face_under_a_new_document_is_judged_by_its_score(
    score: float, answer: Expected
) -> None:
    face = near(1, score)
    assert expect((VisitKind.DUPLICATE, 1, face, face)) == [answer]


def test_each_face_is_held_at_the_threshold_of_its_own_kind() -> None:
    at = replace(AT, same_document_single=0.41, review_single=0.55, certain_single=0.65)
    # The mean of the two is less like the enrolled face than the live one is.
    live, portrait = near(1, 0.58), near(5, 0.30)
    portrait = (portrait * 0.6 + live * 0.8) / np.linalg.norm(portrait * 0.6 + live * 0.8)
    visits = Visits(
        (VisitKind.NEWCOMER,), np.array([-1]), live[None], portrait[None].astype(np.float32)
    )
    (answer,) = expect_answers(visits, AXES[:3], at)
    assert answer.reasons == {Reason.POSSIBLE_DUPLICATE}
    assert expect((VisitKind.NEWCOMER, -1, live, portrait.astype(np.float32))) == [APPROVED_NEW]


def test_two_visitors_with_one_face_and_two_documents_are_one_approval() -> None:
    visitor = (VisitKind.NEWCOMER, -1, AXES[5], AXES[5])
    assert expect(visitor, visitor) == [APPROVED_NEW, rejected(Reason.DUPLICATE_IDENTITY)]


def test_two_faces_on_one_request_do_not_match_and_leave_no_reference() -> None:
    other = (VisitKind.NEWCOMER, -1, AXES[5], AXES[6])
    visitor = (VisitKind.NEWCOMER, -1, AXES[5], AXES[5])
    assert expect(other, visitor) == [rejected(Reason.FACE_MISMATCH), APPROVED_NEW]


def test_a_returning_face_is_approved_and_another_one_is_not() -> None:
    own = (VisitKind.RETURNING, 1, AXES[1], AXES[1])
    thief = (VisitKind.RETURNING, 2, AXES[7], AXES[7])
    twin = (VisitKind.RETURNING, 0, AXES[1], AXES[1])
    assert expect(own, thief, twin) == [
        APPROVED_KNOWN,
        rejected(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE),
        rejected(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, Reason.DUPLICATE_IDENTITY),
    ]


def test_a_score_on_a_threshold_is_not_asked() -> None:
    for score in (AT.review, AT.certain):
        face = near(1, score + 1e-5)
        assert expect((VisitKind.DUPLICATE, 1, face, face)) == [None]
    assert expect((VisitKind.NEWCOMER, -1, AXES[5], near(5, AT.verify))) == [None]


def test_a_day_has_its_mix_and_nobody_of_the_gallery_comes_twice(population) -> None:
    visits = draw_visits(population, 500, 2_000, seed=4)
    counts = Counter(visits.kinds)
    for kind, share in MIX.items():
        assert counts[kind] / len(visits) == pytest.approx(share, abs=0.03)
    known = visits.people[visits.people >= 0]
    assert (
        len(set(known.tolist()))
        == len(known)
        == counts[VisitKind.RETURNING] + counts[VisitKind.DUPLICATE]
    )
    assert np.linalg.norm(visits.live, axis=1) == pytest.approx(1, abs=1e-5)


def test_known_people_bring_their_own_faces_in_photographs_of_their_own(population) -> None:
    visits = draw_visits(population, 500, 1_000, seed=4)
    known = np.flatnonzero(visits.people >= 0)
    references = population.references(500, 4)[visits.people[known]]
    own = np.einsum("nd,nd->n", references, visits.live[known])
    assert np.median(own) > 0.6
    assert own.max() < 0.999
    strangers = np.flatnonzero(visits.people < 0)[: len(known)]
    assert np.abs(np.einsum("nd,nd->n", references, visits.live[strangers])).mean() < 0.2


def test_more_known_visitors_than_people_are_refused(population) -> None:
    with pytest.raises(RequestError, match="raise --n"):
        draw_visits(population, 5, 1_000, seed=0)
