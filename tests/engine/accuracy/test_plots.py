"""Pictures of an evaluation: drawn of its report alone, or refused in one line."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.accuracy.evaluate import evaluate
from engine.accuracy.evaluation_report import draw_det, times
from engine.errors import RequestError


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
