"""Pages of error rates, made of an evaluation; test_docs holds the committed ones to theirs."""

import json
import re
import shutil

import pytest

from bench.core.reports import REPORTS
from bench.docs.pages import build_accuracy_page, build_model_card
from engine.errors import RequestError


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return build_accuracy_page(REPORTS, tmp_path_factory.mktemp("images"))


def test_a_figure_that_changes_in_the_report_changes_on_the_page(page, tmp_path) -> None:
    for path in REPORTS.glob("*.json"):
        shutil.copy(path, tmp_path)
    report = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    report["fnmr_at_fmr"]["1e-4"]["fnmr"] = 0.617
    (tmp_path / "evaluation.json").write_text(json.dumps(report), "utf-8")
    assert "| 62 % |" not in page
    assert "| 62 % |" in build_model_card(tmp_path)


def test_one_photograph_against_one_has_one_figure_at_a_rate(page) -> None:
    [rate], [gallery] = (
        re.findall(rf"^\| {one} \|.*", page, re.M)[:1] for one in ("1e-5", "10,000")
    )
    score, fnmr, interval = (cell.strip() for cell in rate.split("|")[2:5])
    assert f"| {score} | {fnmr} ({interval}) |" in gallery
    assert "FNMR 2.5 % over" in page


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
