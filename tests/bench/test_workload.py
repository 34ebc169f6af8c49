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
