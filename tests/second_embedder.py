"""A second embedder, made on the spot: SFace, its vectors projected onto fewer directions."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from engine.models.catalog import builtin_card, read_model

DIMENSION = 96


@cache
def _project() -> bytes:
    model = onnx.load_from_string(read_model(builtin_card("sface")))
    graph = model.graph
    (output,) = graph.output
    axes, _ = np.linalg.qr(np.random.default_rng(11).normal(size=(128, 128)))
    graph.initializer.append(
        numpy_helper.from_array(axes[:, :DIMENSION].astype(np.float32), "axes")
    )
    graph.node.append(onnx.helper.make_node("MatMul", [output.name, "axes"], ["projected"]))
    graph.output.remove(output)
    vector = onnx.helper.make_tensor_value_info("projected", onnx.TensorProto.FLOAT, [1, DIMENSION])
    graph.output.append(vector)
    return bytes(model.SerializeToString())


def write_embedder(path: Path) -> Path:
    """Writes the ONNX file, which has SFace's input contract and vectors float32[n, DIMENSION]."""
    path.write_bytes(_project())
    return path
