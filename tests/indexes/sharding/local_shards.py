"""Shards in threads of this process."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event, Lock
from typing import Any

from indexes.base import Ids, Vectors
from indexes.errors import ShardLost
from indexes.sharding.host import CALLS_AT_ONCE, Shard, ShardHost
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardMark, ShardPlan

_CLOSED = "a shard is closed; open the gallery again"


class LocalShard(Shard):
    """A `Shard` whose calls run in threads of this process.

    With a `host` it adopts that, as a later writer does; `release` leaves it.
    """

    def __init__(self, plan: ShardPlan, host: ShardHost | None = None) -> None:
        self.host = host or ShardHost(plan)
        self._epoch = plan.epoch
        if host is not None:
            host.adopt(plan.epoch, force=plan.by_force)
        self._pool = ThreadPoolExecutor(CALLS_AT_ONCE, "shard")
        self._lock = Lock()
        self._closed = False

    @property
    def search_fault(self) -> str | None:
        return self.host.search_fault

    @property
    def lost(self) -> str | None:
        return _CLOSED if self._closed else None

    def close(self) -> None:
        """Stops the threads, after the running calls."""
        if self._stop():
            self.host.close()

    def release(self) -> None:
        self._stop()

    def _stop(self) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._closed = True
        self._pool.shutdown()
        return True

    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        with self._lock:
            if not self._closed:
                return self._pool.submit(self.host.call, self._epoch, operation, *arguments)
        refused: Future[Any] = Future()
        refused.set_exception(ShardLost(_CLOSED))
        return refused


class SlowToAdd(LocalShard):
    """A shard that adds as soon as it is `let`: until then it is as one of a silent node."""

    def __init__(self, plan: ShardPlan) -> None:
        super().__init__(plan)
        self.begun, self.let = Event(), Event()
        self.let.set()

    def hold(self) -> None:
        self.let.clear()
        self.begun.clear()

    def add(self, ids: Ids, vectors: Vectors, mark: ShardMark | None = None) -> Future[None]:
        def add_when_let() -> None:
            self.begun.set()
            self.let.wait()
            self.host.call(self._epoch, "add", ids, vectors, mark)

        return self._pool.submit(add_when_let)

    def close(self) -> None:
        self.let.set()
        super().close()


def open_local(plan: ShardPlan, shards: int) -> ShardedIndex:
    """A gallery split over so many shards; each gets its share of the cores by default."""
    threads = plan.threads or max(1, len(os.sched_getaffinity(0)) // shards)
    plan = replace(plan, threads=threads)
    return ShardedIndex(plan, [LocalShard(plan) for _ in range(shards)])
