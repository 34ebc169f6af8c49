"""ONNX graph rewritings: the same function, in a form that ONNX Runtime computes faster.

The same input gives the same bytes. A graph is rewritten whenever its model is opened: one kept in
a file would be a model whose digest nobody checks.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from engine.errors import ModelCardInvalid, ModelDamaged
from engine.models.catalog import InputContract, Step

Values = dict[str, NDArray[Any]]
"""Constants of a graph by name."""

_AXIS = "scan_axis"
_ROW, _ROW_AS_BATCH, _ROW_FEATURES = "scan_row", "scan_row_batch", "scan_row_features"


def scan_batch(graph: onnx.GraphProto, values: Values) -> None:
    """Put all that comes before the last dense layer into a Scan over the batch, for CPUs.

    A batch of feature maps does not fit the caches of a core, one face's nearly does; the weights
    of a large dense layer are read from memory once for each call, so they want a batch. With
    SFace, one thread and batches of 8, this took 9.5 ms a face to 8.3.

    A graph whose batch is not free, or that does not end in one dense layer on one input's
    features, stays as it is.
    """
    head = _find_head(graph, values)
    if head is None or len(graph.input) != 1:
        return
    batch, *shape = graph.input[0].type.tensor_type.shape.dim
    if not batch.dim_param:
        return
    row = [dimension.dim_value for dimension in shape]
    features, width = head
    trunk, rest = _split(graph.node, features)
    inside = {name for node in trunk for name in node.output} - {features}
    leaking = _read_by(rest) | {one.name for one in graph.output}
    if not trunk or inside & leaking or graph.input[0].name in leaking:
        return
    image = graph.input[0].name
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", [_ROW, _AXIS], [_ROW_AS_BATCH]),
            *_renamed(trunk, {image: _ROW_AS_BATCH}),
            helper.make_node("Squeeze", [features, _AXIS], [_ROW_FEATURES]),
        ],
        "one_face",
        [helper.make_tensor_value_info(_ROW, TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info(_ROW_FEATURES, TensorProto.FLOAT, [width])],
    )
    scan = helper.make_node("Scan", [image], [features], body=body, num_scan_inputs=1)
    _set_nodes(graph, [scan, *rest], values)
    # Into the node where it stands: a graph is copied with all its weights.
    (inner,) = (one.g for one in graph.node[0].attribute if one.name == "body")
    _write_values(inner, {**values, _AXIS: np.zeros(1, np.int64)}, _read_by(trunk) | {_AXIS})
    del graph.value_info[:]


def _find_head(graph: onnx.GraphProto, values: Values) -> tuple[str, int] | None:
    """The input of the last dense layer, and its size for each face."""
    shapes = {name: value.shape for name, value in values.items()}
    for node in reversed(graph.node):
        if node.op_type == "MatMul" and node.input[1] in shapes:
            return node.input[0], shapes[node.input[1]][0]
        if node.op_type == "Gemm" and node.input[1] in shapes:
            flags = {attribute.name: attribute.i for attribute in node.attribute}
            if flags.get("transA", 0):
                return None
            return node.input[0], shapes[node.input[1]][1 if flags.get("transB", 0) else 0]
    return None


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


def _read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input}


def rewrite(
    model_bytes: bytes, steps: Sequence[Step], contract: InputContract | None = None
) -> bytes:
    """Apply the steps to a serialised model; raises ModelDamaged if it is not one.

    With the `contract` of its input the model then takes pixels (`take_pixels`).
    """
    try:
        model = onnx.load_from_string(model_bytes)
    except Exception as error:  # protobuf's DecodeError has no common base with ours
        raise ModelDamaged("the model file is not an ONNX graph; fetch it again") from error
    _apply(model, steps, contract)
    return bytes(model.SerializeToString(deterministic=True))


def read_batch(model_bytes: bytes) -> int:
    """The only batch that a serialised model takes; 0 where it is free."""
    image = onnx.load_from_string(model_bytes).graph.input[0]
    return int(image.type.tensor_type.shape.dim[0].dim_value)


def apply(model: onnx.ModelProto, steps: Sequence[Step]) -> onnx.ModelProto:
    """A new model: the given one after the steps, in their order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _apply(copy, steps)
    return copy


def _apply(
    model: onnx.ModelProto, steps: Sequence[Step], contract: InputContract | None = None
) -> None:
    """Rewrites the model in place. Weights stay arrays from the first step to the last: turning
    them into tensors and back after each would take longer than all the arithmetic."""
    graph = model.graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    passes = {
        Step.FOLD_WEIGHTS: fold_weights,
        Step.FREE_BATCH: free_batch,
        Step.FREE_SIZE: free_size,
        Step.FOLD_BATCH_NORMS: fold_batch_norms,
        Step.EXPAND_PRELU: expand_prelu,
        Step.FLOAT16: convert_to_float16,
        Step.SCAN_BATCH: scan_batch,
    }
    for step in steps:
        passes[step](graph, values)
    if contract is not None:
        take_pixels(graph, values, contract)
    del graph.initializer[:]
    _write_values(graph, values, _read_by(graph.node) | {one.name for one in graph.output})


def _write_values(graph: onnx.GraphProto, values: Values, names: Collection[str]) -> None:
    """Makes initializers of these values."""
    for name, value in values.items():
        if name in names:
            tensor = graph.initializer.add()
            tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(value.dtype)
            tensor.dims.extend(value.shape)
            tensor.raw_data = np.ascontiguousarray(value).tobytes()


def fold_weights(graph: onnx.GraphProto, values: Values) -> None:
    """Compute DequantizeLinear and Reshape of initializers; drop inputs that are initializers.

    Block-wise int8 weights become the float32 weights that the graph would compute from them.
    """
    nodes = []
    for node in graph.node:
        if node.op_type in ("DequantizeLinear", "Reshape") and all(
            name in values for name in node.input
        ):
            inputs = {name: values[name] for name in node.input}
            (values[node.output[0]],) = ReferenceEvaluator(node).run(None, inputs)
        else:
            nodes.append(node)
    _set_nodes(graph, nodes, values)


def free_batch(graph: onnx.GraphProto, _: Values) -> None:
    """Let the first dimension of every input and output be any number."""
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]


def free_size(graph: onnx.GraphProto, _: Values) -> None:
    """Let height and width of the NCHW input be any number, and so the outputs' lengths."""
    for value in graph.input:
        value.type.tensor_type.shape.dim[2].dim_param = "height"
        value.type.tensor_type.shape.dim[3].dim_param = "width"
    for value in graph.output:
        value.type.tensor_type.shape.dim[1].dim_param = f"length_{value.name}"
    del graph.value_info[:]


def fold_batch_norms(graph: onnx.GraphProto, values: Values) -> None:
    """Fold each BatchNormalization that alone follows a Conv into its weights and bias."""
    makers = {name: node for node in graph.node for name in node.output}
    readers = _readers(graph)
    kept_outputs = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        conv = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if (
            conv is None
            or conv.op_type != "Conv"
            or len(readers[conv.output[0]]) != 1
            or conv.output[0] in kept_outputs
            or not all(name in values for name in [*node.input[1:], *conv.input[1:]])
        ):
            nodes.append(node)
            continue
        _absorb_batch_norm(conv, node, values)
    _set_nodes(graph, nodes, values)


def expand_prelu(graph: onnx.GraphProto, values: Values) -> None:
    """Write PRelu with slope a as operators that the CPU provider vectorises and fuses.

    PRelu(x) = a·x + (1 - a)·relu(x). Where one Conv alone reads it, (1 - a) moves into that
    Conv's input channels and relu(x) + (a / (1 - a))·x is left. Slopes may be negative or
    above 1, so max(x, a·x) would be wrong.
    """
    readers = _readers(graph)
    kept_outputs = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        if node.op_type != "PRelu" or node.input[1] not in values:
            nodes.append(node)
            continue
        following = [] if node.output[0] in kept_outputs else readers[node.output[0]]
        slope = values[node.input[1]].astype(np.float64)
        if _can_absorb_scale(following, slope, values):
            nodes += _prelu_before_conv(node, following[0], slope, values)
        else:
            nodes += _prelu_alone(node, slope, values)
    _set_nodes(graph, nodes, values)


def convert_to_float16(graph: onnx.GraphProto, values: Values) -> None:
    """Weights and arithmetic in float16; inputs and outputs stay float32.

    Resize keeps its float32 sizes, as the standard demands.
    """
    wide = {name for n in graph.node if n.op_type == "Resize" for name in n.input[1:]}
    for name, value in values.items():
        if value.dtype == np.float32 and name not in wide:
            values[name] = value.astype(np.float16)
    inputs = {value.name: f"{value.name}_float16" for value in graph.input}
    outputs = {value.name: f"{value.name}_float16" for value in graph.output}
    nodes = [
        helper.make_node("Cast", [name], [half], to=onnx.TensorProto.FLOAT16)
        for name, half in inputs.items()
    ]
    for node in graph.node:
        _halve_constant(node)
        node.input[:] = [inputs.get(name, outputs.get(name, name)) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
        nodes.append(node)
    nodes += [
        helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT)
        for name, half in outputs.items()
    ]
    del graph.value_info[:]
    _set_nodes(graph, nodes, values)


def take_pixels(graph: onnx.GraphProto, values: Values, contract: InputContract) -> None:
    """Have the graph take pixels uint8[batch, height, width, 3] (RGB), and do itself what the
    contract of its input asks for: a quarter of the bytes go to the device.

    It does the same operations in float32 in the same order as `embedder.prepare`, so the vectors
    are equal bit for bit. To come last: float16 must not round pixels.
    """
    if len(graph.input) != 1:
        raise ModelCardInvalid(f"a model must have one input, not {len(graph.input)}")
    image = graph.input[0].name
    chain: list[tuple[str, list[str], dict[str, Any]]] = []
    if contract.channels == "bgr":
        values["pixels_order"] = np.array([2, 1, 0], np.int64)
        chain.append(("Gather", ["pixels_order"], {"axis": 3}))
    chain.append(("Cast", [], {"to": TensorProto.FLOAT}))
    if any(contract.mean) or contract.scale != (1.0, 1.0, 1.0):
        values["pixels_mean"] = np.array(contract.mean, np.float32)
        values["pixels_scale"] = np.array(contract.scale, np.float32)
        chain += [("Sub", ["pixels_mean"], {}), ("Mul", ["pixels_scale"], {})]
    if contract.layout == "nchw":
        chain.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    names = ["pixels", *(f"pixels_{place}" for place in range(1, len(chain))), image]
    made = [
        helper.make_node(kind, [source, *more], [result], **attributes)
        for (kind, more, attributes), source, result in zip(chain, names, names[1:], strict=False)
    ]
    nodes = [*made, *graph.node]
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value or "batch"
    sides = [contract.height_px, contract.width_px, 3]
    shape = helper.make_tensor_value_info("pixels", TensorProto.UINT8, [batch, *sides])
    del graph.input[:], graph.value_info[:]
    graph.input.append(shape)
    _set_nodes(graph, nodes, values)


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            value: float = helper.get_attribute_value(attribute)
            return value
    return default


def _set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], values: Values) -> None:
    """Puts the nodes in, and drops inputs that are constants or that no node reads."""
    nodes = list(nodes)
    read = _read_by(nodes) | {value.name for value in graph.output}
    inputs = [value for value in graph.input if value.name in read and value.name not in values]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)


def _absorb_batch_norm(conv: onnx.NodeProto, norm: onnx.NodeProto, values: Values) -> None:
    gain, offset, mean, variance = (values[name].astype(np.float64) for name in norm.input[1:5])
    factor = gain / np.sqrt(variance + _attribute(norm, "epsilon", 1e-5))
    weights = values[conv.input[1]].astype(np.float64)
    bias = values[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else 0.0
    # New names: another Conv may share the old weights.
    folded = [f"{norm.output[0]}_weight", f"{norm.output[0]}_bias"]
    shape = (-1,) + (1,) * (weights.ndim - 1)
    values[folded[0]] = (weights * factor.reshape(shape)).astype(np.float32)
    values[folded[1]] = (offset + (bias - mean) * factor).astype(np.float32)
    conv.input[:] = [conv.input[0], *folded]
    conv.output[0] = norm.output[0]


def _can_absorb_scale(
    following: Sequence[onnx.NodeProto], slope: NDArray[np.float64], values: Values
) -> bool:
    """One Conv reads it, dense or depth-wise; near slope 1, a / (1 - a) would explode."""
    if len(following) != 1 or following[0].op_type != "Conv":
        return False
    conv = following[0]
    weights = values.get(conv.input[1])
    if weights is None or bool(np.any(np.abs(1 - slope) < 1e-6)):
        return False
    groups = int(_attribute(conv, "group", 1))
    depthwise = groups == weights.shape[0] and weights.shape[1] == 1
    channels = groups if depthwise else weights.shape[1]
    return (groups == 1 or depthwise) and slope.size in (1, channels)


def _prelu_before_conv(
    prelu: onnx.NodeProto, conv: onnx.NodeProto, slope: NDArray[np.float64], values: Values
) -> list[onnx.NodeProto]:
    source, result = prelu.input[0], prelu.output[0]
    weights = values[conv.input[1]]
    # Input channels are the second axis of dense weights, the first of depth-wise ones.
    along = (-1, 1) if int(_attribute(conv, "group", 1)) > 1 else (1, -1)
    factor = (1 - slope).reshape(along + (1,) * (weights.ndim - 2))
    scaled, ratio = f"{result}_scaled_weight", f"{result}_ratio"
    values[scaled] = (weights * factor).astype(np.float32)
    values[ratio] = (slope / (1 - slope)).astype(np.float32)
    conv.input[1] = scaled
    return [
        helper.make_node("Relu", [source], [f"{result}_relu"]),
        helper.make_node("Mul", [source, ratio], [f"{result}_line"]),
        helper.make_node("Add", [f"{result}_line", f"{result}_relu"], [result]),
    ]


def _prelu_alone(
    prelu: onnx.NodeProto, slope: NDArray[np.float64], values: Values
) -> list[onnx.NodeProto]:
    source, result = prelu.input[0], prelu.output[0]
    values[f"{result}_slope"] = slope.astype(np.float32)
    values[f"{result}_rest"] = (1 - slope).astype(np.float32)
    return [
        helper.make_node("Mul", [source, f"{result}_slope"], [f"{result}_line"]),
        helper.make_node("Relu", [source], [f"{result}_relu"]),
        helper.make_node("Mul", [f"{result}_relu", f"{result}_rest"], [f"{result}_bend"]),
        helper.make_node("Add", [f"{result}_line", f"{result}_bend"], [result]),
    ]


def _halve_constant(node: onnx.NodeProto) -> None:
    """A float32 Constant, or a Cast to float32, would mix types with float16 neighbours."""
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.t.data_type == onnx.TensorProto.FLOAT:
            half = numpy_helper.to_array(attribute.t).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(half, attribute.t.name))
        elif node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
