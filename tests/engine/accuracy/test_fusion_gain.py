"""The FNMR with one and with two photographs on either side."""

from collections.abc import Callable

from engine.accuracy.evaluate import compare_fusion
from engine.accuracy.pair_scores import single_templates
from schema.decisions import Comparison


def test_each_further_photograph_lowers_the_fnmr(singles) -> None:
    gain = compare_fusion(singles, rounds=5)
    assert gain is not None
    assert (gain.people, gain.mated_pairs, gain.nonmated_pairs) == (120, 600, 600 * 119)
    one, fused_to_one, fused = (gain.points[kind][0] for kind in Comparison)
    assert one.fmr == fused.fmr == 1e-3
    assert one.fnmr > fused_to_one.fnmr > fused.fnmr
    assert fused.low <= fused.fnmr <= fused.high


def test_too_few_photographs_give_no_figure(draw_faces: Callable[..., tuple]) -> None:
    assert compare_fusion(single_templates(*draw_faces(30, 3))) is None
