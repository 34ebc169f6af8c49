from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.accuracy.det import plot_det
from engine.accuracy.evaluate import Evaluation, evaluate
from engine.errors import RequestError, SosieError
from engine.faces.extractor import Extractor


@pytest.fixture
def evaluation(faces_folder: Path, extractor: Extractor) -> Evaluation:
    return evaluate(faces_folder, None, extractor)


def test_the_picture_is_a_png_with_something_drawn(evaluation: Evaluation, tmp_path: Path) -> None:
    plot_det(evaluation, tmp_path / "det.png")
    with Image.open(tmp_path / "det.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1200
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert [11, 110, 117] in colours.tolist(), "the curve"


def test_a_missing_matplotlib_says_what_to_install(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SosieError, match=r"pip install 'sosie\[bench\]'"):
        plot_det(evaluation, tmp_path / "det.png")


def test_too_few_pairs_give_no_picture(evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no DET curve"):
        plot_det(replace(evaluation, points=()), tmp_path / "det.png")
    with pytest.raises(RequestError, match=r"can't write det\.png"):
        plot_det(evaluation, tmp_path / "nowhere" / "det.png")
