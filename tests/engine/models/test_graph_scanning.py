from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine.models import graph
from engine.models.catalog import Step, builtin_card, locate
from engine.models.graph import scan_batch


def run(model: onnx.ModelProto, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {model.graph.input[0].name: image}))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_scanned_graph_computes_the_same_for_any_batch(
    tiny_model: onnx.ModelProto, batch: int
) -> None:
    image = np.random.default_rng(batch).normal(0, 1, (batch, 3, 16, 16)).astype(np.float32)
    scanned = scan_batch(tiny_model)
    assert [node.op_type for node in scanned.graph.node] == ["Scan", "MatMul"]
    np.testing.assert_allclose(run(scanned, image)[0], run(tiny_model, image)[0], atol=1e-5)


def test_the_dense_weights_of_sface_stay_outside_of_the_scan() -> None:
    steps = (Step.FOLD_WEIGHTS, Step.FREE_BATCH)
    model = onnx.load_from_string(graph.rewrite(locate(builtin_card("sface")).read_bytes(), steps))
    scanned = scan_batch(model)
    operators = [node.op_type for node in scanned.graph.node]
    assert operators == ["Scan", "Gemm", "BatchNormalization"]
    assert max(np.prod(tensor.dims) for tensor in scanned.graph.initializer) == 128 * 50176
    body = scanned.graph.node[0].attribute[0].g
    assert max(np.prod(tensor.dims) for tensor in body.initializer) <= 1024 * 1024


def test_a_fixed_batch_is_left_alone() -> None:
    assert scan_batch(dense_model(batch=4, turned=False)) == dense_model(batch=4, turned=False)


def test_a_transposed_dense_layer_keeps_its_width() -> None:
    model = dense_model(batch="n", turned=True)
    image = np.random.default_rng(0).normal(0, 1, (3, 2, 3)).astype(np.float32)
    scanned = scan_batch(model)
    assert scanned.graph.node[0].op_type == "Scan"
    np.testing.assert_allclose(run(scanned, image)[0], run(model, image)[0], atol=1e-6)


def test_a_trunk_that_is_read_beside_the_dense_layer_is_left_alone() -> None:
    model = dense_model(batch="n", turned=False)
    model.graph.output.append(helper.make_tensor_value_info("bent", TensorProto.FLOAT, None))
    assert scan_batch(model) == model


def test_a_graph_without_a_dense_layer_is_left_alone() -> None:
    steps = (Step.FOLD_WEIGHTS, Step.FREE_BATCH, Step.FREE_SIZE)
    model = onnx.load_from_string(graph.rewrite(locate(builtin_card("yunet")).read_bytes(), steps))
    assert scan_batch(model) == model


def dense_model(batch: int | str, turned: bool) -> onnx.ModelProto:
    """relu, flatten, one dense layer from 6 to 4."""
    weight = np.random.default_rng(1).normal(0, 1, (4, 6) if turned else (6, 4))
    nodes = [
        helper.make_node("Relu", ["image"], ["bent"]),
        helper.make_node("Flatten", ["bent"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["vector"], transB=int(turned)),
    ]
    made = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 2, 3])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(weight.astype(np.float32), "weight")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
