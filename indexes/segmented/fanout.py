"""One search over several sealed segments and flat heads, as if they were one index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexes.base import Hits, Ids, Scores, Vectors
from indexes.exact.certificate import Certificate, CertifiedHits
from indexes.exact.codes import CodedQueries
from indexes.exact.exact8 import Counts, Exact8Segment
from indexes.exact.rescoring import Pairs, passes
from indexes.flat import FlatIndex
from indexes.scoring import Positions, arrange, no_hits


class Parts:
    """What is searched: an id is alive in one of the parts only.

    The codes of a query are made once for all segments. The largest segment is searched first:
    the k-th best of it is the floor of the others, which then find next to nothing.
    """

    def __init__(
        self, segments: Sequence[Exact8Segment], heads: Sequence[FlatIndex], kernel: str
    ) -> None:
        self._segments = sorted((s for s in segments if len(s)), key=len, reverse=True)
        self._heads = [head for head in heads if len(head)]
        self._coarse = sum(segment.coarse for segment in self._segments)
        self._kernel = kernel

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        """The k best of each query; input that was checked."""
        done = []
        for part in passes(len(queries), self._coarse, k):
            gathering = _Gathering(queries[part], self._segments)
            for segment in self._segments:
                found = segment.best(gathering.queries, gathering.coded, k, gathering.floors)
                gathering.take_sealed(segment, *found)
                gathering.keep_best(k)
            for head in self._heads:
                if gathering.is_empty():
                    gathering.take(*head.best(gathering.queries, k))
                else:
                    gathering.take(*head.at_or_above(gathering.queries, gathering.floors))
                gathering.keep_best(k)
            done.append(gathering)
        return self._answer(done, k)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        """Everything at or above the threshold; input that was checked."""
        done = []
        for part in passes(len(queries), self._coarse):
            gathering = _Gathering(queries[part], self._segments)
            floors = np.full(len(gathering.queries), threshold)
            for segment in self._segments:
                found = segment.at_or_above(gathering.queries, gathering.coded, floors)
                gathering.take_sealed(segment, *found)
            for head in self._heads:
                gathering.take(*head.at_or_above(gathering.queries, floors))
            done.append(gathering)
        return self._answer(done)

    def _answer(self, done: list[_Gathering], k: int | None = None) -> CertifiedHits:
        hits = [gathering.hits(k) for gathering in done]
        offsets, ids, scores = [np.zeros(1, np.int64)], [], []
        for part in hits:
            offsets.append(part.offsets[1:] + offsets[-1][-1])
            ids.append(part.ids)
            scores.append(part.scores)
        certificate = Certificate(
            epsilon=np.concatenate([np.empty(0), *(part.epsilon for part in done)]),
            rescored=np.concatenate([np.empty(0, np.int64), *(part.rescored for part in done)]),
            compared=sum(map(len, self._segments)) + sum(map(len, self._heads)),
            kernel=self._kernel,
        )
        return CertifiedHits(
            np.concatenate(offsets),
            np.concatenate([np.empty(0, np.int64), *ids]),
            np.concatenate([np.empty(0, np.float32), *scores]),
            certificate,
        )


class _Gathering:
    """What one pass of queries has found so far."""

    def __init__(self, queries: Vectors, segments: Sequence[Exact8Segment]) -> None:
        self.queries = queries
        self.floors = np.full(len(queries), -np.inf)
        self.epsilon = np.zeros(len(queries))
        self.rescored: Counts = np.zeros(len(queries), np.int64)
        if segments:
            self.coded = CodedQueries.of_vectors(queries)
        self._found: list[tuple[Positions, Ids, Scores]] = []
        self._size = 0

    def take_sealed(self, segment: Exact8Segment, pairs: Pairs, counts: Counts) -> None:
        """Adds what a segment has found, and what its certificate says."""
        self.take(pairs.query_of, segment.row_ids[pairs.row_of], pairs.scores)
        np.maximum(self.epsilon, segment.epsilon(self.coded), out=self.epsilon)
        self.rescored += counts

    def take(self, query_of: Positions, ids: Ids, scores: Scores) -> None:
        """Adds scored pairs."""
        self._found.append((query_of, ids, scores))
        self._size += len(ids)

    def is_empty(self) -> bool:
        """Whether nothing was found, so that there are no floors."""
        return not self._size

    def keep_best(self, k: int) -> None:
        """Raises the floors to the k-th best scores, where it is worth the sorting.

        That is after the first part, and where later ones have found as much again.
        """
        if self._size < 2 * k * len(self.queries) and len(self._found) > 1:
            return
        best = self.hits(k)
        counts = np.diff(best.offsets)
        full = np.flatnonzero(counts == k)
        self.floors[full] = best.scores[best.offsets[1:][full] - 1]
        query_of = np.repeat(np.arange(len(self.queries)), counts)
        self._found = [(query_of, best.ids, best.scores)]
        self._size = len(best.ids)

    def hits(self, k: int | None = None) -> Hits:
        """What was found, in order; of each query the k best."""
        if not self._found:
            return no_hits(len(self.queries))
        query_of, ids, scores = (np.concatenate(c) for c in zip(*self._found, strict=True))
        return arrange(len(self.queries), query_of, ids, scores, k)
