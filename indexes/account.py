"""Where the memory of an index goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


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


@runtime_checkable
class Accountable(Protocol):
    """An index that knows where its memory goes."""

    def account(self) -> MemoryAccount: ...
