"""The approximate kinds held against FlatIndex over random histories."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from indexes.approximate.faiss_kinds import (
    FastScanConfig,
    FastScanIndex,
    HnswConfig,
    HnswIndex,
    IvfConfig,
    IvfIndex,
)
from indexes.approximate.index import ApproximateIndex
from indexes.base import Hits, Ids, Vectors
from indexes.flat import FlatIndex

DIM = 16
SMALL = {"least_rows": 1000, "tail_rows": 200, "training_rows": 2000}


class ApproximateHistory(RuleBasedStateMachine):
    """Adds, removals and searches of thousands of rows, so that structures come, grow and go."""

    opened: ClassVar[type[ApproximateIndex]]
    config: ClassVar[FastScanConfig | IvfConfig | HnswConfig]

    @initialize(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([900, 1500, 3000]))
    def start(self, seed: int, n: int) -> None:
        self.random = np.random.default_rng(seed)
        self.index = self.opened(DIM, self.config)
        self.flat = FlatIndex(DIM)
        self.add(n)

    def some_rows(self, n: int) -> Vectors:
        """Some of them alike: a small integer in every component."""
        rows = self.random.standard_normal((n, DIM)).astype(np.float32)
        rows[::7] = np.sign(rows[::7])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    @rule(n=st.sampled_from([0, 1, 150, 250, 800, 2500]))
    def add(self, n: int) -> None:
        fresh = np.setdiff1d(np.arange(12_000), self.flat.ids)
        ids = self.random.permutation(fresh)[:n]
        rows = self.some_rows(len(ids))
        for index in (self.index, self.flat):
            index.add(ids, rows)

    @rule(share=st.sampled_from([0.001, 0.05, 0.3, 0.9]))
    def remove(self, share: float) -> None:
        ids = self.random.permutation(self.flat.ids)
        for index in (self.index, self.flat):
            index.remove(ids[: int(share * len(ids))])

    @rule()
    def compact(self) -> None:
        self.index.compact()
        assert self.index.removed_since is None

    @rule(n=st.sampled_from([0, 1, 20]), k=st.sampled_from([1, 10, 200, 20_000]))
    def search(self, n: int, k: int) -> None:
        queries = self.queries(n)
        hits = self.index.search(queries, k)
        assert np.diff(hits.offsets).tolist() == [min(k, len(self.flat))] * n
        self.assert_within(hits, self.flat.search(queries, max(1, len(self.flat))))

    @rule(n=st.sampled_from([0, 1, 20]), threshold=st.sampled_from([-1.1, 0.0, 0.4, 0.8, 0.9999]))
    def range_search(self, n: int, threshold: float) -> None:
        queries = self.queries(n)
        hits = self.index.range_search(queries, threshold)
        self.assert_within(hits, self.flat.range_search(queries, threshold))

    def queries(self, n: int) -> Vectors:
        near: Ids = self.random.permutation(self.flat.ids)[: n // 2]
        return np.concatenate([self.flat.vectors(near), self.some_rows(n - len(near))])

    @invariant()
    def holds_what_was_added(self) -> None:
        ids = self.flat.ids
        assert np.array_equal(self.index.ids, ids)
        assert len(self.index) == len(ids)
        assert self.index.account().references == len(ids)
        ids = self.random.permutation(ids)
        assert np.array_equal(self.index.vectors(ids), self.flat.vectors(ids))

    def assert_within(self, hits: Hits, truth: Hits) -> None:
        """The true hits, or some of them, with their scores and in their order."""
        for query in range(len(truth)):
            found, scores = hits.of(query)
            true_ids, true_scores = truth.of(query)
            kept = np.isin(true_ids, found)
            assert np.array_equal(true_ids[kept], found)
            assert np.array_equal(true_scores[kept], scores)


class FastScanHistory(ApproximateHistory):
    opened = FastScanIndex
    config = FastScanConfig(**SMALL)


class IvfHistory(ApproximateHistory):
    opened = IvfIndex
    config = IvfConfig(**SMALL, probed_lists=3)


class HnswHistory(ApproximateHistory):
    opened = HnswIndex
    config = HnswConfig(**SMALL, links=8, building_breadth=16, search_breadth=16)


OFTEN = settings(max_examples=6, stateful_step_count=10, deadline=None)
TestFastScanHistory = FastScanHistory.TestCase
TestFastScanHistory.settings = OFTEN
TestIvfHistory = IvfHistory.TestCase
TestIvfHistory.settings = OFTEN
TestHnswHistory = HnswHistory.TestCase
TestHnswHistory.settings = OFTEN
