"""Pairs just below the threshold among people who are linked."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.sweeps import nearness
from engine.sweeps.linking import LinkTable, Owners
from engine.sweeps.nearness import Look, find_near, look_into
from indexes.flat import FlatIndex
from indexes.gallery import Gallery

THRESHOLD = 0.6
NOBODY = np.empty((0, 2), np.int64)


def turned(*degrees: float) -> NDArray[np.float32]:
    """Unit rows in one plane, at these angles: a score is the cosine of the angle between two."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def owners(*documents: int) -> Owners:
    """References 0, 1, ... of these documents."""
    return Owners(np.arange(len(documents)), np.array(documents, np.int64))


def links(*pairs: tuple[int, int]) -> LinkTable:
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    return LinkTable.of(ends[:, 0], ends[:, 1], np.full(len(ends), 0.8, np.float32))


def looking(rows: NDArray[np.float32]) -> Look:
    return lambda ids: (ids, rows[ids])


def pairs_of(found: LinkTable) -> list[tuple[int, int]]:
    return list(zip(found.left.tolist(), found.right.tolist(), strict=True))


@pytest.mark.parametrize(("angle", "expected"), [(50.0, []), (55.0, [(10, 12)]), (60.0, [])])
def test_only_a_pair_just_below_the_threshold_is_near(
    angle: float, expected: list[tuple[int, int]]
) -> None:
    rows = turned(0, angle / 2, angle)
    found = find_near(
        links((10, 11), (11, 12)), owners(10, 11, 12), NOBODY, looking(rows), THRESHOLD
    )
    assert pairs_of(found) == expected


def test_the_score_is_the_best_of_all_references_of_two_documents() -> None:
    rows = turned(0, 27, 70, 55)
    known = owners(10, 11, 12, 12)
    found = find_near(links((10, 11), (11, 12)), known, NOBODY, looking(rows), THRESHOLD)
    assert pairs_of(found) == [(10, 12)]
    assert found.scores[0] == pytest.approx(np.cos(np.radians(55)))


def test_whom_people_have_told_apart_nothing_brings_near() -> None:
    rows = turned(0, 27, 55)
    judged = np.array([[12, 10]], np.int64)
    chain = links((10, 11), (11, 12))
    assert len(find_near(chain, owners(10, 11, 12), judged, looking(rows), THRESHOLD)) == 0


def test_documents_of_two_components_are_never_compared() -> None:
    rows = turned(0, 27, 55, 2, 28, 57)
    chains = links((0, 1), (1, 2), (3, 4), (4, 5))
    found = find_near(chains, owners(0, 1, 2, 3, 4, 5), NOBODY, looking(rows), THRESHOLD)
    assert pairs_of(found) == [(0, 2), (3, 5)]


def test_many_components_are_looked_at_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 50
    rows = np.concatenate([turned(0, 27, 55) for _ in range(count)])
    chains = links(*((3 * i + j, 3 * i + j + 1) for i in range(count) for j in range(2)))
    known = owners(*range(3 * count))
    whole = find_near(chains, known, NOBODY, looking(rows), THRESHOLD)
    asked = []

    def look(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        asked.append(len(ids))
        return ids, rows[ids]

    monkeypatch.setattr(nearness, "_REFERENCES_AT_ONCE", 10)
    parted = find_near(chains, known, NOBODY, look, THRESHOLD)
    assert pairs_of(parted) == pairs_of(whole)
    assert len(whole) == count
    assert max(asked) <= 12
    assert sum(asked) == 3 * count


def test_what_hangs_together_by_chance_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearness, "MOST_DOCUMENTS", 2)
    rows = turned(0, 27, 55)
    chain = links((10, 11), (11, 12))
    assert len(find_near(chain, owners(10, 11, 12), NOBODY, looking(rows), THRESHOLD)) == 0
    assert len(find_near(links(), owners(), NOBODY, looking(rows), THRESHOLD)) == 0


def test_a_gallery_is_looked_into_without_what_has_left_it() -> None:
    rows = turned(0, 30, 60)
    gallery = Gallery(FlatIndex(2))
    gallery.add(np.array([3, 5, 7]), rows, 1)
    look = look_into(gallery)
    ids, found = look(np.array([3, 7]))
    assert ids.tolist() == [3, 7]
    assert np.array_equal(found, rows[[0, 2]])
    gallery.remove(np.array([3]), 2)
    ids, found = look(np.array([3, 7]))
    assert ids.tolist() == [7]
    assert np.array_equal(found, rows[[2]])
