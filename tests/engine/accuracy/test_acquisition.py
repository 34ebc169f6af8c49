"""A face that was not acquired counts as a person who was not matched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.accuracy.bootstrap import Share
from engine.accuracy.dataset import QUALITIES, Embeddings, LabelledFolder
from engine.accuracy.evaluate import generalise_fnmr
from engine.accuracy.pair_scores import compare_mated, single_templates

PEOPLE, PHOTOGRAPHS = 40, 3


@pytest.fixture
def embeddings(draw_faces: Callable[..., tuple]) -> Embeddings:
    """Of people who always match themselves, and one with a single photograph."""
    vectors, people = draw_faces(PEOPLE + 1, PHOTOGRAPHS, noise=0.02)
    count = PEOPLE * PHOTOGRAPHS + 1
    paths = tuple(Path(f"{number}") for number in range(count))
    names = tuple(map(str, range(PEOPLE + 1)))
    return Embeddings(
        LabelledFolder(Path(), names, paths, people[:count]),
        vectors[:count],
        np.empty(0, np.int64),
        ((),) * count,
        np.zeros((count, len(QUALITIES)), np.float32),
    )


def generalise(embeddings: Embeddings, threshold: float | None) -> Share | None:
    singles = single_templates(*embeddings.acquired())
    mated = compare_mated(singles)
    found = generalise_fnmr(embeddings, mated, singles.people, {"it": threshold})
    return found["it"]


def test_where_all_are_acquired_it_is_the_share_of_comparisons(embeddings) -> None:
    found = generalise(embeddings, 0.5)
    assert (found.events, found.trials, found.people) == (0, PEOPLE * 3, PEOPLE)
    assert found.high == 3 / PEOPLE, "the rule of three over people"
    every = generalise(embeddings, 1.1)
    assert every.value == 1


def test_a_photograph_without_a_face_misses_all_of_its_own_person(embeddings) -> None:
    failed = np.array([0, 3, 4, PEOPLE * PHOTOGRAPHS])
    found = generalise(replace(embeddings, failed=failed), 0.5)
    # One of three photographs is in two pairs, two of three in all; the last has no mate.
    assert (found.events, found.trials) == (2 + 3, PEOPLE * 3)
    assert 0 <= found.low < found.value < found.high < 0.2


def test_without_a_threshold_there_is_no_rate(embeddings) -> None:
    assert generalise(embeddings, None) is None
