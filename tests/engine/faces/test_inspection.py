"""An embedder is tried before its card is written."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import ModelCardInvalid, ModelDamaged
from engine.faces.inspection import (
    Examined,
    describe_file,
    examine,
    guess_contract,
    known_contracts,
    make_crops,
    read_graph,
)
from engine.models.catalog import InputContract

SIDE = 16
RGB = InputContract(channels="rgb", width_px=SIDE, height_px=SIDE, scale=(0.01, 0.01, 0.01))


def make(
    before: list[onnx.NodeProto], after: list[onnx.NodeProto], batch: str | int = "n"
) -> onnx.ModelProto:
    """A dense layer from `before` to `dense_out`, and what makes `vector` of that."""
    weights = np.random.default_rng(3).normal(size=(3 * SIDE * SIDE, 8)).astype(np.float32)
    constants = {
        "dense": weights,
        "zero": np.float32([0]),
        "half": np.float32([0.5]),
        "ones": np.ones(8, np.float32),
        "one_row": np.int64([1, 8]),
    }
    graph = helper.make_graph(
        [
            *before,
            helper.make_node("Flatten", ["shown"], ["flat"]),
            helper.make_node("MatMul", ["flat", "dense"], ["dense_out"]),
            *after,
        ],
        "made",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def node(kind: str, *names: str, **settings: object) -> onnx.NodeProto:
    return helper.make_node(kind, list(names[:-1]), [names[-1]], **settings)


SHOWN = [node("Identity", "image", "shown")]
HIDDEN = [node("Mul", "image", "zero", "shown")]
PLAIN = [node("Identity", "dense_out", "vector")]
CENTRED = [
    node("ReduceMean", "dense_out", "mean", axes=[0], keepdims=1),
    node("Mul", "mean", "half", "part"),
    node("Sub", "dense_out", "part", "vector"),
]


def try_out(model: onnx.ModelProto, folder: Path) -> Examined:
    path = folder / "made.onnx"
    path.write_bytes(model.SerializeToString())
    shape, sha256 = read_graph(path)
    assert (shape.side_px, shape.layout) == (SIDE, "nchw")
    return examine(describe_file(path, sha256, RGB, shape.dimension, "made"), make_crops(SIDE))


def test_a_sound_embedder_is_described_by_what_it_gives(tmp_path) -> None:
    found = try_out(make(SHOWN, PLAIN), tmp_path)
    assert found.card.dimension == 8
    assert found.card.rewriting
    assert found.alone_ms > 0


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (HIDDEN, PLAIN, "gives zeros"),
        (HIDDEN, [node("Add", "dense_out", "ones", "vector")], "one vector for all faces"),
        ([node("Div", "image", "zero", "shown")], PLAIN, "not finite"),
        (SHOWN, CENTRED, "changes with the faces beside it"),
    ],
)
def test_an_embedder_that_is_none_is_refused_with_what_is_wrong(
    before: list[onnx.NodeProto], after: list[onnx.NodeProto], fault: str, tmp_path
) -> None:
    with pytest.raises(ModelCardInvalid, match=fault):
        try_out(make(before, after), tmp_path)


def test_a_graph_that_has_its_batch_in_its_nodes_is_run_face_by_face(tmp_path) -> None:
    found = try_out(make(SHOWN, [node("Reshape", "dense_out", "one_row", "vector")], 1), tmp_path)
    assert found.session.fixed_batch == 1


def test_what_is_no_embedder_is_refused_before_it_runs(tmp_path) -> None:
    path = tmp_path / "made.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ModelDamaged, match="no ONNX file"):
        read_graph(path)
    model = make(SHOWN, PLAIN)
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelCardInvalid, match="weights in another file"):
        read_graph(path)
    model = make(SHOWN, PLAIN)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelCardInvalid, match="three channels"):
        read_graph(path)


def test_a_file_s_digest_tells_the_family_else_its_name_where_the_dimension_agrees() -> None:
    (auraface,) = known_contracts()["auraface"].sha256
    assert guess_contract("glintr100.onnx", 512, auraface) == "auraface"
    assert guess_contract("glintr100.onnx", 512, "0" * 64) == "arcface-r100"
    assert guess_contract("adaface_ir101_webface12m.onnx", 0) == "adaface"
    assert guess_contract("w600k_r50.onnx", 128) is None
    assert guess_contract("mine.onnx", 512) is None
    assert all(one.licence and one.source for one in known_contracts().values())
