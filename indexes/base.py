"""What every index promises: vectors in, ids and scores out. It knows no face."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Answers to a batch of q queries, side by side.

    Query i owns rows `offsets[i]:offsets[i + 1]` of `ids` (int64[m]) and `scores` (float32[m],
    cosine), best first, equal scores by ascending id.
    """

    offsets: NDArray[np.int64]
    ids: Ids
    scores: Scores

    def __len__(self) -> int:
        """The number of queries, not of hits."""
        return len(self.offsets) - 1

    def of(self, query: int) -> tuple[Ids, Scores]:
        """The ids and scores of one query."""
        rows = slice(int(self.offsets[query]), int(self.offsets[query + 1]))
        return self.ids[rows], self.scores[rows]


@dataclass(frozen=True, slots=True)
class MemoryAccount:
    """Bytes by part, of so many references.

    `codes`, `rows` (the vectors; of a mapped file only what is ours), `ids` (with their order, by
    which they are looked up), `residuals` and `alive` are of sealed segments, removed rows
    included; `head` is everything of the references not sealed yet.
    """

    references: int
    codes: int = 0
    rows: int = 0
    ids: int = 0
    residuals: int = 0
    alive: int = 0
    head: int = 0

    @property
    def total(self) -> int:
        return self.codes + self.rows + self.ids + self.residuals + self.alive + self.head

    @property
    def bytes_per_reference(self) -> float:
        """0 where there is none."""
        return self.total / self.references if self.references else 0.0

    def __add__(self, other: MemoryAccount) -> MemoryAccount:
        return MemoryAccount(
            self.references + other.references,
            self.codes + other.codes,
            self.rows + other.rows,
            self.ids + other.ids,
            self.residuals + other.residuals,
            self.alive + other.alive,
            self.head + other.head,
        )


class VectorIndex(ABC):
    """Unit vectors under int64 ids, searched by inner product.

    Vectors are `float32[n, dim]`, finite, unit rows to 1e-3; ids are `int64[n]`, not negative;
    an empty batch is fine. Input that breaks this raises `VectorInvalid`, `IdInvalid` or
    `SearchInvalid` and changes nothing. Searches may run together, a change must run alone:
    `Gallery` is the thread-safe thing in front of it.
    """

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name that a snapshot and a report use."""

    @property
    @abstractmethod
    def dim(self) -> int: ...

    @property
    @abstractmethod
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds new ids; an id that is there already is refused."""

    @abstractmethod
    def remove(self, ids: Ids) -> None:
        """Removes these ids; an unknown one is refused, and then none is removed."""

    @abstractmethod
    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order asked: float32[n, dim]; a copy."""

    @abstractmethod
    def search(self, queries: Vectors, k: int) -> Hits:
        """The k best of each query, or all where there are fewer."""

    @abstractmethod
    def range_search(self, queries: Vectors, threshold: float) -> Hits:
        """Everything whose score, as a float, is at or above the threshold."""

    @abstractmethod
    def account(self) -> MemoryAccount:
        """Where the memory goes."""

    def compact(self) -> None:  # noqa: B027 - most have nothing to do
        """Takes what is left of removed references out of memory; searches may run beside it."""

    def deadline_s(self) -> float | None:
        """How long until something is due for what was removed; None where nothing is."""
        return None
