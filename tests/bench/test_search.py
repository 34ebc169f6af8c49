"""Who is compared with our search, what it is held against, and the faces of both."""

import sys

import numpy as np
import pytest

import bench.suites.baselines
from bench.datasets import Faces, find_best, population_of
from bench.micro.test_search import check_exactness
from bench.suites.baselines import PANORAMA, build_gallery, build_segment
from indexes.exact.scanner import Scanner


def test_what_is_not_installed_is_missing_with_the_reason(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    faces = Faces(1_000, 32, 0)
    participants = bench.suites.baselines.build_participants(faces.references, Scanner(threads=1))
    assert participants.missing == {"usearch int8, exact": "not installed: pip install usearch"}


@pytest.mark.parametrize("count", [1, 50])
def test_panorama_is_exact(count: int) -> None:
    faces = Faces(3_000, 128, 0)
    scanner = Scanner(threads=1)
    searchers = bench.suites.baselines.build_participants(faces.references, scanner).searchers
    panorama = next(one for one in searchers if one.name == PANORAMA)
    probes = faces.strangers(count)
    right = np.stack([ids for ids, _ in find_best(probes, faces.references, 5)])
    assert np.array_equal(panorama.best(probes, 5), right)


def test_a_search_that_errs_is_not_identical() -> None:
    faces, scanner = Faces(1_500, 32, 0), Scanner(threads=1)
    turned = np.ascontiguousarray(np.roll(faces.references, 1, axis=0))
    segment, gallery = build_segment(turned, scanner), build_gallery(turned, scanner)
    assert check_exactness(segment, gallery, faces, 10, 0.5) == 0


@pytest.mark.parametrize("dim", [32, 128, 160])
def test_faces_are_unit_rows_and_mates_score_like_mates(dim: int) -> None:
    faces = Faces(2_000, dim, 3)
    assert population_of(dim).dim == dim
    assert np.allclose(np.linalg.norm(faces.references, axis=1), 1, atol=1e-5)
    rows, probes = faces.sample(200)
    mated = np.einsum("ij,ij->i", probes, faces.references[rows])
    others = faces.strangers(200) @ faces.references[:200].T
    assert 0.6 < mated.mean() < 0.85
    assert others.mean() < 0.2


def test_near_mates_score_within_their_band() -> None:
    faces = Faces(5_000, 128, 0)
    rows, probes = faces.near(0.55, 0.6, 50)
    scores = np.einsum("ij,ij->i", probes, faces.references[rows])
    assert len(scores) == 50
    assert scores.min() >= 0.549
    assert scores.max() < 0.601
