"""What a GPU does for faces and for search, beside this processor; its answers are the same.

Without a GPU this processor alone is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.conftest import Clock, Note
from bench.core.reports import Figure, Result
from engine.models.catalog import Step, builtin_card, read_model
from engine.models.graph import rewrite
from indexes.errors import DeviceMissing
from indexes.exact.codes import CodedQueries, Codes
from indexes.exact.device import open_scanner
from indexes.exact.scanner import Scanner
from indexes.runtime import import_runtime

LEVEL = 0.6
HERE, GPU = "this processor", "the GPU"
GRAPHS: dict[str, tuple[tuple[Step, ...], Any]] = {
    HERE: ((), "CPUExecutionProvider"),
    "float32": ((), ("CUDAExecutionProvider", {"use_tf32": "0"})),
    "tf32": ((), ("CUDAExecutionProvider", {"use_tf32": "1"})),
    "float16": ((Step.FLOAT16,), ("CUDAExecutionProvider", {})),
}
Embed = Callable[[NDArray[np.float32]], NDArray[np.float64]]


@cache
def open_graph(name: str) -> Embed:
    """Unit vectors of pixels float32[n, 3, 112, 112]; the test is skipped without such a device."""
    steps, provider = GRAPHS[name]
    onnxruntime = import_runtime()
    if name != HERE and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built without CUDA")
    card = builtin_card("sface")
    kept = [step for step in card.rewriting if step not in (Step.EXPAND_PRELU, Step.SCAN_BATCH)]
    graph = rewrite(read_model(card), (*kept, *steps))
    session = onnxruntime.InferenceSession(graph, providers=[provider])

    def embed(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
        vectors = session.run(None, {session.get_inputs()[0].name: pixels})[0].astype(np.float64)
        unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    return embed


@pytest.mark.parametrize("name", GRAPHS)
def test_embed(name: str, clock: Clock, note: Note, pytestconfig: pytest.Config) -> None:
    """A batch; no score moves by more than the largest distance from this processor's vectors."""
    embed, is_quick = open_graph(name), pytestconfig.getoption("--quick")
    random = np.random.default_rng(pytestconfig.getoption("--seed"))
    pixels = random.integers(0, 256, (4 if is_quick else 256, 3, 112, 112)).astype(np.float32)
    apart = np.linalg.norm(open_graph(HERE)(pixels) - embed(pixels), axis=1).max()
    note(Result("Distance from this processor", {}, (Figure(name, "distance", float(apart)),)))
    setup, rounds = {"batch": len(pixels)}, 3 if is_quick else 20
    clock(
        "Faces embedded", name, lambda: embed(pixels), setup,
        rounds=rounds, per=len(pixels), unit="ms/face",
    )  # fmt: skip


@pytest.fixture(scope="module")
def codes(pytestconfig: pytest.Config) -> Codes:
    """Codes of unit-like rows; each tenth is near the one before it."""
    option = pytestconfig.getoption
    rows, dim = option("--n") or (4096 if option("--quick") else 10_000_000), option("--dim")
    random = np.random.default_rng(option("--seed"))
    coded = np.empty((-(-rows // 32) * 32, dim), np.uint8)
    for start in range(0, len(coded), 1 << 18):
        part = coded[start : start + (1 << 18)]
        part[:] = random.integers(100, 157, part.shape, np.uint8)
        part[1::10] = part[: len(part[1::10]) * 10 : 10]
    limit = float(127 / (np.sqrt(dim) * 16.45))
    return Codes.restore(coded, np.full(len(coded), 1e-3, np.float32), dim, limit)


@pytest.fixture(scope="module", params=[HERE, GPU])
def scanner(request: pytest.FixtureRequest, codes: Codes) -> Iterator[Any]:
    if request.param == HERE:
        with closing(Scanner()) as here:
            yield here
        return
    try:
        device = open_scanner("cuda")
        device.prepare(codes)
    except DeviceMissing as error:
        pytest.skip(str(error))
    yield device


@pytest.mark.parametrize("queries", [1, 64, 1024])
def test_search(
    queries: int, scanner: Any, codes: Codes, clock: Clock, pytestconfig: pytest.Config
) -> None:
    alive = np.ones(len(codes.bytes), np.bool_)

    def find(one: Scanner = scanner) -> NDArray[np.int32]:
        coded = CodedQueries.of_rows(codes, slice(0, queries))
        parts = one.gather(codes, alive, coded.wanted(codes, LEVEL), np.copy)
        found = np.concatenate(parts)
        return found[np.lexsort((found[:, 1], found[:, 0]))]

    who = HERE if type(scanner) is Scanner else GPU
    if who == GPU:
        with closing(Scanner()) as here:
            assert np.array_equal(find(), find(here)), "the GPU finds other pairs"
    setup = {"rows": len(codes.bytes), "dim": codes.bytes.shape[1]}
    rounds = 3 if pytestconfig.getoption("--quick") else 20
    clock(f"Search, {queries} queries", who, find, setup, rounds=rounds)
