"""The gallery that threads share: an index, its lock and the watermark of its changes."""

from __future__ import annotations

from dataclasses import dataclass

from indexes.base import Hits, Ids, VectorIndex, Vectors
from indexes.errors import SequenceInvalid
from indexes.lock import SharedLock


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


class Gallery:
    """References that many threads search while one at a time changes them.

    A search that starts after a change returned sees it; it sees all of a change or nothing.
    Searches run together; a change waits for those that run, and goes before those that come.
    The gallery owns its index from here on: fill it first, or change it through `add`.
    """

    def __init__(self, index: VectorIndex, sequence: int = 0) -> None:
        if sequence < 0:
            raise SequenceInvalid(f"sequence {sequence} is negative; give 0 or more")
        self._index = index
        self._sequence = sequence
        self._lock = SharedLock()

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
        with self._lock.writing():
            self._check_sequence(sequence)
            self._index.add(ids, vectors)
            self._sequence = sequence

    def remove(self, ids: Ids, sequence: int) -> None:
        """Removes a batch under its sequence; an unknown id is refused, and then all are."""
        with self._lock.writing():
            self._check_sequence(sequence)
            self._index.remove(ids)
            self._sequence = sequence

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

    def _check_sequence(self, sequence: int) -> None:
        if sequence <= self._sequence:
            raise SequenceInvalid(
                f"sequence {sequence} is not after {self._sequence}; "
                "give each change a greater one than the last"
            )
