"""FlatIndex compared with a dictionary and exact sums, over random histories."""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from indexes.base import Hits, Vectors
from indexes.flat import FlatIndex

# FlatIndex takes matrix products from 8 queries on, and faiss changes its kernel at 20.
QUERY_COUNTS = st.sampled_from([0, 1, 2, 7, 8, 24])


class FlatHistory(RuleBasedStateMachine):
    """Adds, removals and searches; the rows come from a pool with many ties."""

    @initialize(dim=st.integers(4, 64), seed=st.integers(0, 2**32 - 1))
    def start(self, dim: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        lattice = self.random.integers(-1, 2, (24, dim)).astype(np.float32)
        lattice[:, 0] = 1
        spread = self.random.standard_normal((24, dim)).astype(np.float32)
        pool = np.concatenate([lattice, spread])
        self.pool = pool / np.linalg.norm(pool, axis=1, keepdims=True)
        self.index = FlatIndex(dim)
        self.rows: dict[int, Vectors] = {}

    def some_rows(self, n: int) -> Vectors:
        return self.pool[self.random.integers(0, len(self.pool), n)]

    @rule(n=st.integers(0, 30), alike=st.booleans())
    def add(self, n: int, alike: bool) -> None:
        fresh = np.setdiff1d(np.arange(400), list(self.rows))
        ids = self.random.permutation(fresh)[:n]
        rows = np.repeat(self.some_rows(1), len(ids), axis=0) if alike else self.some_rows(len(ids))
        self.index.add(ids, rows)
        self.rows.update(zip(ids.tolist(), rows, strict=True))

    @rule(share=st.floats(0, 1))
    def remove(self, share: float) -> None:
        ids = np.array(list(self.rows), np.int64)
        ids = self.random.permutation(ids)[: round(share * len(ids))]
        self.index.remove(ids)
        for key in ids.tolist():
            del self.rows[key]

    @rule(n=QUERY_COUNTS, k=st.integers(1, 60))
    def search(self, n: int, k: int) -> None:
        queries = self.some_rows(n)
        hits = self.index.search(queries, k)
        self.assert_hits(hits, [self.ranked(query)[:k] for query in queries])

    @rule(n=QUERY_COUNTS, threshold=st.floats(-1.1, 1.1))
    def range_search(self, n: int, threshold: float) -> None:
        queries = self.some_rows(n)
        hits = self.index.range_search(queries, threshold)
        expected = [[hit for hit in self.ranked(query) if hit[1] >= threshold] for query in queries]
        self.assert_hits(hits, expected)

    @precondition(lambda self: self.rows)
    @rule(n=st.sampled_from([1, 24]), pick=st.floats(0, 0.999))
    def range_search_at_a_score(self, n: int, pick: float) -> None:
        queries = self.some_rows(n)
        ranked = self.ranked(queries[0])
        threshold = ranked[int(pick * len(ranked))][1]
        for bound in (threshold, math.nextafter(threshold, 2), math.nextafter(threshold, -2)):
            found = self.index.range_search(queries, bound).of(0)[0].tolist()
            assert found == [key for key, score in ranked if score >= bound]

    @invariant()
    def holds_what_was_added(self) -> None:
        assert self.index.ids.tolist() == sorted(self.rows)
        assert len(self.index) == len(self.rows)
        if self.rows:
            ids = self.random.permutation(list(self.rows))
            stored = np.stack([self.rows[key] for key in ids.tolist()])
            assert np.array_equal(self.index.vectors(ids), stored)

    def ranked(self, query: Vectors) -> list[tuple[int, float]]:
        """All hits by brute force: the exact sum of exact products, rounded to float32."""
        scored = []
        for key, row in self.rows.items():
            products = (query.astype(np.float64) * row.astype(np.float64)).tolist()
            scored.append((key, float(np.float32(math.fsum(products)))))
        return sorted(scored, key=lambda hit: (-hit[1], hit[0]))

    def assert_hits(self, hits: Hits, expected: list[list[tuple[int, float]]]) -> None:
        assert len(hits) == len(expected)
        for query, wanted in enumerate(expected):
            ids, scores = hits.of(query)
            assert list(zip(ids.tolist(), scores.tolist(), strict=True)) == wanted


TestFlatHistory = FlatHistory.TestCase
TestFlatHistory.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
