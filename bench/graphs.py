"""What rewriting SFace's graph is worth: the same faces through three forms of one model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.report import Figure, Result, Setup
from bench.timing import interleave, speedup, timed
from engine.models.catalog import FileSource, ModelCard, Step, builtin_card
from engine.models.rewritten import load_rewritten
from engine.models.session import Session, SessionOptions, open_session

if TYPE_CHECKING:
    import onnx

DEQUANTISED, PLAIN, REWRITTEN = "dequantised", "PReLU as four operators", "rewritten"
DEQUANTISED_STEPS = (Step.FOLD_WEIGHTS, Step.FREE_BATCH)
BATCHES = (1, 16)
"""A face a call; the extractor's own batch on a CPU."""


@dataclass(frozen=True, slots=True)
class GraphComparison:
    """`speedup`: of the rewritten graph in the extractor's batch over the dequantised one in the
    batch that suits it best; `difference`: of their unit vectors."""

    results: tuple[Result, ...]
    speedup: float
    difference: float


def compare_graphs(crops: NDArray[np.uint8], rounds: int, cache: Path) -> GraphComparison:
    """Crops uint8[n, side, side, 3] through each graph: one thread, interleaved rounds."""
    sessions = _open_graphs(cache)
    faces = np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32)
    outputs = {name: session.run(faces)[0] for name, session in sessions.items()}
    vectors = {name: _normalise(output) for name, output in outputs.items()}
    results: list[Result] = []
    medians: dict[int, dict[str, float]] = {}
    for batch in BATCHES:
        actions = {
            name: timed(partial(_run_batches, session, faces, batch))
            for name, session in sessions.items()
        }
        seconds = interleave(actions, rounds)
        speedups = {name: speedup(seconds[DEQUANTISED], seconds[name]) for name in sessions}
        medians[batch] = {name: float(np.median(values)) for name, values in seconds.items()}
        results.append(
            Result(
                f"SFace graphs, {batch} a call",
                {"faces": len(faces), "rounds": rounds, "threads": 1, "provider": "cpu"},
                tuple(
                    Figure.of(name, "ms/face", values / len(faces) * 1e3, speedups[name])
                    for name, values in seconds.items()
                ),
            )
        )
    results.append(_list_differences(vectors, outputs))
    best_dequantised = min(medians[batch][DEQUANTISED] for batch in BATCHES)
    gain = best_dequantised / medians[BATCHES[-1]][REWRITTEN]
    return GraphComparison(tuple(results), gain, _differ(vectors, REWRITTEN))


def _open_graphs(cache: Path) -> Mapping[str, Session]:
    card = builtin_card("sface")
    dequantised = replace(card, rewriting=DEQUANTISED_STEPS)
    cards = {
        DEQUANTISED: dequantised,
        PLAIN: _write_plain(dequantised, cache),
        REWRITTEN: card,
    }
    options = SessionOptions(provider="cpu", threads=1)
    return {name: open_session(card, options, cache) for name, card in cards.items()}


def _run_batches(session: Session, faces: NDArray[np.float32], batch: int) -> None:
    for start in range(0, len(faces), batch):
        session.run(faces[start : start + batch])


def _list_differences(
    vectors: Mapping[str, NDArray[np.float32]], outputs: Mapping[str, NDArray[np.float32]]
) -> Result:
    longest = float(np.linalg.norm(outputs[DEQUANTISED], axis=1).max())
    unit = "largest absolute difference"
    figures = [
        Figure(f"{name}, {what}", unit, _differ(values, name))
        for what, values in (("unit vectors", vectors), ("before normalising", outputs))
        for name in (PLAIN, REWRITTEN)
    ]
    setup: Setup = {
        "faces": len(outputs[DEQUANTISED]),
        "threads": 1,
        "longest_output": round(longest, 2),
    }
    return Result("SFace outputs against the dequantised graph", setup, tuple(figures))


def _differ(values: Mapping[str, NDArray[np.float32]], name: str) -> float:
    return float(np.abs(values[name] - values[DEQUANTISED]).max())


def _normalise(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    return unit


def _write_plain(card: ModelCard, cache: Path) -> ModelCard:
    """A card whose graph is `card`'s with each PReLU as four operators, and nothing else done."""
    import onnx

    model = onnx.load_from_string(load_rewritten(card, card.rewriting, cache))
    _expand_plainly(model)
    graph = bytes(model.SerializeToString(deterministic=True))
    path = cache / "sface-plain.onnx"
    path.write_bytes(graph)
    return replace(
        card,
        name="sface-plain",
        sha256=hashlib.sha256(graph).hexdigest(),
        file=FileSource(wheel="", path=path.name),
        rewriting=(),
        folder=cache,
    )


def _expand_plainly(model: onnx.ModelProto) -> None:
    """PRelu(x) = a·x + (1 - a)·relu(x), as it stands."""
    from onnx import helper, numpy_helper

    slopes = {item.name: item for item in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "PRelu":
            nodes.append(node)
            continue
        (source, slope), (result,) = node.input, node.output
        rest = numpy_helper.from_array(1 - numpy_helper.to_array(slopes[slope]), f"{result}_rest")
        model.graph.initializer.append(rest)
        nodes += [
            helper.make_node("Mul", [source, slope], [f"{result}_line"]),
            helper.make_node("Relu", [source], [f"{result}_relu"]),
            helper.make_node("Mul", [f"{result}_relu", rest.name], [f"{result}_bend"]),
            helper.make_node("Add", [f"{result}_line", f"{result}_bend"], [result]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
