"""Sharded index: references are split by id, answers are merged into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from threading import Condition, Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.base import (
    Certificate,
    CertifiedHits,
    Closing,
    Flags,
    Ids,
    MemoryAccount,
    Positions,
    VectorIndex,
    Vectors,
    arrange,
    check_distinct,
    check_hit_count,
    check_ids,
    check_references,
    check_threshold,
    check_vectors,
    concatenated,
    is_id,
    overwrite_when_freed,
)
from indexes.errors import IdInvalid, IndexFault, SearchInvalid, ShardLost
from indexes.segmented.merging import narrowed
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.host import ReplicatedShard, Shard, close_all, end_at_once
from indexes.sharding.shards import Placement, ShardMark, ShardPlan, virtual_shards_of

Value = TypeVar("Value")

MOVED_BYTES = 8 << 20
"""Vectors in one message of a move."""


@dataclass(slots=True, eq=False)
class _Move:
    """A virtual shard on its way: its references, as far as the receiving shard has them."""

    virtual_shard: int
    source: int
    target: int
    lock: Lock = field(default_factory=Lock)
    received: list[Ids] = field(default_factory=list)
    removed: list[Ids] = field(default_factory=list)

    @property
    def ids(self) -> Ids:
        """All that are to be moved, ascending."""
        none = np.empty(0, np.int64)
        with self.lock:
            received, removed = ([none, *each] for each in (self.received, self.removed))
        # What was added meanwhile may have been read too.
        return np.setdiff1d(np.concatenate(received), np.concatenate(removed))


class ShardedIndex(VectorIndex, Closing):
    """A `VectorIndex` over shards: each id is in one of them, a search runs in all at once.

    Answers are those of one index with all references, bit for bit; a refused call changes no
    shard. Where a shard is lost, or a change has reached some shards and not others, every later
    call raises `ShardLost`: there are no partial answers. `close` ends the shards, `release` leaves
    them to the next writer. Upkeep, with the erasure deadline, is each shard's own.

    Each shard is to have so many `copies`; `open_copy` opens another one of that number, empty.

    A virtual shard is moved while calls go on: `begin_move`, `copy_moving` and `finish_move`, the
    last one apart from searches and changes (`Gallery.rearrange`). Until then its old shard alone
    answers, and changes go to both.

    `range_search`, `ids` and `held` may run beside a change: they have seen all changes that ended
    before they began, and any part of those that came later.
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
        self.read_wanted: Callable[[], int] = partial(len, shards)
        """How many shards there are to be; what others have is to be moved."""
        self._plan = plan
        self._shards = tuple(shards)
        self._broken: str | None = None
        self._mark: tuple[int, str] | None = None
        self.placement = Placement.spread(plan.virtual_shards, len(shards))
        """The shard of each virtual shard; to be set by who filled the shards otherwise."""
        self._placing = Condition()
        self._move: _Move | None = None
        self._stays = 0
        self.recount()

    def recount(self) -> None:
        """To be called when the shards were changed apart from this index."""
        self._count = sum(self._results([shard.count() for shard in self._shards]))

    @property
    def kind(self) -> str:
        """The kind of the shards and their number: `exact8 x 4`."""
        return f"{SegmentedIndex.kind} x {len(self._shards)}"

    @property
    def dim(self) -> int:
        return self._plan.dim

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, by number."""
        return self._shards

    @property
    def search_fault(self) -> str | None:
        found = ((number, one.search_fault) for number, one in enumerate(self._shards))
        named = (f"shard {number}: {fault}" for number, fault in found if fault is not None)
        return next(named, None)

    @property
    def wanting(self) -> list[ReplicatedShard]:
        """The shards that have fewer copies than they are to have."""
        found = [shard for shard in self._shards if isinstance(shard, ReplicatedShard)]
        return [shard for shard in found if not shard.lost and len(shard.copies) < self._copies]

    @property
    def ids(self) -> Ids:
        self.require_whole()
        return np.sort(np.concatenate(self._results([shard.ids() for shard in self._shards])))

    def __len__(self) -> int:
        self.require_whole()
        return self._count

    def __contains__(self, key: object) -> bool:
        self.require_whole()
        return is_id(key) and bool(self._contained(np.array([key], np.int64))[0])

    def close(self) -> None:
        """Ends all shards; does nothing the second time."""
        self._broken = self._broken or _CLOSED
        close_all(self._shards)

    def release(self) -> None:
        """Leaves the shards to the next writer, with what they hold; nothing is answered here."""
        self._broken = self._broken or _CLOSED
        end_at_once(self._shards, lambda shard: shard.release())

    def note(self, sequence: int, history: str) -> None:
        self._mark = sequence, history

    def append(self, shard: Shard) -> None:
        """Adds a shard that is empty, with as many copies as it is to have, or `wanting` some."""
        added = shard if self._copies == 1 else ReplicatedShard([shard])
        self._shards = (*self._shards, added)

    def remove_last(self) -> Shard:
        """Leaves the last shard out, which must have no virtual shard; apart from other calls."""
        assert self.placement.shards < len(self._shards), "its references must be moved first"
        *kept, last = self._shards
        self._shards = tuple(kept)
        return last

    @contextmanager
    def staying(self) -> Iterator[Placement]:
        """Keeps everything in its place as long as the context lasts: no move begins, and one that
        is under way has ended."""
        with self._placing:
            self._placing.wait_for(lambda: self._move is None)
            self._stays += 1
        try:
            yield self.placement
        finally:
            with self._placing:
                self._stays -= 1

    def begin_move(self, virtual_shard: int, target: int) -> bool:
        """Has changes of a virtual shard go to the target too; apart from changes. False where all
        must stay for now."""
        self.require_whole()
        source = int(self.placement.owners[virtual_shard])
        assert source != target
        with self._placing:
            if self._stays or self._move is not None:
                return False
            self._move = _Move(virtual_shard, source, target)
        return True

    def copy_moving(self, check: Callable[[], None]) -> None:
        """Sends the target what the source has; beside all other calls. `check` may stop it."""
        move = self._move
        assert move is not None, "begin_move was called"
        source, target = self._shards[move.source], self._shards[move.target]
        (ids,) = self._results([source.ids_in(move.virtual_shard)])
        step = max(1, MOVED_BYTES // (4 * self.dim))
        for start in range(0, len(ids), step):
            check()
            ((found, vectors),) = self._results([source.held(ids[start : start + step])])
            self._results([target.receive(found, vectors)])
            with move.lock:
                move.received.append(found)

    def finish_move(self, sequence: int, history: str) -> int:
        """Has the target answer for the virtual shard, and the source wipe it; apart from searches
        and changes. Both have everything up to this sequence then.

        Returns how many references were moved. Where it fails, nothing was changed or the index is
        broken.
        """
        move = self._move
        assert move is not None, "begin_move was called"
        ids, placement = move.ids, self.placement.moved(move.virtual_shard, move.target)
        to, of = (
            ShardMark(sequence, history, placement.owned(number))
            for number in (move.target, move.source)
        )
        self._change([self._shards[move.target].take(ids, to)], may_refuse=True)
        # From here on both have it: either may answer for it after a crash, and not both now.
        source = self._shards[move.source]
        self._change([source.remove(ids, of)])
        self.placement = placement
        self._end_move()
        return len(ids)

    def abandon_move(self) -> None:
        """Ends a move that is not finished, if there is one: everything stays where it is."""
        move = self._move
        if move is not None:
            # A shard that is lost has nothing to wipe.
            wait([self._shards[move.target].abandon()])
            self._end_move()

    def _end_move(self) -> None:
        with self._placing:
            self._move = None
            self._placing.notify_all()

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds new ids; `IdInvalid` for one that is there already, and then none is added."""
        self.require_whole()
        keys, rows = check_references(ids, vectors, self.dim)
        config = self._plan.config
        if config is not None and config.rows == "float16":
            # As the shards will do: rounding may take a row out of the tolerance.
            rows = check_vectors(narrowed(rows), self.dim)
        parts, moving = self._split(ids), self._moving(ids)
        # A single shard checks for itself and changes nothing; several must be asked first.
        is_alone = len(parts) == 1 and moving is None
        if not is_alone:
            present = self._contained(ids)
            if present.any():
                first = ids[np.argmax(present)]
                raise IdInvalid(f"id {first} is in the index already; remove it first")
        mark = self._take_marks()

        def calls() -> Iterator[Future[None]]:
            for number, places in parts:
                yield self._shards[number].add(ids[places], rows[places], mark(number))
            if moving is not None:
                move, places = moving
                with move.lock:
                    move.received.append(ids[places])
                yield self._shards[move.target].receive(ids[places], rows[places])

        self._change(calls(), may_refuse=is_alone)
        self._count += len(keys)

    def remove(self, ids: Ids) -> None:
        self.require_whole()
        keys = check_distinct(check_ids(ids))
        parts, moving = self._split(ids), self._moving(ids)
        is_alone = len(parts) == 1 and moving is None
        if not is_alone:
            present = self._contained(ids)
            if not present.all():
                raise IdInvalid(f"id {ids[np.argmin(present)]} is not in the index")
        mark = self._take_marks()

        def calls() -> Iterator[Future[None]]:
            for number, places in parts:
                yield self._shards[number].remove(ids[places], mark(number))
            if moving is not None:
                move, places = moving
                with move.lock:
                    move.removed.append(ids[places])
                yield self._shards[move.target].discard(ids[places])

        self._change(calls(), may_refuse=is_alone)
        self._count -= len(keys)

    def vectors(self, ids: Ids) -> Vectors:
        self.require_whole()
        check_ids(ids)
        rows = overwrite_when_freed(np.empty((len(ids), self.dim), np.float32))
        self._fill(rows, ids, lambda shard, some: shard.vectors(some))
        return rows

    def held(self, ids: Ids) -> tuple[Ids, Vectors]:
        self.require_whole()
        check_ids(ids)
        parts = self._split(ids)
        found = self._results([self._shards[number].held(ids[places]) for number, places in parts])
        there = np.isin(ids, concatenated(own for own, _ in found))
        row_of = np.cumsum(there) - 1
        rows = overwrite_when_freed(np.empty((int(there.sum()), self.dim), np.float32))
        for (_, places), (_, part) in zip(parts, found, strict=True):
            rows[row_of[places[there[places]]]] = part
        return ids[there], rows

    def search(self, queries: Vectors, k: int) -> CertifiedHits:
        self.require_whole()
        rows, hits = check_vectors(queries, self.dim), check_hit_count(k)
        return merge_hits(self._results([each.search(rows, hits) for each in self._shards]), hits)

    def range_search(self, queries: Vectors, threshold: float) -> CertifiedHits:
        self.require_whole()
        rows, floor = check_vectors(queries, self.dim), check_threshold(threshold)
        return merge_hits(self._results([each.range_search(rows, floor) for each in self._shards]))

    def account(self) -> MemoryAccount:
        """Memory use of all shards by part."""
        self.require_whole()
        parts = self._results([shard.account() for shard in self._shards])
        return sum(parts, MemoryAccount(0))

    def compact(self) -> None:
        """Frees the memory of removed references in every shard now."""
        self.require_whole()
        asked = {shard: shard.compact() for shard in self._shards}
        wait(asked.values())
        # One that was left out meanwhile has ended, and had nothing.
        self._results([asked[shard] for shard in self._shards if shard in asked])

    def _take_marks(self) -> Callable[[int], ShardMark | None]:
        """The mark of one change for each shard: without it none is taken for whole later."""
        mark, self._mark = self._mark, None
        owned = self.placement.owned
        return lambda number: None if mark is None else ShardMark(*mark, owned(number))

    def _split(self, ids: Ids) -> list[tuple[int, Positions]]:
        """The number of each shard concerned, with the positions of its ids."""
        owners = self.placement.shard_of(ids)
        order = np.argsort(owners, kind="stable")
        bounds = np.searchsorted(owners[order], np.arange(len(self._shards) + 1))
        return [
            (number, order[start:end])
            for number, (start, end) in enumerate(pairwise(bounds))
            if start < end
        ]

    def _moving(self, ids: Ids) -> tuple[_Move, Positions] | None:
        """The move that is under way, with the positions of its ids, if there are any."""
        move = self._move
        if move is None:
            return None
        of = virtual_shards_of(ids, self._plan.virtual_shards)
        places = np.flatnonzero(of == move.virtual_shard)
        return (move, places) if len(places) else None

    def _contained(self, ids: Ids) -> Flags:
        present = np.zeros(len(ids), np.bool_)
        self._fill(present, ids, lambda shard, some: shard.contains(some))
        return present

    def _fill(
        self, room: NDArray[Any], ids: Ids, ask: Callable[[Shard, Ids], Future[NDArray[Any]]]
    ) -> None:
        """Writes what the shards answer to these ids."""
        parts = self._split(ids)
        found = self._results([ask(self._shards[number], ids[places]) for number, places in parts])
        for (_, places), part in zip(parts, found, strict=True):
            room[places] = part

    def require_whole(self) -> None:
        if self._broken is None:
            # A shard may be known to be lost before any call has failed.
            self._broken = next((why for shard in self._shards if (why := shard.lost)), None)
        if self._broken is not None:
            raise ShardLost(self._broken)

    def _change(self, calls: Iterable[Future[None]], *, may_refuse: bool = False) -> None:
        """Changes the shards; any failure except the refusal of a single shard breaks the index."""
        try:
            self._results(calls)
        except BaseException as failure:
            refused = isinstance(failure, IndexFault) and may_refuse
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


def merge_hits(answers: Sequence[CertifiedHits], k: int | None = None) -> CertifiedHits:
    """The hits of all answers, ordered as by one index; the k best where k is given.

    A row is in one shard only and its score depends on the two vectors alone, so the k best of all
    are among the k best of each shard, with the same scores.
    """
    queries = len(answers[0])
    assert all(len(answer) == queries for answer in answers)
    hits = arrange(
        queries,
        np.concatenate([hits.query_of for hits in answers]),
        np.concatenate([hits.ids for hits in answers]),
        np.concatenate([hits.scores for hits in answers]),
        k,
    )
    certificates = [answer.certificate for answer in answers]
    certificate = Certificate(
        epsilon=np.max([each.epsilon for each in certificates], axis=0),
        rescored=np.sum([each.rescored for each in certificates], axis=0),
        compared=sum(each.compared for each in certificates),
        kernel="+".join(sorted({each.kernel for each in certificates})),
        bounds=tuple(sorted({bound for each in certificates for bound in each.bounds})),
    )
    return CertifiedHits(hits.offsets, hits.ids, hits.scores, certificate)
