"""Links between documents, made from pairs of references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.sweeps.sweep_model import PairTable

Documents = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """The document of each live reference: `references` int64[n] ascending, `documents` int64[n].

    Documents are numbers here; only their order matters, which decides between equal scores.
    """

    references: NDArray[np.int64]
    documents: Documents

    @classmethod
    def numbered(cls, documents: Sequence[Sequence[int]]) -> Self:
        """Numbers the documents, given by their references, in this order."""
        references = np.array([key for keys in documents for key in keys], np.int64)
        numbers = np.repeat(np.arange(len(documents)), [len(keys) for keys in documents])
        order = np.argsort(references, kind="stable")
        return cls(references[order], numbers[order])

    def of(self, references: NDArray[np.int64]) -> Documents:
        """int64[m]: the document of each reference, -1 for one that is gone."""
        if not len(self.references):
            return np.full(len(references), -1, np.int64)
        places = np.searchsorted(self.references, references)
        places = np.minimum(places, len(self.references) - 1)
        return np.where(self.references[places] == references, self.documents[places], -1)

    def of_any(self, holdings: Sequence[Sequence[int]]) -> Documents:
        """int64[k]: the document of each list of references, by those that are known here.

        -1 if none is. No list is empty.
        """
        sizes = [len(references) for references in holdings]
        flat = np.array([key for references in holdings for key in references], np.int64)
        if not len(flat):
            return flat
        return np.maximum.reduceat(self.of(flat), np.cumsum([0, *sizes[:-1]]))

    def references_of(self, documents: Documents) -> NDArray[np.int64]:
        """All references of these documents, ascending."""
        return self.references[np.isin(self.documents, documents)]


@dataclass(frozen=True, slots=True, eq=False)
class LinkTable:
    """Pairs of documents with similar faces: int64[m], int64[m], float32[m].

    left < right, ascending by both, each pair once.
    """

    left: Documents
    right: Documents
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.left)

    @classmethod
    def of(cls, one: Documents, other: Documents, scores: NDArray[np.float32]) -> Self:
        """From pairs in any order; a repeated pair has its highest score."""
        left, right = np.minimum(one, other), np.maximum(one, other)
        order = np.lexsort((-scores, right, left))
        left, right, scores = left[order], right[order], scores[order]
        is_first = np.ones(len(left), np.bool_)
        is_first[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
        return cls(left[is_first], right[is_first], scores[is_first])

    @classmethod
    def joined(cls, tables: Sequence[LinkTable]) -> Self:
        """From tables that may share pairs."""
        return cls.of(
            np.concatenate([np.empty(0, np.int64), *(table.left for table in tables)]),
            np.concatenate([np.empty(0, np.int64), *(table.right for table in tables)]),
            np.concatenate([np.empty(0, np.float32), *(table.scores for table in tables)]),
        )

    def ends(self) -> tuple[Documents, NDArray[np.int64], NDArray[np.int64]]:
        """The documents, ascending, and the indices of the left and the right ends among them."""
        documents, places = np.unique(np.concatenate([self.left, self.right]), return_inverse=True)
        return documents, places[: len(self)], places[len(self) :]

    def at(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> LinkTable:
        """The links in these rows, or marked in bool[m]."""
        return LinkTable(self.left[rows], self.right[rows], self.scores[rows])


def link_documents(pairs: PairTable, owners: Owners, exceptions: Documents) -> LinkTable:
    """A link for each pair of documents that has a pair of references.

    Pairs of one document and pairs with a reference that is gone are left out. `exceptions`
    int64[k, 2] are documents that people have judged to be two persons: they are not linked.
    """
    one, other = owners.of(pairs.left), owners.of(pairs.right)
    kept = (one != other) & (one >= 0) & (other >= 0)
    links = LinkTable.of(one[kept], other[kept], pairs.scores[kept])
    return drop_exceptions(links, exceptions)


def drop_exceptions(links: LinkTable, exceptions: Documents) -> LinkTable:
    """The links without the pairs of documents in int64[k, 2]."""
    return links.at(~mark_exceptions(links.left, links.right, exceptions))


def mark_exceptions(one: Documents, other: Documents, exceptions: Documents) -> NDArray[np.bool_]:
    """bool[m]: which pairs are among those of int64[k, 2], in either order."""
    if not len(exceptions) or not len(one):
        return np.zeros(len(one), np.bool_)
    low, high = exceptions.min(axis=1), exceptions.max(axis=1)
    # A pair as one number; there are never too many documents for that.
    width = 1 + max(int(one.max()), int(other.max()), int(high.max()))
    assert width <= 1 << 31
    pairs = np.minimum(one, other) * width + np.maximum(one, other)
    return np.isin(pairs, low * width + high)


def number_exceptions(
    exceptions: Iterable[tuple[str, str]], references: Mapping[str, Sequence[int]], owners: Owners
) -> Documents:
    """int64[k, 2]: judged pairs of document ids as documents of `owners`.

    `references` are the live references of each document; a pair with a document that has none is
    left out.
    """
    known = [pair for pair in sorted(exceptions) if all(references.get(key) for key in pair)]
    documents = owners.of_any([references[key] for pair in known for key in pair]).reshape(-1, 2)
    return documents[(documents >= 0).all(axis=1)]
