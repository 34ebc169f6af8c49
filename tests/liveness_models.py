"""Small real models for a judge of liveness: what they call live is a bright face."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 32
USUAL = 'index = 1\nactivation = "softmax"'


def write_judge(
    folder: Path,
    *,
    half: float = 0.5,
    steep: float = 12.0,
    limits: str = "live = 0.8\nspoof = 0.2",
    contract: str = "",
    batch: int | str = "n",
    infinite: bool = False,
    rows: Sequence[int] = (),
) -> Path:
    """The card of a model whose score is sigmoid(`steep` * (mean brightness - `half`)).

    Its one output has two numbers: not live first, then live, as many detectors have it; with
    `rows` it has those of these faces alone, whatever the batch.
    """
    folder.mkdir(exist_ok=True)
    weights = np.float32([[-steep / 2, steep / 2]])
    offset = np.float32([steep / 2 * half, -steep / 2 * half]) / (0 if infinite else 1)
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["channels"]),
        helper.make_node("ReduceMean", ["channels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("MatMul", ["column", "weights"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["of_each" if rows else "both"]),
    ]
    if rows:
        nodes += [
            helper.make_node("Concat", ["of_each", "of_each"], ["repeated"], axis=0),
            helper.make_node("Gather", ["repeated", "rows"], ["both"]),
        ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 3, SIDE_PX, SIDE_PX])],
        [helper.make_tensor_value_info("both", TensorProto.FLOAT, [len(rows) or batch, 2])],
        [
            numpy_helper.from_array(np.int64([1]), "last"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(offset, "offset"),
            *([numpy_helper.from_array(np.int64(rows), "rows")] if rows else []),
        ],
    )
    return write_card(
        folder / "judge.toml", "liveness", SIDE_PX, graph, f"{limits}\n{contract or USUAL}"
    )


def write_card(path: Path, role: str, side_px: int, graph: onnx.GraphProto, terms: str) -> Path:
    """Writes a model of RGB pictures, and beside it the card with the terms of its role."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    path.with_suffix(".onnx").write_bytes(data)
    path.write_text(
        f"""name = "{graph.name}"
role = "{role}"
source = "a test"
licence = "Apache-2.0"
sha256 = "{hashlib.sha256(data).hexdigest()}"

[file]
path = "{path.stem}.onnx"

[input]
width_px = {side_px}
height_px = {side_px}
channels = "rgb"
scale = [0.00392156862745098, 0.00392156862745098, 0.00392156862745098]

[{role}]
{terms}
"""
    )
    return path
