"""What was planted into real photographs is what an evaluation finds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from engine.accuracy.evaluate import Evaluation
from engine.accuracy.evaluation_report import write_folder
from tests.engine.accuracy.planted import BLURRED, CLEAR, PEOPLE, SMALL, Planted

pytestmark = pytest.mark.lfw


def list_pairs(evaluated: Evaluation) -> set[frozenset[str]]:
    """The pairs flagged, by their paths."""
    rows = evaluated.flagged.to_rows(evaluated.embeddings)
    return {frozenset({row["photograph"], row["other"]}) for row in rows}


def test_the_camera_with_poor_pictures_is_the_worst_group(evaluated: Evaluation) -> None:
    (camera,) = evaluated.conditions.attributes
    assert [group.label for group in camera.groups] == sorted([CLEAR, BLURRED, SMALL])
    found = camera.false_negative
    assert found is not None
    assert (found.worst, found.best) == (BLURRED, CLEAR)
    assert found.low > 1
    small = next(group for group in camera.groups if group.label == SMALL)
    assert small.fnmr is None
    assert small.fnmr_refused == "4 people with two photographs, 30 are needed"
    assert camera.unlabelled == evaluated.photographs - PEOPLE * 3


def test_the_years_that_were_put_between_photographs_cost_score(evaluated: Evaluation) -> None:
    ageing = evaluated.conditions.ageing
    assert ageing is not None
    near, far = ageing.spans
    assert (near.from_years, far.from_years, far.to_years) == (0, 10, 20)
    assert (near.mated_pairs, far.mated_pairs) == (PEOPLE, 2 * PEOPLE)
    assert far.median < near.median


def test_bands_of_quality_hold_all_comparisons_and_refuse_the_few(evaluated: Evaluation) -> None:
    quality = evaluated.conditions.quality
    assert quality is not None
    for one in quality.measures:
        assert sum(band.mated_pairs for band in one.bands) == quality.overall.trials
        best, *_, worst = one.bands
        assert best.people > 30 > worst.people
        assert best.fnmr is not None
        assert worst.refused == f"{worst.people} people, 30 are needed"


def test_one_person_under_two_names_is_flagged(evaluated: Evaluation, planted: Planted) -> None:
    found = list_pairs(evaluated)
    assert planted.foreign in found
    named = {frozenset(Path(path).parent.name for path in pair) for pair in found}
    assert planted.renamed in named


def test_nothing_is_left_out_for_what_is_flagged(evaluated: Evaluation) -> None:
    scores = [row["score"] for row in evaluated.flagged.to_rows(evaluated.embeddings)]
    flagged = evaluated.to_dict()["flagged"]
    assert flagged["pairs"] == len(scores)
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] >= flagged["suspect_score"]
    photographs = np.bincount(evaluated.embeddings.folder.people)
    pairs = (photographs.sum() ** 2 - (photographs**2).sum()) // 2
    assert evaluated.nonmated_pairs == pairs


def test_the_report_is_a_folder_that_names_nobody_but_in_one_file(
    evaluated: Evaluation, planted: Planted, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    written = {path.name for path in write_folder(evaluated, folder)}
    assert written == {path.name for path in folder.iterdir()}
    assert {"det.png", "det-quality.png", "det-attribute-1.png", "det-ageing.png"} <= written
    text = (folder / "report.md").read_text("utf-8")
    assert "not given: 4 people with two photographs, 30 are needed" in text
    for name in written - {"flagged.csv", "report.md", "evaluation.json"}:
        assert f"({name})" in text
    report = (folder / "evaluation.json").read_text("utf-8")
    assert json.loads(report)["source"] == "planted"
    for content in (text, report):
        assert ".png/" not in content
        assert "stranger_0001" not in content
    with (folder / "flagged.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert any({row["photograph"], row["other"]} == planted.foreign for row in rows)
