"""Sharded index: references are split by id, answers are merged into one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.base import (
    Certificate,
    CertifiedHits,
    Hits,
    Ids,
    MemoryAccount,
    VectorIndex,
    Vectors,
    check_distinct,
    check_hit_count,
    check_ids,
    check_references,
    check_threshold,
    check_vectors,
    is_id,
)
from indexes.errors import IdInvalid, IndexFault, SearchInvalid, ShardFenced, ShardLost
from indexes.scoring import Positions, arrange
from indexes.segmented.merging import SegmentsConfig, narrowed
from indexes.snapshots.manifest import Origin
from indexes.snapshots.sealing import Sealer

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The index that every shard opens, empty.

    `kind` is one of `indexes.kinds.KINDS`; `config` is for exact8, None for its defaults.
    `threads`: search threads of a shard; None for its share of the cores.

    `content` names what the vectors are of, its deployment first, up to a colon; with a name,
    shards outlive this process, and those that an earlier one left are adopted. `epoch` is that of
    the writer who opens them: `ShardFenced` where a later one has them already, unless `by_force`,
    which is for a store that has gone back.
    """

    kind: str
    dim: int
    threads: int | None = None
    config: SegmentsConfig | None = None
    content: str = ""
    epoch: int = 0
    by_force: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SearchInvalid(f"threads is {self.threads}; give at least 1")


@dataclass(frozen=True, slots=True)
class ShardMark:
    """Up to where a shard has every change of its ids: a sequence of the store, and what identifies
    the store's history at that change."""

    sequence: int
    history: str


@dataclass(frozen=True, slots=True)
class ShardState:
    """`mark` is None for a shard that is new, was cleared, or has a part of a change only.

    `ids_sum` is the sum of its ids, modulo 2^64.
    """

    mark: ShardMark | None
    count: int
    ids_sum: int


CHANGES = frozenset({"add", "remove", "clear", "load"})
"""Operations that change a shard's content."""


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

    def search(self, queries: Vectors, k: int) -> Future[Hits]:
        return self._call("search", queries, k)

    def range_search(self, queries: Vectors, threshold: float) -> Future[Hits]:
        return self._call("range_search", queries, threshold)

    def vectors(self, ids: Ids) -> Future[Vectors]:
        return self._call("vectors", ids)

    def contains(self, ids: Ids) -> Future[NDArray[np.bool_]]:
        """Which of these ids are in the shard: bool[n]."""
        return self._call("contains", ids)

    def held(self, ids: Ids) -> Future[list[NDArray[Any]]]:
        """Those of these ids in the shard, and their vectors: int64[m], float32[m, dim]."""
        return self._call("held", ids)

    def join(
        self, ids: Ids, vectors: Vectors, threshold: float, above: int
    ) -> Future[list[NDArray[Any]]]:
        """Pairs at or above the threshold of these rows with the shard's own of ids >= `above`:
        int64[m] ids given, int64[m] own ids, float32[m] scores; sorted."""
        return self._call("join", ids, vectors, threshold, above)

    def digests(self) -> Future[list[NDArray[np.int64]]]:
        """Its ids, ascending, and the digest of each reference (`References.digests`)."""
        return self._call("digests")

    def ids(self) -> Future[Ids]:
        return self._call("ids")

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
        _at_once(self._copies, lambda copy: copy.release())

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


class ShardedIndex(VectorIndex):
    """A `VectorIndex` over shards: each id is in one of them, a search runs in all at once.

    Answers are those of one index with all references, bit for bit. A call is checked as a whole
    before any shard changes, so a refused call changes none. Where a shard is lost, or a change has
    reached some shards and not others, the index is broken for good: every later call raises
    `ShardLost`, and there are no partial answers. It owns its shards: `close` ends them, `release`
    leaves them to the next writer with what they hold. Upkeep, with the erasure deadline, is each
    shard's own.

    Each shard is to have so many `copies`; `open_copy` opens another one of that number, empty.
    """

    def __init__(
        self,
        plan: ShardPlan,
        shards: Sequence[Shard],
        copies: int = 1,
        open_copy: Callable[[int], Shard] | None = None,
    ) -> None:
        if not shards:
            raise SearchInvalid("a sharded index has no shards; give at least 1")
        self._copies = copies
        self.open_copy = open_copy
        self._plan = plan
        self._shards = tuple(shards)
        self._broken: str | None = None
        self._mark: ShardMark | None = None
        self.recount()

    def recount(self) -> None:
        """To be called when the shards were changed apart from this index."""
        self._count = sum(self._results([shard.count() for shard in self._shards]))

    @property
    def kind(self) -> str:
        """The kind of the shards and their number: `exact8 x 4`."""
        return f"{self._plan.kind} x {len(self._shards)}"

    @property
    def dim(self) -> int:
        return self._plan.dim

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, by number."""
        return self._shards

    @property
    def wanting(self) -> list[ReplicatedShard]:
        """The shards that have fewer copies than they are to have."""
        found = [shard for shard in self._shards if isinstance(shard, ReplicatedShard)]
        return [shard for shard in found if not shard.lost and len(shard.copies) < self._copies]

    @property
    def ids(self) -> Ids:
        self._check_whole()
        return np.sort(np.concatenate(self._results([shard.ids() for shard in self._shards])))

    def __len__(self) -> int:
        self._check_whole()
        return self._count

    def __contains__(self, key: object) -> bool:
        self._check_whole()
        return is_id(key) and bool(self._contained(np.array([key], np.int64))[0])

    def __enter__(self) -> ShardedIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all shards; does nothing the second time."""
        self._broken = self._broken or _CLOSED
        close_all(self._shards)

    def release(self) -> None:
        """Leaves the shards to the next writer, with what they hold; nothing is answered here."""
        self._broken = self._broken or _CLOSED
        _at_once(self._shards, lambda shard: shard.release())

    def note(self, sequence: int, history: str) -> None:
        self._mark = ShardMark(sequence, history)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds new ids; `IdInvalid` for one that is there already, and then none is added."""
        self._check_whole()
        keys, rows = check_references(ids, vectors, self.dim)
        config = self._plan.config
        if self._plan.kind == "exact8" and config is not None and config.rows == "float16":
            # As the shards will do: rounding may take a row out of the tolerance.
            rows = check_vectors(narrowed(rows), self.dim)
        parts = self._split(ids)
        # A single shard checks for itself and changes nothing; several must be asked first.
        if len(parts) > 1:
            present = self._contained(ids)
            if present.any():
                first = ids[np.argmax(present)]
                raise IdInvalid(f"id {first} is in the index already; remove it first")
        mark = self._take_mark()
        self._change(parts, lambda shard, places: shard.add(ids[places], rows[places], mark))
        self._count += len(keys)

    def remove(self, ids: Ids) -> None:
        self._check_whole()
        keys = check_distinct(check_ids(ids))
        parts = self._split(ids)
        if len(parts) > 1:
            self._check_known(ids)
        mark = self._take_mark()
        self._change(parts, lambda shard, places: shard.remove(ids[places], mark))
        self._count -= len(keys)

    def vectors(self, ids: Ids) -> Vectors:
        self._check_whole()
        check_ids(ids)
        parts = self._split(ids)
        found = self._results([shard.vectors(ids[places]) for shard, places in parts])
        rows = np.empty((len(ids), self.dim), np.float32)
        for (_, places), part in zip(parts, found, strict=True):
            rows[places] = part
        return rows

    def search(self, queries: Vectors, k: int) -> Hits:
        self._check_whole()
        rows, hits = check_vectors(queries, self.dim), check_hit_count(k)
        return merge_hits(self._results([each.search(rows, hits) for each in self._shards]), hits)

    def range_search(self, queries: Vectors, threshold: float) -> Hits:
        self._check_whole()
        rows, floor = check_vectors(queries, self.dim), check_threshold(threshold)
        return merge_hits(self._results([each.range_search(rows, floor) for each in self._shards]))

    def account(self) -> MemoryAccount:
        """Memory use of all shards by part."""
        self._check_whole()
        parts = self._results([shard.account() for shard in self._shards])
        return sum(parts, MemoryAccount(0))

    def compact(self) -> None:
        """Frees the memory of removed references in every shard now."""
        self._check_whole()
        self._results([shard.compact() for shard in self._shards])

    def _take_mark(self) -> ShardMark | None:
        """The mark of one change: without it a shard is not taken for whole later."""
        mark, self._mark = self._mark, None
        return mark

    def _split(self, ids: Ids) -> list[tuple[Shard, Positions]]:
        """Each shard concerned, with the positions of its ids."""
        owners = shards_of(ids, len(self._shards))
        order = np.argsort(owners, kind="stable")
        bounds = np.searchsorted(owners[order], np.arange(len(self._shards) + 1))
        return [
            (shard, order[start:end])
            for shard, start, end in zip(self._shards, bounds[:-1], bounds[1:], strict=True)
            if start < end
        ]

    def _contained(self, ids: Ids) -> NDArray[np.bool_]:
        parts = self._split(ids)
        found = self._results([shard.contains(ids[places]) for shard, places in parts])
        present = np.zeros(len(ids), np.bool_)
        for (_, places), part in zip(parts, found, strict=True):
            present[places] = part
        return present

    def _check_known(self, ids: Ids) -> None:
        present = self._contained(ids)
        if not present.all():
            raise IdInvalid(f"id {ids[np.argmin(present)]} is not in the index")

    def _check_whole(self) -> None:
        if self._broken is None:
            # A shard may be known to be lost before any call has failed.
            self._broken = next((why for shard in self._shards if (why := shard.lost)), None)
        if self._broken is not None:
            raise ShardLost(self._broken)

    def _change(
        self,
        parts: Sequence[tuple[Shard, Positions]],
        change: Callable[[Shard, Positions], Future[None]],
    ) -> None:
        """Changes the shards; any failure except the refusal of a single shard breaks the index."""
        try:
            self._results(change(shard, places) for shard, places in parts)
        except BaseException as failure:
            refused = isinstance(failure, IndexFault) and len(parts) == 1
            if self._broken is None and not refused:
                self._broken = (
                    f"a shard failed in the middle of a change ({type(failure).__name__}); "
                    "restart to rebuild the gallery from the store"
                )
            if self._broken is None or not isinstance(failure, Exception):
                raise
            raise ShardLost(self._broken) from failure

    def _results(self, calls: Iterable[Future[Value]]) -> list[Value]:
        """All results, when every shard has finished; raises the first failure."""
        futures = list(calls)
        wait(futures)
        failures = [failure for future in futures if (failure := future.exception())]
        lost = next((each for each in failures if isinstance(each, ShardLost)), None)
        if lost is not None:
            self._broken = self._broken or str(lost)
        if failures:
            raise lost or failures[0]
        return [future.result() for future in futures]


_CLOSED = "the sharded gallery is closed; open it again"


def close_all(shards: Sequence[Shard]) -> None:
    """Closes the shards concurrently, for one that hangs takes a while."""
    _at_once(shards, lambda shard: shard.close())


def _at_once(shards: Sequence[Shard], end: Callable[[Shard], None]) -> None:
    with ThreadPoolExecutor(max(1, len(shards)), "close") as pool:
        list(pool.map(end, shards))


def shards_of(ids: Ids, shards: int) -> NDArray[np.int64]:
    """The shard of each id, from 0 to `shards` - 1: int64[n].

    The first number that SplitMix64 gives from the seed `id`, modulo the number of shards. Ids
    that follow a pattern, as those of one outlet do, spread evenly. The rule never changes.
    """
    assert shards >= 1
    mixed = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(shards)).astype(np.int64)


def merge_hits(answers: Sequence[Hits], k: int | None = None) -> Hits:
    """The hits of all answers, ordered as by one index; the k best where k is given.

    A row is in one shard only and its score depends on the two vectors alone, so the k best of all
    are among the k best of each shard, with the same scores. `CertifiedHits` where all answers are.
    """
    queries = len(answers[0])
    assert all(len(answer) == queries for answer in answers)
    hits = arrange(
        queries,
        np.concatenate([np.repeat(np.arange(queries), np.diff(hits.offsets)) for hits in answers]),
        np.concatenate([hits.ids for hits in answers]),
        np.concatenate([hits.scores for hits in answers]),
        k,
    )
    certificates = [hits.certificate for hits in answers if isinstance(hits, CertifiedHits)]
    if len(certificates) < len(answers):
        return hits
    return CertifiedHits(hits.offsets, hits.ids, hits.scores, _merge_certificates(certificates))


def _merge_certificates(certificates: Sequence[Certificate]) -> Certificate:
    return Certificate(
        epsilon=np.max([each.epsilon for each in certificates], axis=0),
        rescored=np.sum([each.rescored for each in certificates], axis=0),
        compared=sum(each.compared for each in certificates),
        kernel="+".join(sorted({each.kernel for each in certificates})),
        bounds=tuple(sorted({bound for each in certificates for bound in each.bounds})),
        exact=all(each.exact for each in certificates),
    )
