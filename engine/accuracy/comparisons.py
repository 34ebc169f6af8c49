"""Which photographs a comparison is of: all mated ones, and strangers who score high."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.accuracy.templates import Templates

BLOCK = 512


@dataclass(frozen=True, slots=True, eq=False)
class Comparisons:
    """Rows of templates compared, `left` before `right`; int64[k], `scores` float32[k]."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    def keep(self, wanted: NDArray[np.bool_]) -> Comparisons:
        """Those wanted, bool[k]."""
        return Comparisons(self.left[wanted], self.right[wanted], self.scores[wanted])


def compare_mated(singles: Templates) -> Comparisons:
    """Each two photographs of a person, in the order of `PairScores.mated`."""
    starts = singles.starts()
    left, right = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start, stop in pairwise(starts):
        one, other = np.triu_indices(stop - start, 1)
        left.append(one + start)
        right.append(other + start)
    rows, others = np.concatenate(left), np.concatenate(right)
    scores = np.empty(len(rows), np.float32)
    for begin in range(0, len(rows), BLOCK * BLOCK):
        part = slice(begin, begin + BLOCK * BLOCK)
        pair = singles.vectors[rows[part]], singles.vectors[others[part]]
        scores[part] = np.einsum("kd,kd->k", *pair)
    return Comparisons(rows, others, scores)


def find_close_strangers(singles: Templates, least: float) -> Comparisons:
    """Each two photographs of different people that score at least `least`."""
    found = []
    for start in range(0, len(singles.people), BLOCK):
        rows = slice(start, start + BLOCK)
        block = singles.vectors[rows] @ singles.vectors[start:].T
        one, other = np.nonzero(block >= least)
        is_wanted = (other > one) & (singles.people[rows][one] != singles.people[start + other])
        one, other = one[is_wanted], other[is_wanted]
        found.append(Comparisons(one + start, other + start, block[one, other]))
    return Comparisons(
        np.concatenate([part.left for part in found]),
        np.concatenate([part.right for part in found]),
        np.concatenate([part.scores for part in found]),
    )
