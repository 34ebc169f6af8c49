from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.accelerator import measure_batches
from bench.graphs import DEQUANTISED, DEQUANTISED_STEPS, PLAIN, REWRITTEN, compare_graphs
from bench.photographs import PhotographPairs
from engine.faces.extractor import open_extractor
from engine.models.catalog import builtin_card
from engine.models.rewritten import load_rewritten
from engine.models.session import available_providers


@pytest.fixture(scope="module")
def crops(photographs: PhotographPairs, cache: Path) -> np.ndarray:
    with open_extractor(cache) as extractor:
        found = extractor.extract([path.read_bytes() for path in photographs.photographs[:2]])
    return np.stack([one.crop for one in found])


def test_all_three_graphs_compute_the_same_and_stand_side_by_side(
    crops: np.ndarray, cache: Path
) -> None:
    compared = compare_graphs(crops, 1, cache)
    assert compared.difference <= 1e-5
    assert compared.speedup > 0
    singly, batched, differences = compared.results
    for result in (singly, batched):
        assert [figure.name for figure in result.figures] == [DEQUANTISED, PLAIN, REWRITTEN]
        assert result.figures[0].ratio == 1
        assert result.setup["threads"] == 1
    assert all(0 < figure.value <= 1e-5 for figure in differences.figures)


def test_the_plain_form_has_four_operators_for_each_prelu_and_no_other_change(
    crops: np.ndarray, cache: Path
) -> None:
    import onnx

    compare_graphs(crops[:1], 1, cache)
    before = onnx.load_from_string(load_rewritten(builtin_card("sface"), DEQUANTISED_STEPS, cache))
    after = onnx.load(cache / "sface-plain.onnx")
    old, new = (Counter(node.op_type for node in model.graph.node) for model in (before, after))
    prelus = old.pop("PRelu")
    assert new - old == {"Relu": prelus, "Mul": 2 * prelus, "Add": prelus}
    assert not old - new


def test_a_device_that_is_not_there_is_skipped_and_the_cpu_is_not(
    crops: np.ndarray, cache: Path
) -> None:
    result = measure_batches(crops, 1, cache)
    figures = {figure.name: figure for figure in result.figures}
    assert figures["cpu, 4"].value > 0
    if "cuda" not in available_providers():
        assert figures["cuda"].value is None
        assert "no provider cuda" in figures["cuda"].skipped
