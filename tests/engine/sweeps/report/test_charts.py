"""Charts: what they count and say, where a graph has its nodes, and that it is always the same."""

import base64
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from engine.matching.calibration import Rate
from engine.sweeps.report.page import render_report
from engine.sweeps.report.views import (
    MOST_EDGES,
    MOST_NODES,
    count_scores,
    draw_chance,
    draw_scores,
    draw_timeline,
)
from engine.sweeps.risk import fill_weeks, summarise
from schema.sweeps import Link


def read_texts(drawing: str) -> str:
    """All texts of the SVG within an image."""
    (source,) = re.findall('^<img src="data:image/svg.xml;base64,([^"]+)" alt="[^"]+">$', drawing)
    return " ".join(ElementTree.fromstring(base64.b64decode(source)).itertext())


def marks(page: str, class_name: str) -> list[ElementTree.Element]:
    """Of the graph of the page's one group."""
    (drawing,) = re.findall('<svg class="network".*?</svg>', page, re.DOTALL)
    root = ElementTree.fromstring(drawing)
    return [one for one in root.iter() if class_name in one.get("class", "").split()]


def test_every_pair_is_in_one_bar(curve) -> None:
    scores = np.array([0.4999999, 0.5, 0.5049, 0.515, 0.999, 1.0, 1.0000001], np.float32)
    counted = count_scores(scores, 0.5, 100, curve)
    assert counted.found.sum() == len(scores)
    assert not counted.found[: counted.below].any()
    assert counted.found[counted.below :][:2].tolist() == [3, 1]
    assert counted.found[-1] == 3


def test_strangers_of_all_bins_are_those_that_the_calibration_expects(curve) -> None:
    counted = count_scores(np.empty(0, np.float32), 0.405, 10**9, curve)
    is_known = ~np.isnan(counted.strangers[:, 0])
    known = counted.strangers[is_known]
    first, last = counted.edges[:-1][is_known][0], counted.edges[1:][is_known][-1]
    assert last == pytest.approx(0.595)
    expected = 10**9 * (curve.fmr_at(first).value - curve.fmr_at(last).value)
    assert known[:, 0].sum() == pytest.approx(expected, rel=1e-6)
    assert (known[:, 1] <= known[:, 0]).all()
    assert (known[:, 0] <= known[:, 2]).all()


def test_beyond_the_calibration_strangers_are_bounded_and_not_counted(curve) -> None:
    counted = count_scores(np.empty(0, np.float32), 0.405, 10**9, curve)
    assert counted.ends_at == 0.6
    assert np.isnan(counted.strangers[counted.edges[1:] > 0.6]).all()
    assert counted.bound == pytest.approx(10**9 * 2e-6)
    texts = read_texts(draw_scores(counted))
    assert "beyond the calibration: at most 2,000 strangers in all" in texts
    assert "threshold 0.405" in texts


def test_a_picture_is_told_in_words() -> None:
    drawing = draw_chance(Rate(10.0, 5.0, 20.0), 1000)
    assert 'alt="Expected by chance: 10 (5 to 20) pairs. Found: 1,000 pairs."' in drawing
    texts = read_texts(drawing)
    assert "10 (5 to 20)" in texts
    assert "at most 20" in read_texts(draw_chance(Rate(20.0, 0.0, 20.0, is_bound=True), 0))


@pytest.mark.parametrize("expected", [0.0, 1e-9, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("found", [0, 1, 10**9])
def test_any_expectation_and_finding_are_drawn(expected: float, found: int) -> None:
    rate = Rate(expected, expected / 3, expected * 3)
    assert f"{found:,}" in read_texts(draw_chance(rate, found))


def test_the_busiest_week_is_named(make_group) -> None:
    weeks = fill_weeks(summarise([make_group(size=9)]).weeks, 104)
    drawing = draw_timeline(weeks)
    assert "2024-03-04 to 2024-03-11; most in the week of 2024-03-04: 14." in drawing
    assert "week of 2024-03-04: 14" in read_texts(drawing)


def test_another_process_draws_the_same_bytes() -> None:
    script = (
        "from engine.matching.calibration import Rate\n"
        "from engine.sweeps.report.views import draw_chance\n"
        "print(draw_chance(Rate(10.0, 5.0, 20.0), 1000))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.rstrip("\n") == draw_chance(Rate(10.0, 5.0, 20.0), 1000)


@pytest.mark.parametrize("count", [2, 3, 8, MOST_NODES])
def test_nodes_are_apart_and_within_the_drawing(make_contents, make_group, count: int) -> None:
    nodes = marks(render_report(make_contents(make_group(size=count))), "node")
    places = np.array([[float(one.get(axis, "")) for axis in ("cx", "cy")] for one in nodes])
    radii = np.array([float(one.get("r", "")) for one in nodes])
    assert len(places) == count
    assert (places - radii[:, None] >= 0).all()
    assert (places + radii[:, None] <= (360, 260)).all()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert apart[~np.eye(count, dtype=bool)].min() > 20


def test_the_weakest_link_is_dashed_and_scored(make_contents, make_group) -> None:
    drawing = render_report(make_contents(make_group(size=4)))
    assert len(marks(drawing, "edge")) == 3
    assert len(marks(drawing, "weakest")) == 1
    assert [one.text for one in marks(drawing, "weakest-score")] == ["0.880"]
    assert [one.text for one in marks(drawing, "node-name")] == ["A", "B", "C", "D"]


def test_a_great_group_is_drawn_in_part_and_keeps_together(make_contents, make_group) -> None:
    group = make_group(size=40)
    names = [one.document_id for one in group.identities]
    every = tuple(Link(a, b, 0.6) for n, a in enumerate(names) for b in names[n + 1 :])
    drawing = render_report(make_contents(replace(group, links=(*group.links, *every))))
    assert len(marks(drawing, "node")) == MOST_NODES
    assert len(marks(drawing, "edge")) == MOST_EDGES


def test_a_dispute_is_ringed(make_contents, make_group) -> None:
    group = make_group(size=2)
    disputed = replace(group.identities[0], disputes=1)
    plain, ringed = (
        marks(render_report(make_contents(one)), "dispute")
        for one in (group, replace(group, identities=(disputed, group.identities[1])))
    )
    assert (len(plain), len(ringed)) == (0, 1)
