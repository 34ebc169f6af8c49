"""The references of a join by id, and blocks of them as codes, wherever their segments keep them.

A block is gathered from the segments, which costs some hundredths of its comparisons; it has no
removed row in it, and does not depend on how the references lie in segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids, Vectors
from indexes.errors import IdInvalid, VectorInvalid
from indexes.exact.codes import Codes
from indexes.exact.exact8 import Exact8Index
from indexes.exact.intrinsics import BLOCK
from indexes.scoring import Positions

_ZERO_CODE = 128
# 64 bits of the golden ratio: odd, and without a pattern.
_FACTOR = 0x9E3779B97F4A7C15


class Side(Protocol):
    """Sealed segments as of one moment, and which of their rows count: bool[n] for each."""

    @property
    def segments(self) -> Sequence[Exact8Index]: ...

    @property
    def alive(self) -> Sequence[NDArray[np.bool_]]: ...


class References:
    """The references of one side: `ids` int64[n] ascending, `places` int64[n] where each lies.

    A place is a row, counted through all segments; -1 says that the reference is gone. An id in
    two segments is refused with `IdInvalid`, segments of two dimensions with `VectorInvalid`.
    """

    def __init__(self, segments: Sequence[Exact8Index], alive: Sequence[NDArray[np.bool_]]) -> None:
        self.segments = tuple(segments)
        _one_dim(self.segments)
        sizes = [len(segment.row_ids) for segment in segments]
        self._starts = np.cumsum([0, *sizes])
        counted = [mask[:size] for mask, size in zip(alive, sizes, strict=True)]
        places = np.flatnonzero(np.concatenate([np.empty(0, np.bool_), *counted]))
        ids = np.concatenate([np.empty(0, np.int64), *(s.row_ids for s in segments)])[places]
        order = np.argsort(ids)
        self.ids: Ids = ids[order]
        self.places: Positions = places[order]
        twice = np.flatnonzero(self.ids[1:] == self.ids[:-1])
        if len(twice):
            raise IdInvalid(f"id {self.ids[twice[0]]} is in two segments; give each id once")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int | None:
        """The dimension; None where there is no segment."""
        return self.segments[0].dim if self.segments else None

    def laid_out(self, ids: Ids) -> References:
        """Those of these ascending ids, in their order; what is not here is gone."""
        laid_out = References.__new__(References)
        laid_out.segments, laid_out._starts = self.segments, self._starts
        laid_out.ids = ids
        laid_out.places = np.full(len(ids), -1, np.int64)
        here = np.isin(ids, self.ids, assume_unique=True)
        laid_out.places[here] = self.places[np.searchsorted(self.ids, ids[here])]
        return laid_out

    def digests(self) -> NDArray[np.uint64]:
        """A number for what each reference is: its id, its codes and what they leave over.

        Two vectors with equal codes and residuals would have one number; those of two faces,
        models or keys do not. The vectors, which may lie on a disk, are not read.
        """
        parts = (_digests(segment) for segment in self.segments)
        return np.concatenate([np.empty(0, np.uint64), *parts])[self.places]

    def blocks(self, part: slice) -> list[Block]:
        """Those of this part of the ids that are not gone: a block for each code limit."""
        places = self.places[part]
        places = places[places >= 0]
        chosen_of: dict[float, list[Positions]] = {}
        for segment, chosen, _ in self.split(places):
            chosen_of.setdefault(segment.codes.limit, []).append(chosen)
        return [
            Block(self, np.sort(places[np.concatenate(chosen)]))
            for _, chosen in sorted(chosen_of.items(), key=lambda item: item[0])
        ]

    def split(self, places: Positions) -> Iterator[tuple[Exact8Index, Positions, Positions]]:
        """For each segment that has some of the places: which ones, and their rows in it."""
        segment_of = np.searchsorted(self._starts, places, side="right") - 1
        # Counted: sorting or hashing so many costs more than all else here.
        for i in np.flatnonzero(np.bincount(segment_of)):
            chosen = np.flatnonzero(segment_of == i)
            yield self.segments[i], chosen, places[chosen] - self._starts[i]


class Block:
    """Some references of one side and one code limit, as codes: rows by ascending residual.

    `ids` int64[n] by row; `alive` bool[n padded] is false for the padding alone. `places` are
    ascending.
    """

    def __init__(self, side: References, places: Positions) -> None:
        residuals = np.empty(len(places), np.float32)
        for segment, chosen, rows in side.split(places):
            residuals[chosen] = segment.codes.residuals[rows]
        # By place the rows of a segment are in order already: sorting finds runs, and whatever is
        # gathered lies one after another in memory.
        order = np.argsort(residuals, kind="stable")
        self._side, self._places = side, places[order]
        padded = -(-len(places) // BLOCK) * BLOCK
        first = next(side.split(places))[0].codes
        codes = np.full((padded, first.bytes.shape[1]), _ZERO_CODE, np.uint8)
        self.ids: Ids = np.empty(len(places), np.int64)
        for segment, chosen, rows in side.split(self._places):
            # Twice as fast as indexing.
            codes[chosen] = np.take(segment.codes.bytes, rows, axis=0)
            self.ids[chosen] = segment.row_ids[rows]
        self.codes = Codes.restore(codes, residuals[order], first.dim, first.limit)
        self.alive = np.arange(padded) < len(places)

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, rows: Positions) -> Vectors:
        """The vectors of these rows: float32[m, dim]."""
        vectors = np.empty((len(rows), self.codes.dim), np.float32)
        for segment, chosen, own_rows in self._side.split(self._places[rows]):
            vectors[chosen] = segment.rows.take(own_rows)
        return vectors

    def unremoved(self, rows: Positions) -> NDArray[np.bool_]:
        """Which of these rows have not been removed from their segments by now."""
        unremoved = np.empty(len(rows), np.bool_)
        for segment, chosen, own_rows in self._side.split(self._places[rows]):
            unremoved[chosen] = segment.alive_rows[own_rows]
        return unremoved


def _one_dim(segments: Sequence[Exact8Index]) -> None:
    dims = sorted({segment.dim for segment in segments})
    if len(dims) > 1:
        raise VectorInvalid(f"dim is {dims[0]} and {dims[1]}; join segments of one dimension")


def _digests(segment: Exact8Index) -> NDArray[np.uint64]:
    """Polynomials over 64 bits, of all that is known of a row."""
    words = segment.codes.bytes.view(np.uint64)
    powers = [pow(_FACTOR, power, 1 << 64) for power in range(1, words.shape[1] + 3)]
    of_words, of_id, of_residual = np.split(
        np.array(powers, np.uint64), [words.shape[1], words.shape[1] + 1]
    )
    ids, residuals = segment.row_ids.view(np.uint64), segment.codes.residuals.view(np.uint32)
    digests: NDArray[np.uint64] = ids * of_id + residuals * of_residual
    digests += words[: len(digests)] @ of_words
    return digests
