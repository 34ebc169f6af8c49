"""A small real model for the role `quality`: the dynamic range of ISO/IEC 29794-5."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.liveness_models import write_card

SIDE_PX = 64
USUAL = 'measure = "DynamicRange"\nh = 12.5'


def compute_dynamic_range(crop: np.ndarray) -> float:
    """Entropy in bits of the histogram of the luminance of uint8[h, w, 3] (RGB), as the standard
    defines it for the pixels of a face; the quality is 12.5 times as much."""
    value = crop / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    luminance = np.floor(linear @ [0.2126, 0.7152, 0.0722] * 255 + 0.5).astype(int)
    shares = np.bincount(luminance.ravel(), minlength=256) / luminance.size
    shown = shares[shares > 0]
    return float(-(shown * np.log2(shown)).sum())


def write_measure(folder: Path, contract: str = USUAL, *, divisor: float = 1.0) -> Path:
    """The card of a model that gives `compute_dynamic_range`, divided by `divisor`."""
    folder.mkdir(exist_ok=True)
    kept = {
        "knee": np.float32(0.04045),
        "slope": np.float32(12.92),
        "lift": np.float32(0.055),
        "span": np.float32(1.055),
        "gamma": np.float32(2.4),
        "weights": np.float32([0.2126, 0.7152, 0.0722]).reshape(1, 3, 1, 1),
        "levels": np.float32(255),
        "half": np.float32(0.5),
        "flat": np.int64([0, -1]),
        "depth": np.int64(256),
        "ends": np.float32([0, 1]),
        "pixels": np.float32(SIDE_PX**2),
        "least": np.float32(1e-12),
        "bit": np.float32(-np.log(2) * divisor),
        "over": np.int64([1]),
    }
    steps = (
        ("LessOrEqual", "picture knee", "is_dark"),
        ("Div", "picture slope", "dark"),
        ("Add", "picture lift", "lifted"),
        ("Div", "lifted span", "spanned"),
        ("Pow", "spanned gamma", "bright"),
        ("Where", "is_dark dark bright", "linear"),
        ("Mul", "linear weights", "weighted"),
        ("ReduceSum", "weighted over", "luminance"),
        ("Mul", "luminance levels", "scaled"),
        ("Add", "scaled half", "raised"),
        ("Cast", "raised", "level"),
        ("Reshape", "level flat", "row"),
        ("OneHot", "row depth ends", "shown"),
        ("ReduceSum", "shown over", "counted"),
        ("Div", "counted pixels", "share3"),
        ("Reshape", "share3 flat", "share"),
        ("Max", "share least", "positive"),
        ("Log", "positive", "nats"),
        ("Mul", "share nats", "parts"),
        ("ReduceSum", "parts over", "entropy"),
        ("Div", "entropy bit", "bits"),
    )
    side: list[int | str] = ["n", 3, SIDE_PX, SIDE_PX]
    graph = helper.make_graph(
        [
            helper.make_node(
                kind,
                taken.split(),
                [given],
                **({"to": TensorProto.INT64} if kind == "Cast" else {}),
            )
            for kind, taken, given in steps
        ],
        "dynamic range",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, side)],
        [helper.make_tensor_value_info("bits", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in kept.items()],
    )
    return write_card(folder / "range.toml", "quality", SIDE_PX, graph, contract)
