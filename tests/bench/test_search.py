"""The suite `search` on few references: who is asked, and whether it is right."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import bench.suites.baselines
from bench.core.reports import Figure, Result, Skipped, load_goals
from bench.data.vectors import Faces, default_thresholds, find_best, find_reaching, population_of
from bench.suites.baselines import build_gallery, build_segment
from bench.suites.search import SearchConfig, check_exactness, run
from engine.errors import RequestError
from indexes.exact.scanner import Scanner

TINY = SearchConfig(
    references=3_000,
    dim=32,
    batch=24,
    probes=40,
    near=40,
    rounds=1,
    batch_rounds=1,
    range_rounds=1,
    calls=1,
    postgres="none",
)
OURS = ("exact8, the gallery", "exact8, one segment")

Run = tuple[tuple[Result, ...], dict[str, Any]]


@pytest.fixture(scope="module")
def done() -> Run:
    return run(TINY)


def figures_of(done: Run, name: str) -> dict[str, Figure]:
    (result,) = (result for result in done[0] if result.name.partition(" to ")[0] == name)
    return {figure.name: figure for figure in result.figures}


def test_every_goal_of_the_suite_is_measured_or_skipped_for_the_size(done: Run) -> None:
    _, measured = done
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "search"}
    assert measured["identical_answers"] == 1.0
    skipped = [value for value in measured.values() if isinstance(value, Skipped)]
    assert len(skipped) == len(measured) - 1
    assert {one.reason for one in skipped} == {
        "promised for 1,000,000 references of 128 dimensions"
    }


def test_ours_and_the_others_stand_in_one_table(done: Run) -> None:
    names = list(figures_of(done, "A batch"))
    assert names[0] == "FAISS Flat"
    for wanted in (
        *OURS,
        "FAISS SQ8",
        "FAISS PQ4fs+refine, k_factor 20",
        "usearch",
        "NumKong",
        "hnswlib",
    ):
        assert any(name.startswith(wanted) for name in names)
    assert sum(name.startswith("FAISS IVF") for name in names) >= 1


def test_who_has_no_range_search_is_skipped_with_the_reason(done: Run) -> None:
    figures = figures_of(done, "A batch, range")
    assert figures["FAISS SQ8"].value is None
    assert "row by row" in (figures["FAISS SQ8"].skipped or "")
    assert all(figures[name].value is not None for name in OURS)


def test_the_exact_ones_find_every_mate_near_the_threshold(done: Run) -> None:
    review = default_thresholds().review
    figures = figures_of(done, f"Recall of mates, score {review:.2f}")
    assert [figures[name].value for name in OURS] == [1.0, 1.0]


def test_setup_says_what_the_faces_are(done: Run) -> None:
    for result in done[0]:
        assert result.setup["references"] == 3_000
        assert "stretched from 128" in str(result.setup["population"])


def test_what_is_not_installed_is_missing_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    monkeypatch.setitem(sys.modules, "numkong", None)
    faces = Faces(1_000, 32, 0)
    participants = bench.suites.baselines.build_participants(
        faces.references, Scanner(threads=1), has_graph=True
    )
    assert participants.missing == {
        "usearch int8, exact": "not installed: pip install usearch",
        "NumKong int8, exact": "not installed: pip install numkong",
        "hnswlib": "not installed: pip install hnswlib",
    }


def test_a_search_that_errs_is_not_identical() -> None:
    faces, scanner = Faces(1_500, 32, 0), Scanner(threads=1)
    turned = np.ascontiguousarray(np.roll(faces.references, 1, axis=0))
    segment, gallery = build_segment(turned, scanner)[0], build_gallery(turned, scanner)[0]
    result, share = check_exactness(segment, gallery, faces, 10, 5, 0.5, {})
    assert share == 0.0
    assert len(result.figures) == 12


def test_brute_force_is_what_sorting_all_scores_gives() -> None:
    faces = Faces(9_000, 16, 1)
    queries, rows = faces.strangers(7), faces.references
    scores = (queries.astype(np.float64) @ rows.T.astype(np.float64)).astype(np.float32)
    best, reaching = find_best(queries, rows, 6), find_reaching(queries, rows, 0.6)
    for query in range(7):
        order = np.lexsort((np.arange(len(rows)), -scores[query]))
        assert best.of(query)[0].tolist() == order[:6].tolist()
        above = order[scores[query][order] >= 0.6]
        assert reaching.of(query)[0].tolist() == above.tolist()


def test_too_many_references_for_the_memory_are_refused() -> None:
    with pytest.raises(RequestError, match="lower --n"):
        run(SearchConfig(references=10**9))


@pytest.mark.parametrize("dim", [32, 128, 160])
def test_faces_are_unit_rows_and_mates_score_like_mates(dim: int) -> None:
    faces = Faces(2_000, dim, 3)
    assert population_of(dim).dim == dim
    assert np.allclose(np.linalg.norm(faces.references, axis=1), 1, atol=1e-5)
    sample = faces.sample(200)
    mated = np.einsum("ij,ij->i", sample.probes, faces.references[sample.rows])
    others = faces.strangers(200) @ faces.references[:200].T
    assert 0.6 < mated.mean() < 0.85
    assert others.mean() < 0.2


def test_near_mates_score_within_their_band() -> None:
    faces = Faces(5_000, 128, 0)
    near = faces.near(0.55, 0.6, 50)
    scores = np.einsum("ij,ij->i", near.probes, faces.references[near.rows])
    assert len(near) == 50
    assert scores.min() >= 0.549
    assert scores.max() < 0.601
