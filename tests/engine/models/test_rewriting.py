"""Each rewriting computes the same function."""

from collections import Counter

import numpy as np
import onnx
import pytest
from msgspec import structs
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from engine.errors import ModelDamaged
from engine.models import rewriting
from engine.models.catalog import DEFAULT_STEPS, Step, builtin_card, locate
from engine.models.onnx_sessions import SessionOptions, open_session
from indexes.runtime import import_runtime

Array = NDArray[np.float32]


def run(model: onnx.ModelProto, image: Array) -> list[Array]:
    onnxruntime = import_runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {session.get_inputs()[0].name: image}))


def rewritten(name: str, *steps: Step) -> onnx.ModelProto:
    """A built-in model after these steps."""
    data = locate(builtin_card(name)).read_bytes()
    return onnx.load_from_string(rewriting.rewrite(data, steps))


def count(model: onnx.ModelProto) -> Counter[str]:
    """Operators by name, those inside of a Scan included."""
    counted: Counter[str] = Counter()
    graphs = [model.graph]
    while graphs:
        for node in graphs.pop().node:
            counted[node.op_type] += 1
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return counted


@pytest.fixture
def image() -> Array:
    return np.random.default_rng(0).normal(0, 1, (3, 3, 16, 16)).astype(np.float32)


def test_folded_batch_norms_compute_the_same(tiny_model, image) -> None:
    folded = rewriting.apply(tiny_model, [Step.FOLD_BATCH_NORMS])
    assert count(folded)["BatchNormalization"] == 0
    np.testing.assert_allclose(run(folded, image)[0], run(tiny_model, image)[0], atol=2e-5)


@pytest.mark.parametrize("output", ["extra", "c1"])
def test_batch_norm_whose_conv_is_also_an_output_or_read_by_another_is_left_alone(
    tiny_model, image, output: str
) -> None:
    tiny_model.graph.output.append(
        helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 4, 14, 14])
    )
    if output == "extra":
        tiny_model.graph.node.append(helper.make_node("Relu", ["c1"], ["extra"]))
    folded = rewriting.apply(tiny_model, [Step.FOLD_BATCH_NORMS])
    assert count(folded)["BatchNormalization"] == 1
    for found, wanted in zip(run(folded, image), run(tiny_model, image), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("slope", [1.0, 1.0 + 1e-8, -1.0, 0.0, 1.12])
def test_expanded_prelu_is_right_for_every_slope(tiny_model, image, slope: float) -> None:
    for tensor in tiny_model.graph.initializer:
        if tensor.name.startswith("slope"):
            shape = numpy_helper.to_array(tensor).shape
            filled = np.full(shape, slope, dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
    expanded = rewriting.apply(tiny_model, [Step.EXPAND_PRELU])
    np.testing.assert_allclose(run(expanded, image)[0], run(tiny_model, image)[0], atol=2e-5)


def test_freed_batch_takes_any_number_of_images(make_tiny, image) -> None:
    fixed = make_tiny(batch=1)
    with pytest.raises(Exception, match="invalid dimensions"):
        run(fixed, image)
    freed = run(rewriting.apply(fixed, [Step.FREE_BATCH]), image)[0]
    one_by_one = np.concatenate([run(fixed, image[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(freed, one_by_one, atol=1e-5)


def test_float16_is_close_and_keeps_float32_at_both_ends(tiny_model, image) -> None:
    half = rewriting.apply(tiny_model, [Step.FLOAT16])
    types = {tensor.data_type for tensor in half.graph.initializer}
    assert types == {TensorProto.FLOAT16}
    found, wanted = run(half, image)[0], run(tiny_model, image)[0]
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("axis", "block", "shape", "scales"),
    [(0, 4, (10, 3), (3, 3)), (1, 4, (3, 10), (3, 3)), (1, 0, (3, 5), (5,)), (0, 0, (7,), (1,))],
)
def test_folded_weights_are_what_the_standard_says(
    axis: int, block: int, shape: tuple[int, ...], scales: tuple[int, ...]
) -> None:
    """Against onnx's own reference implementation."""
    rng = np.random.default_rng(3)
    attributes = {"axis": axis} | ({"block_size": block} if block else {})
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], **attributes),
        helper.make_node("Reshape", ["w", "flat"], ["r"]),
        helper.make_node("Mul", ["x", "r"], ["y"]),
    ]
    # As exporters of old write them: every initializer is also declared as an input.
    initializers = [
        numpy_helper.from_array(rng.integers(-128, 128, shape).astype(np.int8), "q"),
        numpy_helper.from_array(rng.uniform(0.1, 1, scales).astype(np.float32), "s"),
        numpy_helper.from_array(rng.integers(-9, 9, scales).astype(np.int8), "z"),
        numpy_helper.from_array(np.int64([-1]), "flat"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])]
    inputs += [
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in initializers
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    made = helper.make_graph(nodes, "quantised", inputs, [output], initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)])
    folded = rewriting.apply(model, [Step.FOLD_WEIGHTS])
    assert count(folded) == {"Mul": 1}
    assert [value.name for value in folded.graph.input] == ["x"]
    assert [tensor.name for tensor in folded.graph.initializer] == ["r"]
    x = rng.normal(size=int(np.prod(shape))).astype(np.float32)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    (found,) = ReferenceEvaluator(folded).run(None, {"x": x})
    np.testing.assert_array_equal(found, wanted)


def test_the_same_model_and_steps_give_the_same_bytes(tiny_model) -> None:
    data = tiny_model.SerializeToString()
    assert rewriting.rewrite(data, DEFAULT_STEPS) == rewriting.rewrite(data, DEFAULT_STEPS)


def test_what_is_not_an_onnx_graph_is_damaged() -> None:
    with pytest.raises(ModelDamaged, match="not an ONNX graph"):
        rewriting.rewrite(b"\xff\xfe nonsense" * 10, DEFAULT_STEPS)


def test_rewritten_sface_equals_the_dequantised_one_to_1e_5(tmp_path) -> None:
    card = builtin_card("sface")
    plain = structs.replace(card, rewriting=(Step.FOLD_WEIGHTS, Step.FREE_BATCH))
    options = SessionOptions(provider="cpu")
    faces = np.random.default_rng(0).uniform(0, 255, (4, 3, 112, 112)).astype(np.float32)
    (found,) = open_session(card, options).run(faces)
    (wanted,) = open_session(plain, options).run(faces)
    assert np.abs(wanted).max() > 0.5
    assert np.abs(found - wanted).max() < 1e-5


def test_float16_sface_points_in_the_same_direction(tmp_path) -> None:
    steps = (Step.FOLD_WEIGHTS, Step.FREE_BATCH)
    faces = np.random.default_rng(0).uniform(0, 255, (2, 3, 112, 112)).astype(np.float32)
    half, full = rewritten("sface", *steps, Step.FLOAT16), rewritten("sface", *steps)
    found, wanted = run(half, faces)[0], run(full, faces)[0]
    assert np.abs(found - wanted).max() < 1e-2 * np.abs(wanted).max()


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_scanned_graph_computes_the_same_for_any_batch(tiny_model, batch: int) -> None:
    image = np.random.default_rng(batch).normal(0, 1, (batch, 3, 16, 16)).astype(np.float32)
    scanned = rewriting.apply(tiny_model, [Step.SCAN_BATCH])
    assert [node.op_type for node in scanned.graph.node] == ["Scan", "MatMul"]
    np.testing.assert_allclose(run(scanned, image)[0], run(tiny_model, image)[0], atol=1e-5)


def test_the_dense_weights_of_sface_stay_outside_of_the_scan() -> None:
    model = rewritten("sface", Step.FOLD_WEIGHTS, Step.FREE_BATCH)
    scanned = rewriting.apply(model, [Step.SCAN_BATCH])
    operators = [node.op_type for node in scanned.graph.node]
    assert operators == ["Scan", "Gemm", "BatchNormalization"]
    assert max(np.prod(tensor.dims) for tensor in scanned.graph.initializer) == 128 * 50176
    body = scanned.graph.node[0].attribute[0].g
    assert max(np.prod(tensor.dims) for tensor in body.initializer) <= 1024 * 1024


def test_a_fixed_batch_is_left_alone() -> None:
    model = dense_model(batch=4, is_transposed=False)
    assert rewriting.apply(model, [Step.SCAN_BATCH]) == model


def test_a_transposed_dense_layer_keeps_its_width() -> None:
    model = dense_model(batch="n", is_transposed=True)
    image = np.random.default_rng(0).normal(0, 1, (3, 2, 3)).astype(np.float32)
    scanned = rewriting.apply(model, [Step.SCAN_BATCH])
    assert scanned.graph.node[0].op_type == "Scan"
    np.testing.assert_allclose(run(scanned, image)[0], run(model, image)[0], atol=1e-6)


def test_a_trunk_that_is_read_beside_the_dense_layer_is_left_alone() -> None:
    model = dense_model(batch="n", is_transposed=False)
    model.graph.output.append(helper.make_tensor_value_info("bent", TensorProto.FLOAT, None))
    assert rewriting.apply(model, [Step.SCAN_BATCH]) == model


def test_a_graph_without_a_dense_layer_is_left_alone() -> None:
    model = rewritten("yunet", Step.FOLD_WEIGHTS, Step.FREE_BATCH, Step.FREE_SIZE)
    assert rewriting.apply(model, [Step.SCAN_BATCH]) == model


def dense_model(batch: int | str, is_transposed: bool) -> onnx.ModelProto:
    """relu, flatten, one dense layer from 6 to 4."""
    weight = np.random.default_rng(1).normal(0, 1, (4, 6) if is_transposed else (6, 4))
    nodes = [
        helper.make_node("Relu", ["image"], ["bent"]),
        helper.make_node("Flatten", ["bent"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["vector"], transB=int(is_transposed)),
    ]
    made = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 2, 3])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(weight.astype(np.float32), "weight")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
