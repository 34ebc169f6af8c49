"""The kind `ivf`: FAISS's inverted lists, of which a search looks into the nearest few."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss

from indexes.approximate.index import ApproximateConfig, ApproximateIndex
from indexes.approximate.proposed import Proposer
from indexes.base import Vectors
from indexes.errors import SearchInvalid, VectorInvalid
from indexes.scoring import Positions

# The kind `fastscan`: FAISS's 4-bit product quantiser, which compares all rows, coarsely.

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


_MOST_LISTS = 65_536
# Below 39 rows a list FAISS calls its training poor.
_ROWS_PER_LIST = 64


@dataclass(frozen=True, slots=True)
class IvfConfig(ApproximateConfig):
    """FAISS's `IVF{lists},PQ{dim/2}x4fs`, whose candidates get exact scores.

    probed_lists: how many of the lists a search looks into.
    """

    probed_lists: int = 64

    def __post_init__(self) -> None:
        # A dataclass with slots is made anew, so super() without arguments would miss it.
        super(IvfConfig, self).__post_init__()
        if self.probed_lists < 1:
            raise SearchInvalid(f"probed_lists is {self.probed_lists}; give at least 1")


class IvfIndex(ApproximateIndex):
    """About four times the root of n lists; whoever lies in a list not looked into is missed.

    `dim` must be even.
    """

    kind: ClassVar[str] = "ivf"

    def __init__(self, dim: int, config: IvfConfig | None = None) -> None:
        self._ivf = config or IvfConfig()
        super().__init__(require_pairs(dim, self.kind), self._ivf)

    def _propose(self, sample: Vectors, rows: int) -> Proposer:
        return InvertedLists(sample, count_lists(rows), self._ivf.probed_lists)

    def _training_rows(self, rows: int) -> int:
        return max(self._ivf.training_rows, _ROWS_PER_LIST * count_lists(rows))


class InvertedLists:
    """A `Proposer` by the lists nearest to a query, and codes of four bits within them."""

    def __init__(self, sample: Vectors, lists: int, probed: int) -> None:
        name = f"IVF{lists},PQ{sample.shape[1] // 2}x{BITS}fs"
        self._index: Any = faiss.index_factory(sample.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        self._probed = min(probed, lists)
        self._index.train(sample)

    @property
    def memory_bytes(self) -> int:
        lists = self._index.nlist
        held = sum(self._index.invlists.list_size(one) for one in range(lists))
        code = self._index.d // 4 + 8
        return int(held * code + lists * 4 * self._index.d)

    def add(self, vectors: Vectors) -> None:
        self._index.add(vectors)

    def nearest(self, queries: Vectors, count: int) -> Positions:
        asked = faiss.SearchParametersIVF()
        asked.nprobe = self._probed
        places: Positions = self._index.search(queries, count, params=asked)[1]
        return places


def count_lists(rows: int) -> int:
    """How many lists so many rows are sorted into."""
    return max(1, min(_MOST_LISTS, round(4 * math.sqrt(rows)), rows // _ROWS_PER_LIST))


# The kind `hnsw`: FAISS's graph of neighbours, which a search walks.


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
