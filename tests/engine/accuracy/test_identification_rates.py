""""""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.accuracy.identification_rates import compare_fusion, identify_open_set
from engine.accuracy.pair_scores import Templates, single_templates
from engine.matching.calibration import Comparison


def test_each_further_photograph_lowers_the_fnmr(singles: Templates) -> None:
    gain = compare_fusion(singles, rounds=5)
    assert gain is not None
    assert (gain.people, gain.mated_pairs, gain.nonmated_pairs) == (120, 600, 600 * 119)
    one, fused_to_one, fused = (gain.points[kind][0] for kind in Comparison)
    assert one.fmr == fused.fmr == 1e-3
    assert one.fnmr > fused_to_one.fnmr > fused.fnmr
    assert fused.low <= fused.fnmr <= fused.high


def test_too_few_photographs_give_no_figure(draw_faces: Callable[..., tuple]) -> None:
    assert compare_fusion(single_templates(*draw_faces(30, 3))) is None


def test_fused_references_miss_fewer_probes_at_the_same_fpir(singles: Templates) -> None:
    found = identify_open_set(singles)
    assert found is not None
    assert (found.gallery_size, found.mated_probes, found.nonmated_probes) == (60, 120, 120)
    one, fused = found.single[0], found.fused[0]
    assert one.fpir == fused.fpir == 0.1
    assert fused.fnir < one.fnir
    assert one.low <= one.fnir <= one.high


def test_rates_that_few_strangers_support_are_left_out(singles: Templates) -> None:
    found = identify_open_set(singles)
    assert found is not None
    assert [point.fpir for point in found.single] == [0.1]


def test_people_without_a_third_photograph_can_be_no_mated_probe(
    draw_faces: Callable[..., tuple],
) -> None:
    assert identify_open_set(single_templates(*draw_faces(40, 2))) is None


def test_a_perfect_model_misses_nobody(draw_faces: Callable[..., tuple]) -> None:
    found = identify_open_set(single_templates(*draw_faces(200, 3, noise=0.01, dim=64)))
    assert found is not None
    assert found.single[0].fnir == 0
    assert found.single[0].high > 0


def test_people_absent_from_the_templates_are_neither_enrolled_nor_probed(
    draw_faces: Callable[..., tuple],
) -> None:
    vectors, people = draw_faces(50, 3)
    kept = people % 5 != 0
    found = identify_open_set(single_templates(vectors[kept], people[kept]))
    assert found is not None
    assert found.nonmated_probes == len(np.unique(people[kept])) == 40
