"""What the machine itself allows: reading memory, and ONNX Runtime's bare int8 product."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numba
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tile:
    """The sizes of one product. Queries that are `packed` are a constant of the graph."""

    rows: int
    queries: int
    packed: bool

    def __str__(self) -> str:
        return f"{self.rows} x {self.queries}{', packed queries' if self.packed else ''}"


TILES = tuple(
    Tile(rows, queries, packed)
    for rows, queries in ((1024, 512), (2048, 512), (1024, 1024), (2048, 1024), (4096, 256))
    for packed in (False, True)
)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@numba.njit(nogil=True)
def sum_words(words: NDArray[np.uint64]) -> np.uint64:
    total = np.uint64(0)
    for word in words:
        total += word
    return total


class MemoryReader:
    """Reads all of an array with all cores, each its share, and adds it up.

    The least that any scan of it must do: LLVM makes the sum wide loads, and nothing is kept.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        words = data.reshape(-1)[: data.size // 8 * 8].view(np.uint64)
        self.size_bytes = words.nbytes
        self._shares = np.array_split(words, cores())
        self._pool = ThreadPoolExecutor(cores())
        self.read()

    def read(self) -> float:
        """Reads it once; its seconds."""
        start = time.perf_counter()
        list(self._pool.map(sum_words, self._shares))
        return time.perf_counter() - start

    def close(self) -> None:
        self._pool.shutdown()


def measure_product(dim: int, tile: Tile, seconds: float) -> float:
    """Comparisons a second, each of them `dim` products and sums, by all cores.

    Each core has a session of one thread, since ONNX Runtime's own pool is slower, and nothing
    reads the sums. ONNX Runtime packs a constant once, an input for each product.
    """
    runs = [bind_product(dim, tile, seed) for seed in range(cores())]
    for run in runs:
        run()
    start = time.perf_counter()
    end = start + seconds

    def work(run: Callable[[], None]) -> int:
        done = 0
        while time.perf_counter() < end:
            run()
            done += 1
        return done

    with ThreadPoolExecutor(len(runs)) as pool:
        products = sum(pool.map(work, runs))
    return products * tile.rows * tile.queries / (time.perf_counter() - start)


def bind_product(dim: int, tile: Tile, seed: int) -> Callable[[], None]:
    """One product of random codes, its inputs and output bound to memory that is there already."""
    import onnxruntime

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (tile.rows, dim), np.uint8)
    queries = rng.integers(-127, 128, (dim, tile.queries), np.int8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        _graph(queries, packed=tile.packed), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    ortvalue = onnxruntime.OrtValue.ortvalue_from_numpy
    binding.bind_ortvalue_input("codes", ortvalue(codes))
    if not tile.packed:
        binding.bind_ortvalue_input("queries", ortvalue(queries))
    binding.bind_ortvalue_output("sums", ortvalue(np.empty((tile.rows, tile.queries), np.int32)))
    return lambda: cast(None, session.run_with_iobinding(binding))


def _graph(queries: NDArray[np.int8], *, packed: bool) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    dim, columns = queries.shape
    node = helper.make_node("MatMulInteger", ["codes", "queries"], ["sums"])
    inputs = [helper.make_tensor_value_info("codes", TensorProto.UINT8, ["m", dim])]
    constants: list[Any] = []
    if packed:
        constants.append(numpy_helper.from_array(queries, "queries"))
    else:
        inputs.append(helper.make_tensor_value_info("queries", TensorProto.INT8, [dim, columns]))
    graph = helper.make_graph(
        [node],
        "ceiling",
        inputs,
        [helper.make_tensor_value_info("sums", TensorProto.INT32, ["m", columns])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
