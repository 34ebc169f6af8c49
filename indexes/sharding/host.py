"""The content and calls of a shard, the shard wherever it runs, and several copies of one."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.base import CertifiedHits, Ids, MemoryAccount, Vectors, overwrite_when_freed
from indexes.errors import IdInvalid, ShardFenced, ShardLost, SnapshotForeign
from indexes.exact.device import open_scanner
from indexes.exact.exact8 import Exact8Segment
from indexes.gallery import Gallery
from indexes.joining.join import join
from indexes.joining.tiling import References
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.shards import CHANGES, ShardMark, ShardPlan, ShardState, virtual_shards_of
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import Header, Origin, Sealer
from indexes.snapshots.snapshot import Opening
from indexes.upkeep import Upkeep

CALLS_AT_ONCE = 4
"""Concurrent calls of a shard, long ones apart; more would only share the same cores."""

JOINED_LIMIT = 2_000_000
"""Pairs that one call of `join` may return, 40 megabytes: with more it is to be asked in parts."""

# Listing so many ids costs as much as looking one up.
_IDS_FOR_ONE_LOOK_UP = 32
_FENCED = "the shards of the gallery obey a later writer: open the registry again"


class ShardHost:
    """A gallery with its upkeep, and the calls of `Shard`; thread-safe.

    Its methods take and return only arrays, numbers and the data classes of this package, so that
    any remote call can carry them. It may outlive who calls it: `adopt` gives it to the writer of a
    later epoch, and from then on `call` refuses all earlier ones.
    """

    def __init__(self, plan: ShardPlan) -> None:
        self._plan = plan
        self._epoch = plan.epoch
        # By the sequence of its own gallery: of the last change, and of all while a save runs.
        self._marks: dict[int, ShardMark | None] = {}
        self._is_saving = False
        self._saving = Lock()
        config = plan.config or SegmentsConfig()
        self._scanner = open_scanner(config.device, plan.threads)
        self._changing = Lock()
        # Of a virtual shard that is on its way here, and what was removed from it meanwhile.
        self._received: list[tuple[Ids, Vectors]] = []
        self._discarded: list[Ids] = []
        self._gallery, self._upkeep = self._open()
        self._gallery.warm()

    @property
    def search_fault(self) -> str | None:
        """Why it searches more slowly than it was set up to, or will before long, since nothing
        is sealed or merged; None where it does not."""
        return self._scanner.fault or self._upkeep.fault

    def adopt(self, epoch: int, *, force: bool = False) -> ShardState:
        """Obeys the writer of this epoch from now on; `ShardFenced` where that of a later one has
        it, or with `force` forgets all that it did."""
        with self._changing:
            if epoch < self._epoch:
                if not force:
                    raise ShardFenced(_FENCED)
                self._clear()
            self._epoch = epoch
            self.abandon()
        return self.state()

    def call(self, epoch: int, operation: str, *arguments: Any) -> Any:
        """Performs an operation for the writer of this epoch; `ShardFenced` for an earlier one.

        No change of an earlier writer comes after `adopt`, and no answer to it tells of what the
        later one has done.
        """
        perform = getattr(self, operation)
        if operation in CHANGES:
            with self._changing:
                self.check_epoch(epoch)
                return perform(*arguments)
        self.check_epoch(epoch)
        value = perform(*arguments)
        self.check_epoch(epoch)
        return value

    def check_epoch(self, epoch: int) -> None:
        """`ShardFenced` where a later writer has it."""
        if epoch < self._epoch:
            raise ShardFenced(_FENCED)

    def state(self) -> ShardState:
        with self._changing:
            ids = self._gallery.ids.view(np.uint64)
            mark = self._marks.get(self._gallery.sequence)
            return ShardState(mark, len(ids), int(ids.sum(dtype=np.uint64)))

    def add(self, ids: Ids, vectors: Vectors, mark: ShardMark | None = None) -> None:
        """Adds new ids; `mark` where with these the shard has all up to it."""
        with self._marking(mark) as sequence:
            self._gallery.add(ids, vectors, sequence)

    def remove(self, ids: Ids, mark: ShardMark | None = None) -> None:
        with self._marking(mark) as sequence:
            self._gallery.remove(ids, sequence)

    def receive(self, ids: Ids, vectors: Vectors) -> None:
        """Keeps references aside, which no search finds, for `take`; known ids are left out."""
        known = [*(held for held, _ in self._received), *self._discarded]
        new = ~np.isin(ids, np.concatenate([np.empty(0, np.int64), *known]))
        self._received.append((ids[new], vectors[new]))

    def discard(self, ids: Ids) -> None:
        """Wipes these ids from what was received, or will be."""
        self._discarded.append(ids)
        for held, vectors in self._received:
            vectors[np.isin(held, ids)] = 0

    def take(self, ids: Ids, mark: ShardMark) -> None:
        """Adds these of the received references, and forgets the others; `IdInvalid`, with none
        added, where one was not received."""
        nothing = (np.empty(0, np.int64), np.empty((0, self._plan.dim), np.float32))
        held, vectors = map(np.concatenate, zip(nothing, *self._received, strict=True))
        overwrite_when_freed(vectors)
        if not np.isin(ids, held).all():
            raise IdInvalid("a virtual shard has not arrived whole: it is to be moved again")
        order = np.argsort(held)
        places = order[np.searchsorted(held, ids, sorter=order)]
        self.add(ids, overwrite_when_freed(vectors[places]), mark)
        self.abandon()

    def abandon(self) -> None:
        """Wipes all that was received."""
        for _, vectors in self._received:
            vectors[:] = 0
        self._received, self._discarded = [], []

    def clear(self) -> None:
        """Removes everything, as from a shard whose content is not certain."""
        self._clear()

    def save(self, folder: str, origin: Origin, sealer: Sealer) -> None:
        """Saves its snapshot in a folder where it is, without anything that was removed; fails
        with `SnapshotForeign` in the middle of a change of several steps."""
        with self._saving:
            gallery = self._gallery
            gallery.compact()
            with self._changing:
                self._is_saving = True
            try:
                snapshot.save(Path(folder), gallery, origin, sealer, read_mark=self._write_mark)
            finally:
                with self._changing:
                    self._is_saving = False

    def load(self, folder: str, origin: Origin, sealer: Sealer) -> None:
        """Takes the content and mark of its snapshot instead of its own; as `snapshot.load`."""
        headers: list[Header] = []

        def accept(header: Header) -> bool:
            headers.append(header)
            return True

        opening = Opening(self._plan.config or SegmentsConfig(), self._scanner)
        gallery = snapshot.load(Path(folder), origin, sealer, accept, opening)
        sequence, history, *owned = headers[0].mark.split(" ")
        if not owned:
            raise SnapshotForeign(
                "the snapshot of the shard is of a version that shared references by another rule"
            )
        self._clear(gallery)
        mark = ShardMark(int(sequence), history, bytes.fromhex(owned[0]))
        self._marks = {gallery.sequence: mark}

    def forget(self, folder: str) -> None:
        """Removes its snapshot."""
        with self._saving:
            shutil.rmtree(folder, ignore_errors=True)

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        return self._gallery.search(queries, k).hits

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        return self._gallery.range_search(queries, threshold).hits

    def vectors(self, ids: Ids) -> Vectors:
        return self._gallery.vectors(ids)

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these ids are in the shard: bool[n]."""
        if len(ids) * _IDS_FOR_ONE_LOOK_UP > len(self._gallery):
            return np.isin(ids, self._gallery.ids)
        return np.array([key in self._gallery for key in ids.tolist()], np.bool_)

    def held(self, ids: Ids) -> list[NDArray[Any]]:
        """The ids of these in the shard, and their vectors: int64[m], float32[m, dim]."""
        return list(self._gallery.held(ids))

    def join(self, ids: Ids, vectors: Vectors, threshold: float, above: int) -> list[NDArray[Any]]:
        """Pairs at or above the threshold of these rows with the shard's own of ids >= `above`:
        int64[m] ids given, int64[m] own ids, float32[m] scores; sorted; and their bounds."""
        pinned = self._gallery.pin()
        rows = Exact8Segment(ids, vectors, scanner=self._scanner)
        counted = [
            alive & (segment.row_ids >= above)
            for segment, alive in zip(pinned.segments, pinned.alive, strict=True)
        ]
        pairs = join([rows], References(pinned.segments, counted), threshold, limit=JOINED_LIMIT)
        return [pairs.left, pairs.right, pairs.scores, np.array(pairs.bounds, np.str_)]

    def digests(self) -> list[NDArray[np.int64]]:
        """Its ids, ascending, and the digest of each reference, as `References.digests` says."""
        pinned = self._gallery.pin()
        ids, digests = References(pinned.segments, pinned.alive).digests()
        return [ids, digests.view(np.int64)]

    def ids(self) -> Ids:
        return self._gallery.ids

    def ids_in(self, virtual_shard: int) -> Ids:
        """Its ids of one virtual shard, ascending."""
        ids = self._gallery.ids
        own: Ids = ids[virtual_shards_of(ids, self._plan.virtual_shards) == virtual_shard]
        return own

    def count(self) -> int:
        return len(self._gallery)

    def account(self) -> MemoryAccount:
        return self._gallery.account()

    def compact(self) -> None:
        """Frees the memory of removed references now."""
        self._gallery.compact()

    def _open(self, gallery: Gallery | None = None) -> tuple[Gallery, Upkeep]:
        plan = self._plan
        if gallery is None:
            gallery = Gallery(SegmentedIndex(plan.dim, plan.config, scanner=self._scanner))
        return gallery, Upkeep(gallery).start()

    def _clear(self, gallery: Gallery | None = None) -> None:
        self._marks = {}
        self.abandon()
        self._upkeep.close()
        self._gallery, self._upkeep = self._open(gallery)

    @contextmanager
    def _marking(self, mark: ShardMark | None) -> Iterator[int]:
        """The sequence of the next change, which has this mark as soon as it is seen."""
        sequence = self._gallery.sequence + 1
        self._marks[sequence] = mark
        try:
            yield sequence
        except BaseException:
            del self._marks[sequence]
            raise
        if not self._is_saving:
            self._marks = {sequence: mark}

    def _write_mark(self, sequence: int) -> str:
        mark = self._marks.get(sequence)
        if mark is None:
            raise SnapshotForeign(
                "the shard is being changed and has no snapshot yet; save it later"
            )
        return f"{mark.sequence} {mark.history} {mark.owned.hex()}"

    def close(self) -> None:
        """Stops the threads, after the running job of upkeep."""
        self._upkeep.close()
        self._scanner.close()


Asked = ParamSpec("Asked")
Value = TypeVar("Value")


def _call_of(
    method: Callable[Concatenate[ShardHost, Asked], Value],
) -> Callable[Concatenate[Shard, Asked], Future[Value]]:
    """The call that runs this method of the shard's host."""

    def call(shard: Shard, /, *arguments: Asked.args, **named: Asked.kwargs) -> Future[Value]:
        assert not named, "a call is sent with its arguments in order"
        return shard._call(method.__name__, *arguments)

    return call


class Shard(ABC):
    """One part of a gallery, wherever it runs; every call returns a future at once.

    A call runs the method of that name of its `ShardHost`. Calls may run in any order and
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

    add = _call_of(ShardHost.add)
    remove = _call_of(ShardHost.remove)
    clear = _call_of(ShardHost.clear)
    receive = _call_of(ShardHost.receive)
    discard = _call_of(ShardHost.discard)
    take = _call_of(ShardHost.take)
    abandon = _call_of(ShardHost.abandon)
    state = _call_of(ShardHost.state)
    save = _call_of(ShardHost.save)
    load = _call_of(ShardHost.load)
    forget = _call_of(ShardHost.forget)
    search = _call_of(ShardHost.search)
    range_search = _call_of(ShardHost.range_search)
    vectors = _call_of(ShardHost.vectors)
    contains = _call_of(ShardHost.contains)
    held = _call_of(ShardHost.held)
    join = _call_of(ShardHost.join)
    digests = _call_of(ShardHost.digests)
    ids = _call_of(ShardHost.ids)
    ids_in = _call_of(ShardHost.ids_in)
    count = _call_of(ShardHost.count)
    account = _call_of(ShardHost.account)
    compact = _call_of(ShardHost.compact)


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
