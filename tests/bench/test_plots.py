from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.docs.plots import draw_plots
from bench.suites.curves import CurvesConfig, run
from engine.errors import RequestError

TINY = CurvesConfig(references=3_000, smallest=2_000, dim=32, batch=8, near=30, rounds=1)


def test_sizes_end_at_the_references_and_are_round() -> None:
    sizes = CurvesConfig(references=1_000_000).sizes
    assert sizes == (10_000, 32_000, 100_000, 320_000, 1_000_000)


def test_the_curves_are_drawn_from_the_report_of_a_run(
    tmp_path: Path, run_here: Callable[..., tuple[int, str, str]]
) -> None:
    results, measured = run(TINY)
    assert measured == {}
    report = tmp_path / "curves.json"
    report.write_text(json.dumps({"results": [asdict(result) for result in results]}))
    images = tmp_path / "img"
    status, out, err = run_here("plots", "--report", str(report), "--folder", str(images), "--json")
    assert status == 0, out + err
    drawn = [Path(path) for path in json.loads(out)["pictures"]]
    assert drawn == [images / "latency.png", images / "recall.png"]
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "{}", '{"results": []}', '{"results": [3]}'])
def test_a_report_without_curves_is_refused(tmp_path: Path, text: str) -> None:
    report = tmp_path / "report.json"
    report.write_text(text)
    with pytest.raises(RequestError, match="curves --json"):
        draw_plots(report, tmp_path)


def test_a_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read"):
        draw_plots(tmp_path / "none.json", tmp_path)
