"""`evaluate` with the real extractor, on free faces and on a part of LFW."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.accuracy.bootstrap import Share
from engine.accuracy.dataset import QUALITIES, Embeddings, LabelledFolder
from engine.accuracy.evaluate import evaluate, generalise_fnmr
from engine.accuracy.evaluation_report import draw_det, times
from engine.accuracy.pair_scores import compare_mated, single_templates
from engine.errors import RequestError


def test_variants_of_one_photograph_are_told_from_other_people(faces_folder, extractor) -> None:
    progress: list[tuple[int, int]] = []
    found = evaluate(faces_folder, extractor, lambda done, total: progress.append((done, total)))
    assert (found.people, found.photographs) == (6, 24)
    assert (found.mated_pairs, found.nonmated_pairs) == (6 * 6, 15 * 16)
    assert found.points[0].fmr == 0.1
    assert found.points[0].fnmr == 0
    assert found.points[0].fnmr_high == 3 / 6
    assert found.fta == 0
    assert found.model_digest == extractor.model_digest
    assert progress[-1] == (24, 24)


def test_a_folder_too_small_for_any_rate_still_has_its_counts(faces_folder, extractor) -> None:
    for number in range(2, 6):
        shutil.rmtree(faces_folder / f"Person_{number}")
    found = evaluate(faces_folder, extractor)
    assert (found.mated_pairs, found.nonmated_pairs) == (12, 16)
    assert found.points == ()
    assert found.to_dict()["lowest_fmr"] is None


def test_photographs_that_give_no_face_are_counted_and_not_named(faces_folder, extractor) -> None:
    one, other, plain = (faces_folder / f"Person_{k}" / f"Person_{k}_0001.png" for k in range(3))
    one.write_bytes(b"")
    other.write_bytes(other.read_bytes()[:500])
    shutil.copy(faces_folder / "Person_3" / "Person_3_0001.png", plain)
    found = evaluate(faces_folder, extractor)
    assert found.fta == 2 / 24
    assert sum(found.embeddings.failures.values()) == 2
    assert set(found.embeddings.failures) == {"IMAGE.DAMAGED"}
    assert found.acquisition.failed.low < found.fta < found.acquisition.failed.high
    assert "Person" not in json.dumps(found.to_dict())
    assert found.to_dict(with_failed=True)["failed_photographs"] == [
        "Person_0/Person_0_0001.png",
        "Person_1/Person_1_0001.png",
    ]


@pytest.mark.lfw
def test_a_part_of_lfw_reaches_what_the_whole_does(lfw, extractor, tmp_path) -> None:
    """The first 64 people with 3 to 8 photographs, some 250 of them."""
    chosen = [p for p in sorted((lfw / "images").iterdir()) if 3 <= len(list(p.iterdir())) <= 8]
    for person in chosen[:64]:
        (tmp_path / person.name).symlink_to(person)
    found = evaluate(tmp_path, extractor)
    assert found.fta == 0
    at_1e_3 = found.point_at(1e-3)
    assert at_1e_3.fnmr <= 0.02
    assert at_1e_3.threshold == pytest.approx(0.29, abs=0.03)


@pytest.fixture(scope="module")
def report(faces, extractor) -> dict[str, Any]:
    """As it comes out of a file."""
    report: dict[str, Any] = json.loads(
        json.dumps(evaluate(faces, extractor).to_dict(), allow_nan=False)
    )
    return report


def test_the_picture_is_a_png_with_something_drawn(report, tmp_path) -> None:
    draw_det(report, tmp_path / "det.png")
    with Image.open(tmp_path / "det.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1200
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert [11, 110, 117] in colours.tolist(), "the curve"


def test_too_few_pairs_give_no_picture(report, tmp_path) -> None:
    with pytest.raises(RequestError, match="no DET curve"):
        draw_det(report | {"det": []}, tmp_path / "det.png")
    with pytest.raises(RequestError, match=r"can't write det\.png"):
        draw_det(report, tmp_path / "nowhere" / "det.png")


def test_a_ratio_without_an_error_in_the_best_group_says_at_least() -> None:
    found = {"worst": "a", "best": "b", "ratio": None, "low": 2.5, "high": None}
    assert times(found) == "`a` at least 2.5 times `b` (2.5 and more; beyond chance)"
    assert "fewer than two groups" in times(None)
    assert times(found | {"low": 0.0}).startswith("no ratio: `b` has no error")


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
