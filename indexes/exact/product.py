"""Scan of a batch by ONNX Runtime's int8 product, for processors without AVX-512 VNNI."""

from __future__ import annotations

import functools
import importlib.util
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.exact.intrinsics import compiled
from indexes.exact.kernels import STRETCH, Found, Rows, Wanted, keep, set_floors
from indexes.runtime import import_runtime

_SIGNED_ZERO = 128


def has_product() -> bool:
    """Whether ONNX Runtime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


class ProductScan:
    """`MatMulInteger` stretch by stretch, then a numba filter over its int32 result.

    Unsigned codes times signed queries is the fast product, but on a processor with AVX2 and
    without VNNI, ONNX Runtime adds pairs of products in 16 bits, which saturates, and no
    certificate would hold. So it is tried once with the largest values; where that fails, queries
    are passed unsigned, which is exact everywhere. Each thread has its own session with one thread:
    ONNX Runtime's own pool would compete with the scans for the cores.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._signed: bool | None = None

    def __call__(self, rows: Rows, wanted: Wanted, first: int, last: int, found: Found) -> int:
        """Has the signature of `indexes.exact.scans`."""
        kept = 0
        for stretch in range(first, last):
            codes = rows.codes[stretch * STRETCH : (stretch + 1) * STRETCH]
            sums = self.multiply(codes, wanted.codes)
            kept = _filter_sums(rows, wanted, stretch, sums, found, kept)
        return kept

    def multiply(self, codes: NDArray[np.uint8], queries: NDArray[np.int8]) -> NDArray[np.int32]:
        """Sums of codes times queries: int32[n, q]."""
        factors = queries.T if self._is_signed() else queries.T.view(np.uint8) ^ _SIGNED_ZERO
        if not hasattr(self._of_thread, "session"):
            self._of_thread.session = _session(signed=self._is_signed())
        return _product(self._of_thread.session, codes, factors)

    def _is_signed(self) -> bool:
        with self._lock:
            if self._signed is None:
                codes, queries = np.full((64, 256), 255, np.uint8), np.full((256, 32), 127, np.int8)
                sums = _product(_session(signed=True), codes, queries)
                self._signed = bool((sums == 256 * 255 * 127).all())
            return self._signed


@compiled
def _filter_sums(
    rows: Rows, wanted: Wanted, stretch: int, products: NDArray[np.int32], found: Found, kept: int
) -> int:
    """Adds the pairs of one stretch that reach their floors; `products` int32[rows, q]."""
    floors = np.empty(len(wanted.codes), np.int32)
    margins = np.empty(len(wanted.codes), np.int32)
    alive, levels, heaps = rows.alive, wanted.levels, wanted.heaps
    set_floors(floors, margins, rows, wanted, stretch)
    for i in range(len(products)):
        for query in range(len(floors)):
            # The plain comparison is what LLVM vectorises.
            if products[i, query] >= floors[query]:
                kept = keep(
                    alive,
                    levels,
                    heaps,
                    floors,
                    margins,
                    stretch * STRETCH + i,
                    query,
                    products[i, query],
                    found,
                    kept,
                )
    return kept


def _product(session: Any, codes: NDArray[np.uint8], factors: NDArray[Any]) -> NDArray[np.int32]:
    inputs = {"codes": codes, "queries": np.ascontiguousarray(factors)}
    sums: NDArray[np.int32] = session.run(None, inputs)[0]
    return sums


def _session(*, signed: bool) -> Any:
    onnxruntime = import_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        _graph(signed=signed), options, providers=["CPUExecutionProvider"]
    )


@functools.cache
def _graph(*, signed: bool) -> bytes:
    """One MatMulInteger: uint8[m, d], whose zero is 0, times int8[d, q], or uint8 around 128."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - heavy

    kind, middle = (TensorProto.INT8, 0) if signed else (TensorProto.UINT8, _SIGNED_ZERO)
    node = helper.make_node("MatMulInteger", ["codes", "queries", "zero", "middle"], ["sums"])
    graph = helper.make_graph(
        [node],
        "product",
        [
            helper.make_tensor_value_info("codes", TensorProto.UINT8, ["m", "d"]),
            helper.make_tensor_value_info("queries", kind, ["d", "q"]),
        ],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, ["m", "q"])],
        [
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
            helper.make_tensor("middle", kind, [], [middle]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
