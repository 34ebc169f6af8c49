"""The kind `hnsw`: FAISS's graph of neighbours, which a search walks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import faiss

from indexes.approximate.index import ApproximateConfig, ApproximateIndex
from indexes.approximate.proposed import Proposer
from indexes.base import Vectors
from indexes.errors import SearchInvalid
from indexes.scoring import Positions


@dataclass(frozen=True, slots=True)
class HnswConfig(ApproximateConfig):
    """FAISS's `HNSW{links},SQ8`, whose candidates get exact scores.

    links: neighbours of a vector, twice as many on the lowest layer.
    building_breadth, search_breadth: how many vectors a walk keeps in sight (efConstruction,
    efSearch).
    """

    candidates: int = 4
    links: int = 32
    building_breadth: int = 64
    search_breadth: int = 128

    def __post_init__(self) -> None:
        # A dataclass with slots is made anew, so super() without arguments would miss it.
        super(HnswConfig, self).__post_init__()
        if self.links < 2:
            raise SearchInvalid(f"links is {self.links}; give at least 2")
        for name in ("building_breadth", "search_breadth"):
            if getattr(self, name) < 1:
                raise SearchInvalid(f"{name} is {getattr(self, name)}; give at least 1")


class HnswIndex(ApproximateIndex):
    """The graph's links beside the vectors and a byte a dimension; slow to build.

    Threads build it together, so two graphs of the same vectors may differ.
    """

    kind: ClassVar[str] = "hnsw"

    def __init__(self, dim: int, config: HnswConfig | None = None) -> None:
        self._hnsw = config or HnswConfig()
        super().__init__(dim, self._hnsw)

    def _propose(self, sample: Vectors, rows: int) -> Proposer:
        del rows
        return NeighbourGraph(sample, self._hnsw)


class NeighbourGraph:
    """A `Proposer` by a walk over near neighbours.

    It holds bytes, not the vectors: removed ones would stay in it as they were.
    """

    def __init__(self, sample: Vectors, config: HnswConfig) -> None:
        name = f"HNSW{config.links},SQ8"
        made: Any = faiss.index_factory(sample.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        self._index = made
        self._graph: Any = self._index.hnsw
        self._graph.efConstruction = config.building_breadth
        self._breadth = config.search_breadth
        self._index.train(sample)

    @property
    def memory_bytes(self) -> int:
        graph = self._graph
        links = 4 * graph.neighbors.size() + 8 * graph.offsets.size() + 4 * graph.levels.size()
        return int(links + self._index.ntotal * self._index.d)

    def add(self, vectors: Vectors) -> None:
        self._index.add(vectors)

    def nearest(self, queries: Vectors, count: int) -> Positions:
        asked = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]
        asked.efSearch = max(self._breadth, count)
        places: Positions = self._index.search(queries, count, params=asked)[1]
        return places
