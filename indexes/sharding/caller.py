"""What every `Shard` does alike: its calls go by the name of what is to be done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import Hits, Ids, MemoryAccount, Vectors


class ShardCaller(ABC):
    """The calls of a `Shard`, sent to the `ShardHost` that carries them out."""

    @abstractmethod
    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        """Sends one of `OPERATIONS`; the future fails as `Shard` says."""

    def add(self, ids: Ids, vectors: Vectors) -> Future[None]:
        return self._call("add", ids, vectors)

    def remove(self, ids: Ids) -> Future[None]:
        return self._call("remove", ids)

    def search(self, queries: Vectors, k: int) -> Future[Hits]:
        return self._call("search", queries, k)

    def range_search(self, queries: Vectors, threshold: float) -> Future[Hits]:
        return self._call("range_search", queries, threshold)

    def vectors(self, ids: Ids) -> Future[Vectors]:
        return self._call("vectors", ids)

    def contains(self, ids: Ids) -> Future[NDArray[np.bool_]]:
        return self._call("contains", ids)

    def held(self, ids: Ids) -> Future[list[NDArray[Any]]]:
        return self._call("held", ids)

    def join(
        self, ids: Ids, vectors: Vectors, threshold: float, above: int
    ) -> Future[list[NDArray[Any]]]:
        return self._call("join", ids, vectors, threshold, above)

    def roster(self) -> Future[list[NDArray[np.int64]]]:
        return self._call("roster")

    def ids(self) -> Future[Ids]:
        return self._call("ids")

    def count(self) -> Future[int]:
        return self._call("count")

    def account(self) -> Future[MemoryAccount]:
        return self._call("account")

    def compact(self) -> Future[None]:
        return self._call("compact")
