import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.models.catalog import ModelCard, load_card


def tiny_embedder(dimension: int = 8, side: int = 16, batch: int | None = None) -> onnx.ModelProto:
    """A small convolutional network with batch norms and PRelus before dense and depth-wise."""
    rng = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    slopes = np.array([-0.8, 0.0, 0.3, 1.12], dtype=np.float32).reshape(4, 1, 1)
    variance = rng.uniform(0.5, 2, 4).astype(np.float32)
    tensors = [
        weight("w1", 4, 3, 3, 3),
        weight("b1", 4),
        weight("w2", 4, 1, 3, 3),
        weight("w3", 6, 4, 1, 1),
        weight("dense", 6 * (side - 4) ** 2, dimension),
        weight("gain", 4),
        weight("offset", 4),
        weight("mean", 4),
        numpy_helper.from_array(variance, "variance"),
        numpy_helper.from_array(slopes, "slope1"),
        numpy_helper.from_array(slopes[::-1].copy(), "slope2"),
        numpy_helper.from_array(np.float32([[[0.25]]] * 6), "slope3"),
    ]
    norm = ["gain", "offset", "mean", "variance"]
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], kernel_shape=[3, 3]),
        helper.make_node("BatchNormalization", ["c1", *norm], ["n1"], epsilon=1e-3),
        helper.make_node("PRelu", ["n1", "slope1"], ["p1"]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], kernel_shape=[3, 3], group=4),
        helper.make_node("BatchNormalization", ["c2", *norm], ["n2"]),
        helper.make_node("PRelu", ["n2", "slope2"], ["p2"]),
        helper.make_node("Conv", ["p2", "w3"], ["c3"], kernel_shape=[1, 1]),
        helper.make_node("PRelu", ["c3", "slope3"], ["p3"]),
        helper.make_node("Flatten", ["p3"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["vector"]),
    ]
    size = "n" if batch is None else batch
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [size, 3, side, side])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, [size, dimension])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


CARD = """
name = "tiny"
role = "embedder"
source = "made by a test"
licence = "none"
sha256 = "{sha256}"
dimension = {dimension}
alignment = "arcface"
[file]
path = "tiny.onnx"
[input]
width_px = {side}
height_px = {side}
channels = "bgr"
mean = [127.5, 127.5, 127.5]
scale = [0.0078125, 0.0078125, 0.0078125]
"""

MakeCard = Callable[..., ModelCard]


@pytest.fixture
def make_tiny() -> Callable[..., onnx.ModelProto]:
    return tiny_embedder


@pytest.fixture
def tiny_model() -> onnx.ModelProto:
    return tiny_embedder()


@pytest.fixture
def make_card(tmp_path) -> MakeCard:
    """Write a model and a card of one's own beside it."""

    def make(
        model: onnx.ModelProto | None = None, dimension: int = 8, side: int = 16, extra: str = ""
    ) -> ModelCard:
        data = (model or tiny_embedder(dimension, side)).SerializeToString()
        (tmp_path / "tiny.onnx").write_bytes(data)
        text = CARD.format(sha256=hashlib.sha256(data).hexdigest(), dimension=dimension, side=side)
        path = tmp_path / "tiny.toml"
        path.write_text(extra + text)
        return load_card(path)

    return make
