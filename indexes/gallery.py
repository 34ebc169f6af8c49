"""A thread-safe gallery: an index, its locks and the watermark of its changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Condition, Event, Lock

import numpy as np
from numpy.typing import NDArray

from indexes.base import Hits, Ids, MemoryAccount, VectorIndex, Vectors
from indexes.errors import SequenceInvalid
from indexes.exact.exact8 import Exact8Segment, RowStore
from indexes.exact.scanner import Scanner
from indexes.segmented.merging import Rewrite, require_new
from indexes.segmented.segments import SegmentedIndex


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


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """An answer and the state of the gallery that was searched.

    `sequence` is the last change that the search has seen, `searched` the number of references.
    """

    hits: Hits
    sequence: int
    searched: int


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """All references of a gallery at one moment: ids ascending, `float32[n, dim]`, watermark."""

    ids: Ids
    vectors: Vectors
    sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class Pinned:
    """All references of a gallery at one moment as sealed segments, for long reads.

    `alive` bool[n] says which rows of each segment were alive then: a row removed since may be half
    wiped. `head` is the number of last segments that were sealed for this alone (0 or 1).
    `removed_since` has the time of the oldest tombstone by the name of its segment.
    """

    segments: tuple[Exact8Segment, ...]
    alive: tuple[NDArray[np.bool_], ...]
    sequence: int
    head: int
    removed_since: dict[str, float]


class Gallery:
    """References that many threads search while one at a time changes them.

    A search that starts after a change returned sees it, and sees all of a change or none of it.
    Searches run concurrently; a change waits for running ones and goes before later ones. The
    gallery owns its index: fill it before, or change it through `add`.

    A `SegmentedIndex` needs upkeep, one job at each `maintain`: searches and changes continue
    meanwhile, and wait only for the last step, which takes milliseconds. `Upkeep` calls it.
    """

    def __init__(self, index: VectorIndex, sequence: int = 0) -> None:
        if sequence < 0:
            raise SequenceInvalid(f"sequence {sequence} is negative; give 0 or more")
        self._index = index
        self._segmented = index if isinstance(index, SegmentedIndex) else None
        self._sequence = sequence
        self._removals = 0
        # Always acquired in this order.
        self._upkeep = Lock()
        self._changes = Lock()
        self._lock = SharedLock()
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
        with self._lock.reading():
            return self._sequence

    @property
    def segments(self) -> tuple[Exact8Segment, ...]:
        """The sealed segments, to be read only; empty for a kind without segments."""
        with self._lock.reading():
            return () if self._segmented is None else self._segmented.segments

    @property
    def removals(self) -> int:
        """How many references have been removed through this gallery."""
        with self._lock.reading():
            return self._removals

    @property
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""
        with self._lock.reading():
            return self._index.ids

    def __len__(self) -> int:
        with self._lock.reading():
            return len(self._index)

    def __contains__(self, key: object) -> bool:
        with self._lock.reading():
            return key in self._index

    def add(self, ids: Ids, vectors: Vectors, sequence: int) -> None:
        """Adds a batch under its sequence, which must be greater than the last.

        An empty batch only moves the watermark. `SequenceInvalid`, `VectorInvalid` or `IdInvalid`,
        with nothing changed.
        """
        with self._changes:
            self._check_sequence(sequence)
            change = self._prepared(ids, vectors)
            self._change(change, sequence)
        if self._segmented is not None and len(self._segmented.heads) > 1:
            self._work_due.set()

    def remove(self, ids: Ids, sequence: int) -> None:
        """Removes a batch under its sequence; `IdInvalid` for an unknown id, with none removed."""
        with self._changes:
            self._check_sequence(sequence)
            self._change(partial(self._index.remove, ids), sequence, removed=len(ids))
        self._work_due.set()

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order of the ids: float32[n, dim]; a copy."""
        with self._lock.reading():
            return self._index.vectors(ids)

    def search(self, queries: Vectors, k: int) -> Found:
        """The k best hits of each query, or all where there are fewer."""
        with self._lock.reading():
            hits = self._index.search(queries, k)
            return Found(hits, self._sequence, len(self._index))

    def range_search(self, queries: Vectors, threshold: float) -> Found:
        """Every reference at or above the threshold."""
        with self._lock.reading():
            hits = self._index.range_search(queries, threshold)
            return Found(hits, self._sequence, len(self._index))

    def contents(self) -> Contents:
        """A copy of all references as of one moment; changes wait while it is made."""
        with self._lock.reading():
            ids = self._index.ids
            return Contents(ids, self._index.vectors(ids), self._sequence)

    def pin(self, scanner: Scanner | None = None) -> Pinned:
        """All references as of one moment; changes wait only while head and flags are copied.

        `scanner` is for an index without segments, which becomes one segment.
        """
        if self._segmented is None:
            held = self.contents()
            whole = Exact8Segment(held.ids, held.vectors, scanner=scanner or Scanner())
            return Pinned((whole,), (whole.alive_rows.copy(),), held.sequence, 1, {})
        with self._lock.reading():
            sealed = Rewrite.of_segments(self._segmented.segments, 0)
            heads = Rewrite.of_heads(self._segmented.heads, 0)
            sequence, removed_since = self._sequence, self._segmented.removed_since
        head = heads.build(self._segmented.config, self._segmented.scanner)
        heads_sealed = () if head is None else (head,)
        alive = tuple(segment.alive_rows.copy() for segment in heads_sealed)
        return Pinned(
            sealed.segments + heads_sealed,
            sealed.alive + alive,
            sequence,
            len(heads_sealed),
            removed_since,
        )

    def account(self) -> MemoryAccount:
        """Memory use by part."""
        with self._lock.reading():
            return self._index.account()

    def maintain(self) -> bool:
        """Does the next job of upkeep (seal, merge or compact); False if none is due."""
        with self._upkeep:
            return self._rewrite()

    def settle(self) -> None:
        """Does all jobs that are due."""
        while self.maintain():
            pass

    def compact(self) -> None:
        """Frees the memory of all tombstones that there are at the start.

        Searches continue meanwhile; where the index has no segments, changes wait.
        """
        if self._segmented is None:
            with self._changes, self._lock.reading():
                self._index.compact()
            return
        with self._upkeep:
            names = self._names_with_tombstones()
            while names & self._names_with_tombstones() and self._rewrite(all_removed=True):
                pass

    def replace_rows(self, name: str, rows: RowStore) -> bool:
        """Reads the rows of a segment from another store; False if the segment is gone."""
        with self._lock.writing():
            for segment in () if self._segmented is None else self._segmented.segments:
                if segment.name == name:
                    segment.replace_rows(rows)
                    return True
            return False

    def wait_for_work(self, timeout_s: float) -> None:
        """Waits until a job may have become due, for at most `timeout_s`."""
        self._work_due.wait(timeout_s)
        self._work_due.clear()

    def wake(self) -> None:
        """Ends `wait_for_work`."""
        self._work_due.set()

    def deadline_s(self) -> float | None:
        """Seconds until the oldest tombstone has to be gone; None where there is none."""
        with self._lock.reading():
            return self._index.deadline_s()

    def _prepared(self, ids: Ids, vectors: Vectors) -> Callable[[], None]:
        """The change that adds a batch, after all work that needs no lock."""
        if self._segmented is None:
            return partial(self._index.add, ids, vectors)
        batch = self._segmented.prepare(ids, vectors)
        if batch.segment is not None:
            # Slow for a large batch, so not under the lock. It holds until the change: no other
            # thread adds, and a rewrite moves the references of these parts along.
            with self._lock.reading():
                parts = self._segmented.parts
            require_new(batch, parts)
        return partial(self._segmented.admit, batch, is_new=batch.segment is not None)

    def _change(self, change: Callable[[], None], sequence: int, removed: int = 0) -> None:
        with self._lock.writing():
            change()
            self._sequence = sequence
            self._removals += removed

    def _rewrite(self, *, all_removed: bool = False) -> bool:
        index = self._segmented
        if index is None:
            return False
        # Nothing changes under the read lock, and `_upkeep` admits one rewrite at a time.
        with self._lock.reading():
            rewrite = index.begin_rewrite(all_removed=all_removed)
        if rewrite is None:
            return False
        try:
            product = rewrite.build(index.config, index.scanner)
            with self._lock.writing():
                index.finish_rewrite(rewrite, product)
        except BaseException:
            with self._lock.reading():
                index.abandon_rewrite(rewrite)
            raise
        return True

    def _names_with_tombstones(self) -> set[str]:
        with self._lock.reading():
            return set() if self._segmented is None else set(self._segmented.removed_since)

    def _check_sequence(self, sequence: int) -> None:
        if sequence <= self._sequence:
            raise SequenceInvalid(
                f"sequence {sequence} is not after {self._sequence}; "
                "give each change a greater one than the last"
            )
