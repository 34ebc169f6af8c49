"""The gallery that threads share: an index, its locks and the watermark of its changes."""

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
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.rowstore import RowStore
from indexes.exact.scanner import Scanner
from indexes.segmented.merging import Rewrite, require_new
from indexes.segmented.segments import SegmentedIndex

# A lock that many readers share and one writer has alone.


class SharedLock:
    """Readers together, a writer alone; a waiting writer goes before readers that come later.

    Not re-entrant: a thread that holds it must not ask for it again.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Holds off writers."""
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
        """Holds off everybody else."""
        with self._changed:
            self._writers_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
                self._writing = True
            finally:
                self._writers_waiting -= 1
                # A writer that gave up waiting must let the readers behind it go on.
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """An answer, and what it was sought in.

    `sequence` is the last change that the search has seen, `searched` the number of references.
    """

    hits: Hits
    sequence: int
    searched: int


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """Everything in a gallery at one moment: ids ascending, `float32[n, dim]`, the watermark."""

    ids: Ids
    vectors: Vectors
    sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class Pinned:
    """Everything in a gallery at one moment, as sealed segments, for those who read for long.

    `alive` bool[n] says which rows of each segment were alive then: what has been removed since
    may be half wiped. `head` counts the last segments that were sealed for this alone (0 or 1).
    `removed_since` has the time of the oldest tombstone by the name of its segment.
    """

    segments: tuple[Exact8Segment, ...]
    alive: tuple[NDArray[np.bool_], ...]
    sequence: int
    head: int
    removed_since: dict[str, float]


class Gallery:
    """References that many threads search while one at a time changes them.

    A search that starts after a change returned sees it; it sees all of a change or nothing.
    Searches run together; a change waits for those that run, and goes before those that come.
    The gallery owns its index from here on: fill it first, or change it through `add`.

    A `SegmentedIndex` needs upkeep, one job at each `maintain`: searches and changes go on
    meanwhile, and wait for the last step only, which takes milliseconds. `Upkeep` calls it.
    """

    def __init__(self, index: VectorIndex, sequence: int = 0) -> None:
        if sequence < 0:
            raise SequenceInvalid(f"sequence {sequence} is negative; give 0 or more")
        self._index = index
        self._segmented = index if isinstance(index, SegmentedIndex) else None
        self._sequence = sequence
        self._removals = 0
        # Always taken in this order.
        self._upkeep = Lock()
        self._changes = Lock()
        self._lock = SharedLock()
        self._stirred = Event()

    @property
    def kind(self) -> str:
        """The kind of the index behind it."""
        return self._index.kind

    @property
    def dim(self) -> int:
        return self._index.dim

    @property
    def sequence(self) -> int:
        """The watermark: the last change that a search from now on is sure to see."""
        with self._lock.reading():
            return self._sequence

    @property
    def segments(self) -> tuple[Exact8Segment, ...]:
        """The sealed segments, to be looked at; none where the index has none."""
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

        An empty batch only moves the watermark. Whatever is refused changes nothing:
        `SequenceInvalid`, `VectorInvalid`, `IdInvalid`.
        """
        with self._changes:
            self._check_sequence(sequence)
            change = self._prepared(ids, vectors)
            self._change(change, sequence)
        if self._segmented is not None and len(self._segmented.heads) > 1:
            self._stirred.set()

    def remove(self, ids: Ids, sequence: int) -> None:
        """Removes a batch under its sequence; an unknown id is refused, and then all are."""
        with self._changes:
            self._check_sequence(sequence)
            self._change(partial(self._index.remove, ids), sequence, removed=len(ids))
        self._stirred.set()

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order asked: float32[n, dim]."""
        with self._lock.reading():
            return self._index.vectors(ids)

    def search(self, queries: Vectors, k: int) -> Found:
        """The k best of each query, or all where there are fewer."""
        with self._lock.reading():
            hits = self._index.search(queries, k)
            return Found(hits, self._sequence, len(self._index))

    def range_search(self, queries: Vectors, threshold: float) -> Found:
        """Everything at or above the threshold."""
        with self._lock.reading():
            hits = self._index.range_search(queries, threshold)
            return Found(hits, self._sequence, len(self._index))

    def contents(self) -> Contents:
        """A copy of everything, as of one moment; changes wait while it is made."""
        with self._lock.reading():
            ids = self._index.ids
            return Contents(ids, self._index.vectors(ids), self._sequence)

    def pin(self, scanner: Scanner | None = None) -> Pinned:
        """Everything as of one moment; changes wait only while the head and flags are copied.

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
        """Where the memory goes."""
        with self._lock.reading():
            return self._index.account()

    def maintain(self) -> bool:
        """Does the next job of upkeep: seals, merges or compacts; False if none is due."""
        with self._upkeep:
            return self._rewrite()

    def settle(self) -> None:
        """Does all that is due."""
        while self.maintain():
            pass

    def compact(self) -> None:
        """Takes all tombstones out of memory, those of now at least, before it returns.

        Searches go on meanwhile; where the index has no segments here, changes wait.
        """
        if self._segmented is None:
            with self._changes, self._lock.reading():
                self._index.compact()
            return
        with self._upkeep:
            names = self._buried()
            while names & self._buried() and self._rewrite(all_removed=True):
                pass

    def replace_rows(self, name: str, rows: RowStore) -> bool:
        """Serves the rows of a segment from another place; False if it is no longer here."""
        with self._lock.writing():
            for segment in () if self._segmented is None else self._segmented.segments:
                if segment.name == name:
                    segment.replace_rows(rows)
                    return True
            return False

    def await_stir(self, timeout_s: float) -> None:
        """Waits until something may have become due, or for so long."""
        self._stirred.wait(timeout_s)
        self._stirred.clear()

    def stir(self) -> None:
        """Ends a wait for something due."""
        self._stirred.set()

    def deadline_s(self) -> float | None:
        """How long until the oldest tombstone has to be gone; None where there is none."""
        with self._lock.reading():
            return self._index.deadline_s()

    def _prepared(self, ids: Ids, vectors: Vectors) -> Callable[[], None]:
        """The change that adds a batch, with all work done that needs no lock."""
        if self._segmented is None:
            return partial(self._index.add, ids, vectors)
        batch = self._segmented.prepare(ids, vectors)
        if batch.segment is not None:
            # Long for a large batch, so not under the lock. It holds until the change: nobody
            # else adds, and a rewrite takes the references of these parts along.
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
        # Nothing changes while we read, and only one of us is here.
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

    def _buried(self) -> set[str]:
        with self._lock.reading():
            return set() if self._segmented is None else set(self._segmented.removed_since)

    def _check_sequence(self, sequence: int) -> None:
        if sequence <= self._sequence:
            raise SequenceInvalid(
                f"sequence {sequence} is not after {self._sequence}; "
                "give each change a greater one than the last"
            )
