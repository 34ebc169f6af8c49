"""A part of a gallery, wherever it runs, several copies of one, and which part has which
references: an id is in a virtual shard for good, that on some shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.base import CertifiedHits, Ids, MemoryAccount, Vectors
from indexes.errors import SearchInvalid, ShardFenced, ShardLost
from indexes.segmented.merging import SegmentsConfig
from indexes.snapshots.manifest import Origin, Sealer

VIRTUAL_SHARDS = 4096
"""So many that at 100 million references the last step of a move takes a tenth of a second."""
NOWHERE = -1


def virtual_shards_of(ids: Ids, count: int) -> NDArray[np.int64]:
    """The virtual shard of each id, from 0 to `count` - 1: int64[n].

    The first number that SplitMix64 gives from the seed `id`, modulo the count, so that ids with a
    pattern spread evenly. The rule never changes.
    """
    assert count >= 1
    mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(count)).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """The shard of each virtual shard, or `NOWHERE`: int64[virtual shards]."""

    owners: NDArray[np.int64]

    @classmethod
    def spread(cls, virtual_shards: int, shards: int) -> Placement:
        """Even, for shards that have nothing yet."""
        return cls(np.arange(virtual_shards) % shards)

    @property
    def shards(self) -> int:
        """One more than the last shard that has a virtual one."""
        return int(self.owners.max(initial=NOWHERE)) + 1

    def virtual_shard_of(self, ids: Ids) -> NDArray[np.int64]:
        """The virtual shard of each id: int64[n]."""
        return virtual_shards_of(ids, len(self.owners))

    def shard_of(self, ids: Ids) -> NDArray[np.int64]:
        """The shard of each id: int64[n]."""
        return self.owners[self.virtual_shard_of(ids)]

    def owned(self, shard: int) -> bytes:
        """The virtual shards of a shard, a bit each; see `are_in`."""
        return np.packbits(self.owners == shard).tobytes()

    def are_in(self, owned: bytes) -> NDArray[np.bool_]:
        """Which virtual shards these octets of `owned` name, none if of another number: bool[n]."""
        count = len(self.owners)
        if len(owned) != -(-count // 8):
            return np.zeros(count, np.bool_)
        return np.unpackbits(np.frombuffer(owned, np.uint8), count=count).astype(np.bool_)

    def moved(self, virtual_shard: int, shard: int) -> Placement:
        """The same with one virtual shard on another shard."""
        owners = self.owners.copy()
        owners[virtual_shard] = shard
        return Placement(owners)

    def balanced(self, shards: int) -> Placement:
        """Every virtual shard on one of so many shards, evenly, with as few moves as possible."""
        owners = np.where(self.owners < shards, self.owners, NOWHERE)
        counts = np.bincount(owners[owners >= 0], minlength=shards)
        quota = np.full(shards, len(owners) // shards)
        # Those that have most keep one more.
        quota[np.argsort(-counts, kind="stable")[: len(owners) % shards]] += 1
        for shard in np.flatnonzero(counts > quota):
            owners[np.flatnonzero(owners == shard)[quota[shard] :]] = NOWHERE
        room = quota - np.minimum(counts, quota)
        owners[owners < 0] = np.repeat(np.arange(shards), room)
        return Placement(owners)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The index that every shard opens, empty.

    `config`: None for its defaults. `threads`: search threads of a shard; None for its share of the
    cores. Shards share references by `virtual_shards`, a number that never changes in a deployment.

    `content` names what the vectors are of, its deployment first, up to a colon; with a name,
    shards outlive this process, and those that an earlier one left are adopted. `epoch` is that of
    the writer who opens them: `ShardFenced` where a later one has them already, unless `by_force`,
    which is for a store that has gone back.
    """

    dim: int
    threads: int | None = None
    config: SegmentsConfig | None = None
    content: str = ""
    epoch: int = 0
    by_force: bool = False
    virtual_shards: int = VIRTUAL_SHARDS

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SearchInvalid(f"threads is {self.threads}; give at least 1")


@dataclass(frozen=True, slots=True)
class ShardMark:
    """Up to where a shard has every change of its virtual shards: a sequence of the store, and what
    identifies the store's history at that change. `owned` names them, see `Placement.owned`."""

    sequence: int
    history: str
    owned: bytes = b""


@dataclass(frozen=True, slots=True)
class ShardState:
    """`mark` is None for a shard that is new, was cleared, or has a part of a change only.

    `ids_sum` is the sum of its ids, modulo 2^64.
    """

    mark: ShardMark | None
    count: int
    ids_sum: int


CHANGES = frozenset({"add", "remove", "clear", "load", "receive", "discard", "take", "abandon"})
"""Operations that change a shard's content, or what it has received to take later."""


class Shard(ABC):
    """One part of a gallery, wherever it runs; every call returns a future at once.

    A call runs the method of that name of a `ShardHost`. Calls may run in any order and
    concurrently: wait for the answer to a change before the next call that must see it. A future
    fails with an `IndexFault` where the index refused, with `ShardLost` where the shard is gone or
    closed, and else with the error itself.
    """

    @property
    def copies(self) -> Sequence[Shard]:
        """The shard itself, or those that hold the same."""
        return (self,)

    @property
    @abstractmethod
    def lost(self) -> str | None:
        """Why it is gone or closed, as far as known without a call; None while it works."""

    @property
    @abstractmethod
    def search_fault(self) -> str | None:
        """Why it searches more slowly than it was set up to, as far as known without a call."""

    @abstractmethod
    def close(self) -> None:
        """Ends the shard and frees its memory; does nothing the second time."""

    def drop(self, copy: Shard) -> None:
        """Ends a copy that is not used any more; another one remains."""
        assert copy is not self, "the only copy of a shard stays"

    def release(self) -> None:
        """Leaves the shard to the next writer, if it can outlive this process; else `close`."""
        self.close()

    @abstractmethod
    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        """Sends the call to the host."""

    def add(self, ids: Ids, vectors: Vectors, mark: ShardMark | None = None) -> Future[None]:
        """Adds new ids; `mark` where with these the shard has all up to it."""
        return self._call("add", ids, vectors, mark)

    def remove(self, ids: Ids, mark: ShardMark | None = None) -> Future[None]:
        return self._call("remove", ids, mark)

    def clear(self) -> Future[None]:
        """Removes everything, as from a shard whose content is not certain."""
        return self._call("clear")

    def receive(self, ids: Ids, vectors: Vectors) -> Future[None]:
        """Keeps references aside, which no search finds, for `take`; known ids are left out."""
        return self._call("receive", ids, vectors)

    def discard(self, ids: Ids) -> Future[None]:
        """Wipes these ids from what was received, or will be."""
        return self._call("discard", ids)

    def take(self, ids: Ids, mark: ShardMark) -> Future[None]:
        """Adds these of the received references, and forgets the others; `IdInvalid`, with none
        added, where one was not received."""
        return self._call("take", ids, mark)

    def abandon(self) -> Future[None]:
        """Wipes all that was received."""
        return self._call("abandon")

    def state(self) -> Future[ShardState]:
        return self._call("state")

    def save(self, folder: str, origin: Origin, sealer: Sealer) -> Future[None]:
        """Saves its snapshot in a folder where it is, without anything that was removed; fails with
        `SnapshotForeign` in the middle of a change of several steps."""
        return self._call("save", folder, origin, sealer)

    def load(self, folder: str, origin: Origin, sealer: Sealer) -> Future[None]:
        """Takes the content and mark of its snapshot instead of its own; as `snapshot.load`."""
        return self._call("load", folder, origin, sealer)

    def forget(self, folder: str) -> Future[None]:
        """Removes its snapshot."""
        return self._call("forget", folder)

    def search(self, queries: Vectors, k: int) -> Future[CertifiedHits]:
        return self._call("search", queries, k)

    def range_search(self, queries: Vectors, threshold: float) -> Future[CertifiedHits]:
        return self._call("range_search", queries, threshold)

    def vectors(self, ids: Ids) -> Future[Vectors]:
        return self._call("vectors", ids)

    def contains(self, ids: Ids) -> Future[NDArray[np.bool_]]:
        """Which of these ids are in the shard: bool[n]."""
        return self._call("contains", ids)

    def held(self, ids: Ids) -> Future[list[NDArray[Any]]]:
        """The ids of these in the shard, and their vectors: int64[m], float32[m, dim]."""
        return self._call("held", ids)

    def join(
        self, ids: Ids, vectors: Vectors, threshold: float, above: int
    ) -> Future[list[NDArray[Any]]]:
        """Pairs at or above the threshold of these rows with the shard's own of ids >= `above`:
        int64[m] ids given, int64[m] own ids, float32[m] scores; sorted; and their bounds."""
        return self._call("join", ids, vectors, threshold, above)

    def digests(self) -> Future[list[NDArray[np.int64]]]:
        """Its ids, ascending, and the digest of each reference, as `References.digests` says."""
        return self._call("digests")

    def ids(self) -> Future[Ids]:
        return self._call("ids")

    def ids_in(self, virtual_shard: int) -> Future[Ids]:
        """Its ids of one virtual shard, ascending."""
        return self._call("ids_in", virtual_shard)

    def count(self) -> Future[int]:
        return self._call("count")

    def account(self) -> Future[MemoryAccount]:
        return self._call("account")

    def compact(self) -> Future[None]:
        """Frees the memory of removed references now."""
        return self._call("compact")


class ReplicatedShard(Shard):
    """A shard of which several copies hold the same, on different nodes.

    Every copy gets every change, in one order. A copy that is lost, or does not do what another one
    did, is ended, and its calls are answered by the others; the shard is lost with its last copy.
    `attach` adds a copy that holds what the others do.
    """

    def __init__(self, copies: Sequence[Shard]) -> None:
        assert copies
        self._lock = Lock()
        self._copies = tuple(copies)
        self._asked = 0
        self._why: str | None = None

    @property
    def copies(self) -> Sequence[Shard]:
        return self._copies

    @property
    def search_fault(self) -> str | None:
        found = (one.search_fault for one in self._copies)
        return next((fault for fault in found if fault is not None), None)

    @property
    def lost(self) -> str | None:
        for copy in self._copies:
            if copy.lost is not None:
                self.drop(copy)
        return None if self._copies else self._why

    def attach(self, copy: Shard) -> None:
        """Adds a copy; call it while nothing changes."""
        with self._lock:
            self._copies = (*self._copies, copy)

    def drop(self, copy: Shard) -> None:
        with self._lock:
            if copy not in self._copies:
                return
            self._copies = tuple(one for one in self._copies if one is not copy)
            self._why = copy.lost or "a copy of a shard did not do what another one did"
        # Beside the calls that wait for another copy: to end one that hangs takes a while.
        Thread(target=copy.close, name="close", daemon=True).start()

    def close(self) -> None:
        close_all(self._copies)

    def release(self) -> None:
        end_at_once(self._copies, lambda copy: copy.release())

    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        if operation in CHANGES or operation == "compact":
            return self._change(operation, arguments)
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()  # a call of a shard cannot be cancelled
        self._ask(answer, operation, arguments)
        return answer

    def _ask(self, answer: Future[Any], operation: str, arguments: tuple[object, ...]) -> None:
        """Asks the copies by turns; where one is lost, the next."""
        copies = self._copies
        if not copies:
            answer.set_exception(ShardLost(self._why))
            return
        self._asked += 1
        copy = copies[self._asked % len(copies)]

        def pass_on(asked: Future[Any]) -> None:
            failure = asked.exception()
            if failure is None:
                answer.set_result(asked.result())
            elif isinstance(failure, ShardLost) and not isinstance(failure, ShardFenced):
                self.drop(copy)
                self._ask(answer, operation, arguments)
            else:
                answer.set_exception(failure)

        getattr(copy, operation)(*arguments).add_done_callback(pass_on)

    def _change(self, operation: str, arguments: tuple[object, ...]) -> Future[Any]:
        """Done when every copy has done it or is dropped; fails where no copy has done it."""
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()
        with self._lock:
            copies = self._copies
            asked = {copy: getattr(copy, operation)(*arguments) for copy in copies}
        if not copies:
            answer.set_exception(ShardLost(self._why))
            return answer
        waiting, counting = [len(asked)], Lock()

        def settle(_: Future[Any]) -> None:
            with counting:
                waiting[0] -= 1
                if waiting[0]:
                    return
            failures = {copy: failure for copy in copies if (failure := asked[copy].exception())}
            # A later writer has the copies: they are not ours to end.
            fenced = [one for one in failures.values() if isinstance(one, ShardFenced)]
            if fenced:
                answer.set_exception(fenced[0])
                return
            refusals = [one for one in failures.values() if not isinstance(one, ShardLost)]
            is_done = len(failures) < len(copies)
            for copy, failure in failures.items():
                if is_done or isinstance(failure, ShardLost):
                    self.drop(copy)
            if is_done:
                answer.set_result(None)
            else:
                answer.set_exception([*refusals, *failures.values()][0])

        for future in asked.values():
            future.add_done_callback(settle)
        return answer


def close_all(shards: Sequence[Shard]) -> None:
    """Closes the shards concurrently, for one that hangs takes a while."""
    end_at_once(shards, lambda shard: shard.close())


def end_at_once(shards: Sequence[Shard], end: Callable[[Shard], None]) -> None:
    with ThreadPoolExecutor(max(1, len(shards)), "close") as pool:
        list(pool.map(end, shards))
