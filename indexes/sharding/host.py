"""The content and calls of a shard, wherever it runs, and a shard in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Hits, Ids, MemoryAccount, Vectors
from indexes.errors import IdInvalid
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery, Pinned
from indexes.joining.join import join
from indexes.joining.tiling import References
from indexes.kinds import open_index
from indexes.sharding.shards import ShardPlan
from indexes.upkeep import Upkeep

CALLS_AT_ONCE = 4
"""Concurrent calls of a shard; more would only share the same cores."""

JOINED_LIMIT = 2_000_000
"""Pairs that one call of `join` may return, 40 megabytes: with more it is to be asked in parts."""

# Listing so many ids costs as much as looking one up.
_IDS_FOR_ONE_LOOK_UP = 32


class ShardHost:
    """A gallery with its upkeep, and the calls of `Shard`; thread-safe.

    Its methods take and return only arrays, numbers and the data classes of this package, so that
    any remote call can carry them.
    """

    def __init__(self, plan: ShardPlan) -> None:
        self._threads = plan.threads
        self._scanner = Scanner(threads=plan.threads) if plan.kind == "exact8" else None
        self._gallery = Gallery(open_index(plan.kind, plan.dim, plan.config, self._scanner))
        self._changing = Lock()
        self._upkeep = Upkeep(self._gallery).start()

    def add(self, ids: Ids, vectors: Vectors) -> None:
        with self._changing:
            self._gallery.add(ids, vectors, self._gallery.sequence + 1)

    def remove(self, ids: Ids) -> None:
        with self._changing:
            self._gallery.remove(ids, self._gallery.sequence + 1)

    def search(self, queries: Vectors, k: int) -> Hits:
        return self._gallery.search(queries, k).hits

    def range_search(self, queries: Vectors, threshold: float) -> Hits:
        return self._gallery.range_search(queries, threshold).hits

    def vectors(self, ids: Ids) -> Vectors:
        return self._gallery.vectors(ids)

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        if len(ids) * _IDS_FOR_ONE_LOOK_UP > len(self._gallery):
            return np.isin(ids, self._gallery.ids)
        return np.array([key in self._gallery for key in ids.tolist()], np.bool_)

    def held(self, ids: Ids) -> list[NDArray[Any]]:
        while True:
            try:
                return [ids, self._gallery.vectors(ids)]
            except IdInvalid:
                # References may be removed meanwhile, but none returns.
                ids = ids[self.contains(ids)]

    def join(self, ids: Ids, vectors: Vectors, threshold: float, above: int) -> list[NDArray[Any]]:
        with self._pinned() as (pinned, scanner):
            rows = Exact8Segment(ids, vectors, scanner=scanner)
            counted = [
                alive & (segment.row_ids >= above)
                for segment, alive in zip(pinned.segments, pinned.alive, strict=True)
            ]
            own = References(pinned.segments, counted)
            pairs = join([rows], own, threshold, limit=JOINED_LIMIT)
            return [pairs.left, pairs.right, pairs.scores]

    def digests(self) -> list[NDArray[np.int64]]:
        with self._pinned() as (pinned, _):
            own = References(pinned.segments, pinned.alive)
            return [own.ids, own.digests().view(np.int64)]

    def ids(self) -> Ids:
        return self._gallery.ids

    def count(self) -> int:
        return len(self._gallery)

    def account(self) -> MemoryAccount:
        return self._gallery.account()

    def compact(self) -> None:
        self._gallery.compact()

    def close(self) -> None:
        """Stops the threads, after the running job of upkeep."""
        self._upkeep.close()
        if self._scanner is not None:
            self._scanner.close()

    @contextmanager
    def _pinned(self) -> Iterator[tuple[Pinned, Scanner]]:
        """All references as segments; a kind without segments is converted each time."""
        scanner = self._scanner or Scanner(threads=self._threads)
        try:
            yield self._gallery.pin(scanner), scanner
        finally:
            if self._scanner is None:
                scanner.close()
