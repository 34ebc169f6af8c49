"""A rewriting for CPUs: the convolutions face by face, the dense layer for the whole batch.

A batch of feature maps does not fit the caches of a core, one face's nearly does; the weights of
a large dense layer are read from memory once for each call, so they want a batch. `Scan` gives
each its own way in one graph: 9.5 ms a face became 8.3 in batches of 8 with SFace, one thread.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_AXIS = "scan_axis"
_ROW, _ROW_AS_BATCH, _ROW_FEATURES = "scan_row", "scan_row_batch", "scan_row_features"


def scan_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put all that comes before the last dense layer into a Scan over the batch.

    A graph whose batch is not free, or that does not end in one dense layer on one input's
    features, comes back as it is.
    """
    graph = model.graph
    head = _find_head(graph)
    if head is None or len(graph.input) != 1 or not _has_free_batch(graph.input[0]):
        return model
    features, width = head
    trunk, rest = _split(graph.node, features)
    inside = {name for node in trunk for name in node.output} - {features}
    leaking = {name for node in rest for name in node.input} | {one.name for one in graph.output}
    if not trunk or inside & leaking or graph.input[0].name in leaking:
        return model
    image = graph.input[0].name
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", [_ROW, _AXIS], [_ROW_AS_BATCH]),
            *_renamed(trunk, {image: _ROW_AS_BATCH}),
            helper.make_node("Squeeze", [features, _AXIS], [_ROW_FEATURES]),
        ],
        "one_face",
        [helper.make_tensor_value_info(_ROW, TensorProto.FLOAT, _row_shape(graph.input[0]))],
        [helper.make_tensor_value_info(_ROW_FEATURES, TensorProto.FLOAT, [width])],
        [*_read_by(graph, trunk), numpy_helper.from_array(np.zeros(1, np.int64), _AXIS)],
    )
    scan = helper.make_node("Scan", [image], [features], num_scan_inputs=1, body=body)
    scanned = onnx.ModelProto()
    scanned.CopyFrom(model)
    scanned.graph.CopyFrom(
        helper.make_graph(
            [scan, *rest], graph.name, graph.input, graph.output, _read_by(graph, rest)
        )
    )
    return scanned


def _find_head(graph: onnx.GraphProto) -> tuple[str, int] | None:
    """What the last dense layer reads, and how many numbers that is for each face."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in reversed(graph.node):
        if node.op_type == "MatMul" and node.input[1] in shapes:
            return node.input[0], shapes[node.input[1]][0]
        if node.op_type == "Gemm" and node.input[1] in shapes:
            turned = {attribute.name: attribute.i for attribute in node.attribute}
            if turned.get("transA", 0):
                return None
            return node.input[0], shapes[node.input[1]][1 if turned.get("transB", 0) else 0]
    return None


def _has_free_batch(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.shape.dim[0].dim_param)


def _row_shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim[1:]]


def _split(
    nodes: Iterable[onnx.NodeProto], features: str
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Nodes that `features` depends on, and the others, both in their order."""
    needed = {features}
    in_order = list(nodes)
    is_trunk = []
    for node in reversed(in_order):
        belongs = any(name in needed for name in node.output)
        if belongs:
            needed.update(node.input)
        is_trunk.append(belongs)
    marked = list(zip(in_order, reversed(is_trunk), strict=True))
    return [node for node, mine in marked if mine], [node for node, mine in marked if not mine]


def _renamed(nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> list[onnx.NodeProto]:
    renamed = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, name) for name in node.input]
        renamed.append(copy)
    return renamed


def _read_by(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> list[onnx.TensorProto]:
    names = {name for node in nodes for name in node.input}
    return [tensor for tensor in graph.initializer if tensor.name in names]
