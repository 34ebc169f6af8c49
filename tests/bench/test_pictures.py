"""Committed pictures are of the committed reports: each carries their digest."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.core.reports import REPORTS
from bench.docs.figures import digest_reports, read_stamp, stamp
from bench.docs.pages import ROOT, list_sources

IMAGES = ROOT / "docs" / "img"


def list_shown(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(r"\(img/([^)]+\.png)\)", text)


@pytest.mark.parametrize("picture", list_shown("performance.md"))
def test_a_picture_of_performance_is_drawn_from_the_committed_reports(picture: str) -> None:
    assert read_stamp(IMAGES / picture) == digest_reports(list_sources(REPORTS, picture))


@pytest.mark.parametrize("picture", list_shown("accuracy.md"))
def test_a_picture_of_accuracy_is_drawn_from_the_committed_evaluation(picture: str) -> None:
    assert read_stamp(IMAGES / picture) == digest_reports([REPORTS / "evaluation.json"])


def test_a_stamp_follows_the_reports_and_leaves_the_pixels_alone(tmp_path: Path) -> None:
    picture, report = tmp_path / "one.png", tmp_path / "one.json"
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    assert read_stamp(picture) is None
    report.write_text("{}", "utf-8")
    stamp(picture, [report])
    assert read_stamp(picture) == digest_reports([report])
    with Image.open(picture) as image:
        assert np.array_equal(np.asarray(image), pixels)
    report.write_text("[]", "utf-8")
    assert read_stamp(picture) != digest_reports([report])
