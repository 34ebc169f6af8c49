"""Scores of all pairs of labelled templates, mated and non-mated, with the people of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.accuracy.templates import Templates


@dataclass(frozen=True, slots=True)
class PairScores:
    """What comparing every template with every other gave.

    `mated` float32[m] with `mated_people` int32[m]; `nonmated` float32[n] with
    `nonmated_people` int32[n], the code `left * population + right` of the two people.
    `counts` int64[2, population] are each person's templates on the left and the right side.
    """

    mated: NDArray[np.float32]
    mated_people: NDArray[np.int32]
    nonmated: NDArray[np.float32]
    nonmated_people: NDArray[np.int32]
    counts: NDArray[np.int64]
    is_symmetric: bool

    @property
    def population(self) -> int:
        return int(self.counts.shape[1])

    @property
    def stranger_pairs(self) -> int:
        """Pairs of different people that have at least one comparison."""
        left, right = self.counts > 0
        both = int((left & right).sum())
        if self.is_symmetric:
            return both * (both - 1) // 2
        # Unordered: a pair of people compared both ways counts once.
        return int(left.sum()) * int(right.sum()) - both - both * (both - 1) // 2


def compare_all(templates: Templates) -> PairScores:
    """Each two templates once; two of one person that share a photograph are left out.

    Takes 8 bytes a pair.
    """
    return _compare(templates, templates, is_symmetric=True)


def compare_sides(left: Templates, right: Templates) -> PairScores:
    """Each template of `left` against each of `right`, which number the same people."""
    assert left.population == right.population
    return _compare(left, right, is_symmetric=False)


def _compare(left: Templates, right: Templates, *, is_symmetric: bool) -> PairScores:
    population = left.population
    assert population**2 < 2**31, "codes of two people are int32"
    starts, right_starts = left.starts(), right.starts()
    counts = np.stack([np.diff(starts), np.diff(right_starts)])
    strangers = len(right.people) - (right_starts[1:] if is_symmetric else counts[1])
    nonmated = np.empty(int((counts[0] * strangers).sum()), np.float32)
    people = np.empty(len(nonmated), np.int32)
    mated, mated_people, filled = [], [], 0
    for person in np.flatnonzero(counts[0]):
        rows = slice(starts[person], starts[person + 1])
        own = slice(right_starts[person], right_starts[person + 1])
        scores = _mated_scores(left, rows, right, own, is_symmetric=is_symmetric)
        mated.append(scores)
        mated_people.append(np.full(len(scores), person, np.int32))
        others = (
            [slice(own.stop, None)] if is_symmetric else [slice(own.start), slice(own.stop, None)]
        )
        for other in others:
            block = left.vectors[rows] @ right.vectors[other].T
            end = filled + block.size
            nonmated[filled:end] = block.ravel()
            codes = person * population + right.people[other]
            people[filled:end].reshape(block.shape)[:] = codes
            filled = end
    assert filled == len(nonmated)
    return PairScores(
        np.concatenate([np.empty(0, np.float32), *mated]),
        np.concatenate([np.empty(0, np.int32), *mated_people]),
        nonmated,
        people,
        counts,
        is_symmetric,
    )


def _mated_scores(
    left: Templates, rows: slice, right: Templates, own: slice, *, is_symmetric: bool
) -> NDArray[np.float32]:
    """float32[k]: the comparisons of one person whose two sides share no photograph."""
    used, offered = left.photographs[rows], right.photographs[own]
    shared = (used[:, None, :, None] == offered[None, :, None, :]).any(axis=(2, 3))
    wanted = np.triu(~shared, 1) if is_symmetric else ~shared
    scores: NDArray[np.float32] = (left.vectors[rows] @ right.vectors[own].T)[wanted]
    return scores
