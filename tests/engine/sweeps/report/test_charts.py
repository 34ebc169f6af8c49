"""Charts: what they count, where they draw it, and that the result is always the same."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.matching.calibration import Rate
from engine.sweeps.report.charts import count_scores, draw_chance, draw_scores, draw_timeline
from engine.sweeps.report.views import MOST_EDGES, MOST_NODES, draw_group
from engine.sweeps.risk import fill_weeks, summarise
from schema.sweeps import Link


def marks(drawing: str, class_name: str) -> list[ElementTree.Element]:
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
    drawing = draw_scores(counted)
    assert marks(drawing, "unknown")
    assert "at most 2,000 strangers" in drawing


def test_a_bound_is_drawn_open_and_an_interval_filled() -> None:
    interval = draw_chance(Rate(10.0, 5.0, 20.0), 1000)
    bound = draw_chance(Rate(20.0, 0.0, 20.0, is_bound=True), 0)
    assert marks(interval, "band")
    assert marks(interval, "expected")
    assert marks(bound, "bound")
    assert not marks(bound, "expected")


@given(st.floats(0, 1e12), st.integers(0, 10**9))
def test_expectation_and_finding_lie_within_the_drawing(expected: float, found: int) -> None:
    drawing = draw_chance(Rate(expected, expected / 3, expected * 3), found)
    (band,) = marks(drawing, "band")
    left, width = float(band.get("x", "")), float(band.get("width", ""))
    assert 0 <= left <= left + width <= 960
    (diamond,) = marks(drawing, "found")
    assert all(0 <= float(pair.split(",")[0]) <= 960 for pair in diamond.get("points", "").split())


def test_the_busiest_week_is_named(make_group) -> None:
    weeks = fill_weeks(summarise([make_group(size=9)]).weeks, 104)
    drawing = draw_timeline(weeks)
    (peak,) = marks(drawing, "peak")
    assert "Week of 2024-03-04: 14 lines" in ElementTree.tostring(peak, encoding="unicode")
    assert len(marks(drawing, "bar")) == len(weeks) == 2


@pytest.mark.parametrize("count", [2, 3, 8, MOST_NODES])
def test_nodes_are_apart_and_within_the_drawing(make_group, count: int) -> None:
    nodes = marks(draw_group(make_group(size=count)), "node")
    places = np.array([[float(one.get(axis, "")) for axis in ("cx", "cy")] for one in nodes])
    radii = np.array([float(one.get("r", "")) for one in nodes])
    assert len(places) == count
    assert (places - radii[:, None] >= 0).all()
    assert (places + radii[:, None] <= (360, 260)).all()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    assert apart[~np.eye(count, dtype=bool)].min() > 20


def test_the_weakest_link_is_dashed_and_scored(make_group) -> None:
    drawing = draw_group(make_group(size=4))
    assert len(marks(drawing, "edge")) == 3
    assert len(marks(drawing, "weakest")) == 1
    assert [one.text for one in marks(drawing, "weakest-score")] == ["0.880"]
    assert [one.text for one in marks(drawing, "node-name")] == ["A", "B", "C", "D"]


def test_a_great_group_is_drawn_in_part_and_keeps_together(make_group) -> None:
    group = make_group(size=40)
    names = [one.document_id for one in group.identities]
    every = tuple(Link(a, b, 0.6) for n, a in enumerate(names) for b in names[n + 1 :])
    drawing = draw_group(replace(group, links=(*group.links, *every)))
    assert len(marks(drawing, "node")) == MOST_NODES
    assert len(marks(drawing, "edge")) == MOST_EDGES


def test_a_dispute_is_ringed(make_group) -> None:
    group = make_group(size=2)
    disputed = replace(group.identities[0], disputes=1)
    assert not marks(draw_group(group), "dispute")
    assert (
        len(
            marks(draw_group(replace(group, identities=(disputed, group.identities[1]))), "dispute")
        )
        == 1
    )
