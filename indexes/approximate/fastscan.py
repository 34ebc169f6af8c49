"""The kind `fastscan`: FAISS's 4-bit product quantiser, which compares all rows, coarsely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import faiss

from indexes.approximate.index import ApproximateConfig, ApproximateIndex
from indexes.approximate.proposed import Proposer
from indexes.base import Vectors
from indexes.errors import VectorInvalid
from indexes.scoring import Positions

BITS = 4


@dataclass(frozen=True, slots=True)
class FastScanConfig(ApproximateConfig):
    """FAISS's `PQ{dim/2}x4fs`, whose candidates get exact scores."""


class FastScanIndex(ApproximateIndex):
    """A quarter of a byte a dimension beside the vectors; a scan, so linear in their number.

    `dim` must be even.
    """

    kind: ClassVar[str] = "fastscan"

    def __init__(self, dim: int, config: FastScanConfig | None = None) -> None:
        super().__init__(require_pairs(dim, self.kind), config or FastScanConfig())

    def _propose(self, sample: Vectors, rows: int) -> Proposer:
        del rows
        return FastScan(sample)


class FastScan:
    """A `Proposer` by codes of two dimensions in four bits."""

    def __init__(self, sample: Vectors) -> None:
        dim = sample.shape[1]
        self._index = faiss.IndexPQFastScan(dim, dim // 2, BITS, faiss.METRIC_INNER_PRODUCT)
        self._index.train(sample)

    @property
    def memory_bytes(self) -> int:
        return int(self._index.codes.size())

    def add(self, vectors: Vectors) -> None:
        self._index.add(vectors)

    def nearest(self, queries: Vectors, count: int) -> Positions:
        places: Positions = self._index.search(queries, count)[1]
        return places


def require_pairs(dim: int, kind: str) -> int:
    """The dimension, if codes of two dimensions each fill it."""
    if dim < 2 or dim % 2:
        raise VectorInvalid(f"dim is {dim}; {kind} needs an even one")
    return dim
