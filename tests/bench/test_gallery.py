"""The suite `gallery` on few references: nothing is lost while it changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from bench.core.reports import Result, load_goals
from bench.datasets import Faces
from bench.suites.baselines import build_gallery
from bench.suites.gallery import ChangingGallery, GallerySuiteConfig, grow, run
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex

TINY: dict[str, Any] = {
    "references": 2_000,
    "dim": 32,
    "singles": 40,
    "looks": 10,
    "changing_s": 1.0,
    "removed": 20,
    "batch": 16,
}

Run = tuple[Sequence[Result], Mapping[str, Any]]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("gallery")
    done = run(GallerySuiteConfig(folder=folder, **TINY))
    assert not list(folder.iterdir()), "the snapshot is gone afterwards"
    return done


def value_of(done: Run, result: str, figure: str) -> float | None:
    (one,) = (one for one in done[0] if one.name == result)
    return next(found.value for found in one.figures if found.name == figure)


def test_nothing_is_missed_and_every_goal_is_measured(done) -> None:
    _, measured = done
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "gallery"}
    assert measured["missed_references"] == 0
    assert measured["unseen_adds"] == 0
    assert measured["snapshot_answers"] == 1
    name = "Searching while everything changes"
    assert value_of(done, name, "committed references looked for")
    assert value_of(done, name, "missed") == 0


def test_the_memory_of_a_reference_is_the_sum_of_its_parts(done) -> None:
    parts = ("codes", "plane", "rows", "ids", "residuals", "alive", "head")
    total = sum(value_of(done, "Memory", part) or 0.0 for part in parts)
    assert value_of(done, "Memory", "all") == pytest.approx(total)
    assert total > 32 * 5


@pytest.mark.parametrize("first_lost", [700, 0])
def test_a_gallery_that_loses_references_fails(faces_and_scanner, first_lost: int) -> None:
    faces, scanner = faces_and_scanner
    gallery = build_gallery(faces.references, scanner)
    gallery.remove(np.arange(first_lost, 1_000), gallery.sequence + 1)
    found = ChangingGallery(gallery, faces.references, faces.newcomers(64))
    found.search(0.2, 0)
    assert found.missed > 0


def test_an_add_that_is_not_visible_is_counted(faces_and_scanner, monkeypatch) -> None:
    faces, scanner = faces_and_scanner
    gallery = Gallery(SegmentedIndex(32, scanner=scanner))
    assert grow(gallery, faces.references[:64], 0, 8, 8)[1] == 0
    other = build_gallery(faces.references[500:], scanner)
    monkeypatch.setattr(gallery, "search", other.search)
    assert grow(gallery, faces.references[64:128], 64, 8, 8)[1] == 8


@pytest.fixture
def faces_and_scanner() -> tuple[Faces, Scanner]:
    return Faces(1_000, 32, 0), Scanner(threads=1)
