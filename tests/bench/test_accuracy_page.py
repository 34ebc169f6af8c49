"""Pages of error rates, made of an evaluation; test_docs holds the committed ones to theirs."""

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.core.reports import REPORTS
from bench.docs.pages import (
    LOOKED_AT,
    build_accuracy_page,
    build_model_card,
    describe_generalised,
    describe_looked_at,
)
from engine.errors import RequestError

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def page(images) -> str:
    return build_accuracy_page(REPORTS, images)


def test_every_picture_of_the_page_is_drawn_and_committed(page, images) -> None:
    shown = set(re.findall(r"\(img/([^)]+)\)", page))
    assert shown == {path.name for path in images.iterdir()}
    assert all((DOCS / "img" / name).is_file() for name in shown)


def test_a_figure_that_changes_in_the_report_changes_on_the_page(page, tmp_path) -> None:
    for path in REPORTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    report = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    report["fnmr_at_fmr"]["1e-4"]["fnmr"] = 0.617
    (tmp_path / "evaluation.json").write_text(json.dumps(report), "utf-8")
    assert "| 62 % |" not in page
    assert "| 62 % |" in build_model_card(tmp_path)


def test_a_report_of_a_part_or_none_is_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match=r"cannot read evaluation\.json"):
        build_model_card(tmp_path)
    report = json.loads((REPORTS / "evaluation.json").read_text("utf-8"))
    (tmp_path / "evaluation.json").write_text(json.dumps(report | {"quality_bands": None}), "utf-8")
    with pytest.raises(RequestError, match="lacks quality_bands"):
        build_model_card(tmp_path)


def test_nobody_is_named(page) -> None:
    """LFW's folders are called after people."""
    report = (REPORTS / "evaluation.json").read_text("utf-8")
    for text in (page, report):
        assert not re.search(r"[A-Z][a-z]+_[A-Z][a-z]+(_\d{4})?", text)


def test_sentences_that_hold_for_some_evaluations_are_said_of_these_alone() -> None:
    report = json.loads((REPORTS / "evaluation.json").read_text("utf-8"))
    report["flagged"]["pairs"] = LOOKED_AT
    assert "were looked at, and are" in describe_looked_at(report)
    report["flagged"]["pairs"] += 1
    assert "nobody has looked at all" in describe_looked_at(report)
    assert "the same" in describe_generalised(report | {"fta": 0.0})
    assert "the same" not in describe_generalised(report | {"fta": 0.01})
