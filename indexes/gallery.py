"""A thread-safe gallery: an index, what its readers hold, and the watermark of its changes."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from threading import Condition, Event, Lock
from typing import TypeVar

import numpy as np

from indexes.base import (
    CertifiedHits,
    Flags,
    Ids,
    MemoryAccount,
    VectorIndex,
    Vectors,
    arrange,
    concatenated,
)
from indexes.errors import IdInvalid, SequenceInvalid
from indexes.exact.exact8 import Exact8Segment, RowStore, compile_kernels
from indexes.segmented.merging import Rewrite
from indexes.segmented.segments import SegmentedIndex
from indexes.segmented.view import Head, View
from schema import frozen

Value = TypeVar("Value")

RECENT_CHANGES, RECENT_IDS = 64, 4096
"""The most changes, and the most ids in them, by which an answer is brought up to date."""


class SharedLock:
    """Lock for many readers or one writer; a waiting writer goes before later readers.

    Not re-entrant: a thread that holds it must not acquire it again.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Excludes writers."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing and not self._writers_waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Excludes readers and other writers."""
        with self._changed:
            self._writers_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._writers_waiting -= 1
                # A writer that stopped waiting must let the readers behind it continue.
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()


@frozen(eq=False)
class Found:
    """An answer, with the last change that it has seen and the number of references then.

    What was removed before the answer is left out: of the k best there may be fewer than k.
    """

    hits: CertifiedHits
    sequence: int
    searched: int


@frozen(eq=False)
class Pinned:
    """All references of a gallery at one moment as sealed segments, for long reads.

    `alive` bool[n] says which rows of each were alive then: one removed since is wiped after its
    segment's `alive_rows` says so. `head` counts the last segments, sealed for this alone (0 or 1).
    `removed_since` has the time of the oldest tombstone by the name of its segment.
    """

    segments: tuple[Exact8Segment, ...]
    alive: tuple[Flags, ...]
    sequence: int
    head: int
    removed_since: dict[str, float]


@frozen
class Standing:
    """A gallery's watermark and its references now; `coming` is the sequence of a change that is
    being made, which may wait for a search or for a silent shard, else None."""

    sequence: int
    size: int
    coming: int | None


@frozen(eq=False)
class _Change:
    """The ids that were added, or removed, under a sequence."""

    sequence: int
    ids: Ids
    is_removal: bool


@frozen(eq=False)
class _State:
    """The state that readers read; replaced by one store, so that they see all of a change or none.

    `recent` are all changes after the sequence `known_from`, in order: so many as `RECENT_CHANGES`
    and `RECENT_IDS` allow, with `recent_ids` ids. `size` is for who may not ask an index that is
    being changed.
    """

    index: View | VectorIndex
    sequence: int
    size: int
    removals: int
    recent: tuple[_Change, ...]
    recent_ids: int
    known_from: int

    def after(
        self,
        index: View | VectorIndex,
        sequence: int,
        ids: Ids,
        *,
        is_removal: bool,
        kept_from: int,
    ) -> _State:
        """The state after these ids were added or removed under a sequence."""
        recent = (*self.recent, _Change(sequence, ids.copy(), is_removal))
        count, gone = len(ids), 0
        known_from, recent_ids = self.known_from, self.recent_ids + count
        # Counted first and copied once: after a long search there may be thousands.
        while (len(recent) - gone > RECENT_CHANGES or recent_ids > RECENT_IDS) and (
            recent[gone].sequence <= kept_from
        ):
            known_from = recent[gone].sequence
            recent_ids -= len(recent[gone].ids)
            gone += 1
        size = self.size - count if is_removal else self.size + count
        removals = self.removals + is_removal * count
        return _State(index, sequence, size, removals, recent[gone:], recent_ids, known_from)

    def since(self, sequence: int) -> tuple[_Change, ...]:
        """The changes after a sequence, of which all are kept."""
        return self.recent[bisect_right(self.recent, sequence, key=lambda one: one.sequence) :]

    def is_near(self, sequence: int) -> bool:
        """True where the changes after it are known, and not more than an answer is renewed by."""
        if sequence < self.known_from:
            return False
        later = self.since(sequence)
        return len(later) <= RECENT_CHANGES and sum(len(one.ids) for one in later) <= RECENT_IDS


@frozen(eq=False)
class _Removal:
    """References removed, whose rows wait for the searches that began before; `removals` is the
    count of the state without them."""

    ids: Ids
    removals: int
    wipe: Callable[[], None]


def _sum_up(changes: Sequence[_Change]) -> tuple[Ids, Ids]:
    """The ids of all these changes, and those of them that are there after the last one."""
    added: dict[int, None] = {}
    for change in changes:
        keys = change.ids.tolist()
        if change.is_removal:
            for key in keys:
                added.pop(key, None)
        else:
            added.update(dict.fromkeys(keys))
    changed = concatenated([change.ids for change in changes])
    return changed, np.array([*added], np.int64)


class Gallery:
    """References that many threads search while one at a time changes them.

    A search that starts after a change returned sees it, and sees all of a change or none of it.
    The gallery owns its index: fill it before, or change it through `add`.

    Over a `SegmentedIndex` no search and no change waits for the other: a search reads a view that
    does not change. What is removed is in no answer from then on, and is wiped when the last search
    that began before has ended. Range searches and lists of ids over shards are brought up to date
    at their end. Other searches of an index without views, and changes, wait for each other.

    A `SegmentedIndex` needs upkeep, a job at each `maintain`, which `Upkeep` calls: only changes
    wait, for its last step, which takes milliseconds.
    """

    def __init__(self, index: VectorIndex, sequence: int = 0) -> None:
        if sequence < 0:
            raise SequenceInvalid(f"sequence {sequence} is negative; give 0 or more")
        self._index = index
        self._segmented = index if isinstance(index, SegmentedIndex) else None
        self._state = _State(self._readable(), sequence, len(index), 0, (), 0, sequence)
        # Before a change waits for anything, and until it is published: for `look` beside it.
        self._coming: int | None = None
        # Always acquired in this order.
        self._upkeep = Lock()
        # Over an index without views: for searches that changes may run beside, apart from what
        # changes where references are.
        self._places = SharedLock()
        self._changes = Lock()
        # Over an index without views.
        self._lock = SharedLock()
        # Over one with views, how many read each state, by its removals, and what waits for them;
        # else how many search beside changes since each sequence. Held for a few statements only.
        self._counting = Lock()
        self._readers: Counter[int] = Counter()
        self._unwiped: tuple[_Removal, ...] = ()
        self._work_due = Event()

    @property
    def kind(self) -> str:
        """The kind of the index behind it."""
        return self._index.kind

    @property
    def dim(self) -> int:
        return self._index.dim

    @property
    def sequence(self) -> int:
        """The watermark: the last change that every search from now on sees."""
        return self._state.sequence

    @property
    def segments(self) -> tuple[Exact8Segment, ...]:
        """The sealed segments, to be read only; empty for a kind without segments."""
        return () if self._segmented is None else self._segmented.segments

    @property
    def search_fault(self) -> str | None:
        """Why searches are slower than they were set up to be, here or in a shard."""
        return self._index.search_fault

    @property
    def removals(self) -> int:
        """The number of references removed through this gallery."""
        return self._state.removals

    @property
    def ids(self) -> Ids:
        """All ids at one moment, ascending; a copy. Over shards no change waits for it."""
        if self._segmented is not None:
            with self._reading() as state:
                return state.index.ids
        with self._places.reading(), self._keeping_changes() as before:
            ids = self._index.ids
            with self._reading() as state:
                later = state.since(before.sequence)
        if later:
            changed, added = _sum_up(later)
            ids, new = ids[~np.isin(ids, changed)], np.sort(added)
            ids = np.insert(ids, ids.searchsorted(new), new)
        return ids

    def __len__(self) -> int:
        with self._reading() as state:
            return len(state.index)

    def __contains__(self, key: object) -> bool:
        with self._reading() as state:
            return key in state.index

    def look(self) -> Standing:
        """The standing now, without waiting for a change that is being made.

        `ShardLost` where a part of the gallery is known to be gone.
        """
        self._index.require_whole()
        # First: a change is published before it is not coming any more.
        coming = self._coming
        state = self._state
        return Standing(state.sequence, state.size, coming)

    def add(self, ids: Ids, vectors: Vectors, sequence: int, history: str = "") -> None:
        """Adds a batch under its sequence, which must be greater than the last.

        An empty batch only moves the watermark. `history` identifies the history of the store up
        to this change, for shards that outlive this process. `SequenceInvalid`, `VectorInvalid` or
        `IdInvalid`, with nothing changed.
        """
        with self._changing(sequence):
            if self._segmented is None:
                add = partial(self._index.add, ids, vectors)
                self._change_locked(add, sequence, ids, history, is_removal=False)
                return
            self._segmented.admit(self._segmented.prepare(ids, vectors))
            self._publish(sequence, ids)
        if len(self._segmented.heads) > 1:
            self._work_due.set()

    def remove(self, ids: Ids, sequence: int, history: str = "") -> None:
        """Removes a batch, as `add` adds one; `IdInvalid` for an unknown id, with none removed."""
        with self._changing(sequence):
            if self._segmented is None:
                remove = partial(self._index.remove, ids)
                self._change_locked(remove, sequence, ids, history, is_removal=True)
            else:
                wipe = self._segmented.withdraw(ids)
                self._publish(sequence, ids, wipe)
        self._work_due.set()
        self._wipe()

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order of the ids: float32[n, dim]; a copy."""
        with self._reading() as state:
            return state.index.vectors(ids)

    def held(self, ids: Ids) -> tuple[Ids, Vectors]:
        """The ids of these that are there, and their rows; over shards no change waits for it."""
        if self._segmented is None:
            with self._places.reading():
                return self._index.held(ids)
        with self._reading() as state:
            return state.index.held(ids)

    def search(self, queries: Vectors, k: int) -> Found:
        """The k best hits of each query, or all where there are fewer."""
        with self._reading() as state:
            return self._found(state.index.search(queries, k), state)

    def range_search(self, queries: Vectors, threshold: float) -> Found:
        """Every reference at or above the threshold."""
        if self._segmented is None:
            return self._search_beside_changes(queries, threshold)
        with self._reading() as state:
            return self._found(state.index.range_search(queries, threshold), state)

    def refresh(self, found: Found, queries: Vectors, threshold: float) -> Found:
        """Brings the answer of an earlier `range_search` up to date, to the last bit, by what was
        added since; after more than `RECENT_CHANGES`, or of `RECENT_IDS`, it searches again."""
        # An id that is looked up may be removed meanwhile.
        with suppress(IdInvalid), self._reading() as state:
            if found.sequence == state.sequence:
                return replace(found, hits=self._remaining(found.hits, state))
            if state.is_near(found.sequence):
                hits = self._renew(found, queries, threshold, state)
                return self._found(hits, state)
        return self.range_search(queries, threshold)

    def pin(self) -> Pinned:
        """All references as of one moment; what is removed later is wiped from it too."""
        assert self._segmented is not None, "shards are pinned each for itself"
        with self._reading() as state:
            assert isinstance(state.index, View)
            sealed, removed_since = state.index.sealed, self._segmented.removed_since
            segments = [view.segment for view in sealed]
            flags = [view.alive_rows for view in sealed]
            heads = Rewrite(0, heads=state.index.heads)
            copied = heads.build(self._segmented.config, self._segmented.scanner)
            if copied is not None:
                segments.append(copied)
                flags.append(copied.alive_rows)
                self._watch(copied, state)
        return Pinned(
            tuple(segments),
            tuple(flags),
            state.sequence,
            len(segments) - len(sealed),
            removed_since,
        )

    def account(self) -> MemoryAccount:
        """Memory use by part."""
        with self._reading() as state:
            return state.index.account()

    def warm(self) -> None:
        """Has compiled what searches here run, so that none waits for it; shards do so at once."""
        if self._segmented is not None:
            compile_kernels(self._segmented.scanner)

    def maintain(self) -> bool:
        """Does the next job of upkeep (seal, merge or compact); False if none is due."""
        with self._upkeep:
            return self._rewrite()

    def settle(self) -> None:
        """Does all jobs that are due."""
        while self.maintain():
            pass

    def compact(self) -> None:
        """Frees the memory of all tombstones that there are at the start, beside other calls."""
        index = self._segmented
        if index is None:
            self._index.compact()
            return
        with self._upkeep:
            names = index.removed_since.keys()
            while names & index.removed_since.keys() and self._rewrite(all_removed=True):
                pass

    def rearrange(self, perform: Callable[[], Value], *, beside_searches: bool = False) -> Value:
        """Performs a change of places alone, apart from searches and changes, or from changes."""
        assert self._segmented is None, "one with views is rearranged by `maintain`"
        if beside_searches:
            with self._changes, self._lock.reading():
                return perform()
        # First for running searches, which may be long: changes by other threads go on until they
        # have ended. The service makes all changes, and calls this, on one thread.
        with self._places.writing(), self._changes, self._lock.writing():
            return perform()

    def replace_rows(self, name: str, rows: RowStore) -> bool:
        """Has searches from now on read the rows of a segment from another store; False if the
        segment is gone. The old store is freed with the last search, or pin, that reads it."""
        if self._segmented is None:
            return False
        with self._changes:
            is_there = self._segmented.replace_rows(name, rows)
            self._show_parts()
        return is_there

    def wait_for_work(self, timeout_s: float) -> None:
        """Waits until a job may have become due, for at most `timeout_s`."""
        self._work_due.wait(timeout_s)
        self._work_due.clear()

    def wake(self) -> None:
        """Ends `wait_for_work`."""
        self._work_due.set()

    def deadline_s(self) -> float | None:
        """Seconds until the oldest tombstone has to be gone; None where there is none."""
        return self._index.deadline_s()

    def _readable(self) -> View | VectorIndex:
        return self._index if self._segmented is None else self._segmented.view

    @contextmanager
    def _reading(self) -> Iterator[_State]:
        """The state to read: no reference of it is wiped, or changed, until the end."""
        if self._segmented is None:
            with self._lock.reading():
                yield self._state
            return
        with self._counting:
            state = self._state
            self._readers[state.removals] += 1
        try:
            yield state
        finally:
            with self._counting:
                self._readers[state.removals] -= 1
            if self._unwiped:
                self._wipe()

    def _publish(self, sequence: int, ids: Ids, wipe: Callable[[], None] | None = None) -> None:
        """Lets readers see the index as it is after a change, of a removal with what wipes it;
        call it under `_changes`."""
        state = self._state.after(
            self._readable(), sequence, ids, is_removal=wipe is not None, kept_from=sequence
        )
        with self._counting:
            if wipe is not None:
                removed = _Removal(ids.copy(), state.removals, wipe)
                self._unwiped = (*self._unwiped, removed)
            self._state = state

    def _change_locked(
        self,
        perform: Callable[[], None],
        sequence: int,
        ids: Ids,
        history: str,
        *,
        is_removal: bool,
    ) -> None:
        with self._lock.writing():
            self._index.note(sequence, history)
            perform()
            with self._counting:
                self._readers = +self._readers
                oldest = min(self._readers, default=sequence)
                self._state = self._state.after(
                    self._index, sequence, ids, is_removal=is_removal, kept_from=oldest
                )

    def _search_beside_changes(self, queries: Vectors, threshold: float) -> Found:
        """`range_search` of an index that may change meanwhile: a change that its parts have seen
        or not is left out of the answer, and put right by the end, when none is under way."""
        with self._places.reading(), self._keeping_changes() as before:
            hits = self._index.range_search(queries, threshold)
            with self._reading() as state:
                if state is not before:
                    found = Found(hits, before.sequence, 0)
                    hits = self._renew(found, queries, threshold, state)
                return Found(hits, state.sequence, len(state.index))

    @contextmanager
    def _keeping_changes(self) -> Iterator[_State]:
        """The state now; all changes from here on are kept until the end."""
        with self._counting:
            state = self._state
            self._readers[state.sequence] += 1
        try:
            yield state
        finally:
            with self._counting:
                self._readers[state.sequence] -= 1

    def _renew(
        self, found: Found, queries: Vectors, threshold: float, state: _State
    ) -> CertifiedHits:
        """The hits with what was added since, in a state that is being read, and without what was
        removed."""
        changed, new = _sum_up(state.since(found.sequence))
        kept = ~np.isin(found.hits.ids, changed)
        pairs = [(found.hits.query_of[kept], found.hits.ids[kept], found.hits.scores[kept])]
        for start in range(0, len(new) if len(queries) else 0, RECENT_IDS):
            # In parts: beside a long search a whole file may have been imported.
            part = new[start : start + RECENT_IDS]
            head = Head(self.dim, len(part))
            head.append(part.tolist(), part, state.index.vectors(part))
            pairs.append(head.view.at_or_above(queries, np.full(len(queries), threshold)))
        query_of, ids, scores = (np.concatenate(column) for column in zip(*pairs, strict=True))
        hits = arrange(len(queries), query_of, ids, scores)
        searched = found.hits.certificate
        certificate = replace(searched, compared=searched.compared + len(new))
        return CertifiedHits(hits.offsets, hits.ids, hits.scores, certificate)

    def _wipe(self) -> None:
        """Wipes what was removed before every search that runs began."""
        with self._counting:
            self._readers = +self._readers
            oldest = min(self._readers, default=self._state.removals)
            due = [removal for removal in self._unwiped if removal.removals <= oldest]
            self._unwiped = tuple(one for one in self._unwiped if one.removals > oldest)
        with ExitStack() as wipes:
            for removal in due:
                wipes.callback(self._wipe_one, removal)

    def _wipe_one(self, removal: _Removal) -> None:
        """Wipes what one removal took; what fails is tried again when the next search ends."""
        try:
            removal.wipe()
        except BaseException:
            with self._counting:
                self._unwiped = (removal, *self._unwiped)
            raise

    def _removed_since(self, state: _State) -> Ids:
        """The ids removed since a state that is being read."""
        return concatenated([one.ids for one in self._unwiped if one.removals > state.removals])

    def _found(self, hits: CertifiedHits, state: _State) -> Found:
        return Found(self._remaining(hits, state), state.sequence, len(state.index))

    def _remaining(self, hits: CertifiedHits, state: _State) -> CertifiedHits:
        """The hits without those removed since."""
        removed = self._removed_since(state)
        if not len(removed):
            return hits
        kept = ~np.isin(hits.ids, removed)
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        return replace(
            hits, offsets=before[hits.offsets], ids=hits.ids[kept], scores=hits.scores[kept]
        )

    def _watch(self, copied: Exact8Segment, state: _State) -> None:
        """Has removals wiped from a copy of the state that is being read, those since included."""
        assert self._segmented is not None
        with self._changes:
            self._segmented.watch(copied)
            rows, present = copied.find(self._removed_since(state))
            copied.remove_rows(np.unique(rows[present]))

    def _rewrite(self, *, all_removed: bool = False) -> bool:
        index = self._segmented
        if index is None:
            return False
        # `_upkeep` admits one rewrite at a time.
        with self._changes:
            rewrite = index.begin_rewrite(all_removed=all_removed)
        if rewrite is None:
            return False
        try:
            product = rewrite.build(index.config, index.scanner)
            with self._changes:
                index.finish_rewrite(rewrite, product)
                self._show_parts()
        except BaseException:
            with self._changes:
                index.abandon_rewrite(rewrite)
            raise
        return True

    def _show_parts(self) -> None:
        """Lets readers see the same references in other parts; call it under `_changes`."""
        with self._counting:
            self._state = replace(self._state, index=self._readable())

    @contextmanager
    def _changing(self, sequence: int) -> Iterator[None]:
        """Alone among changes, with one whose sequence is after the last."""
        self._coming = sequence
        try:
            with self._changes:
                if sequence <= self._state.sequence:
                    raise SequenceInvalid(
                        f"sequence {sequence} is not after {self._state.sequence}; "
                        "give each change a greater one than the last"
                    )
                yield
        finally:
            self._coming = None
