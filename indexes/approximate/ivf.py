"""The kind `ivf`: FAISS's inverted lists, of which a search looks into the nearest few."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss

from indexes.approximate.fastscan import BITS, require_pairs
from indexes.approximate.index import ApproximateConfig, ApproximateIndex
from indexes.approximate.proposed import Proposer
from indexes.base import Vectors
from indexes.errors import SearchInvalid
from indexes.scoring import Positions

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
