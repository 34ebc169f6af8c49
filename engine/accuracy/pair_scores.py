"""Templates of labelled photographs, the scores of their mated and non-mated pairs, and error rates
of scores (ISO/IEC 19795-1).

A pair matches at `score >= threshold`. FMR: share of non-mated pairs that match. FNMR: share of
mated pairs that do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from engine.errors import RateUnsupported
from indexes.base import Doubles, Flags, Floats, Ints
from schema import frozen

COMMON_FMR = 1e-4
MIN_EXPECTED_PAIRS = 10
"""Non-mated pairs above its threshold that a rate needs to count as measured."""


def lowest_rate(comparisons: int) -> float:
    """The lowest false match rate that this many non-mated comparisons support."""
    return MIN_EXPECTED_PAIRS / comparisons if comparisons else math.inf


def require_support(rate: float, comparisons: int) -> None:
    """Raise `RateUnsupported`, with the lowest supported rate, where `rate` is below it."""
    # Ten pairs of a million must support 1e-5 in spite of rounding.
    if rate < lowest_rate(comparisons) * (1 - 1e-9):
        raise RateUnsupported(
            f"a rate of {rate:g} is not supported by {comparisons:,} non-mated comparisons: "
            f"the lowest is {lowest_rate(comparisons):.2g}"
        )


def choose_rate(wanted: float | None, nonmated_pairs: int) -> float | None:
    """The rate wanted, or COMMON_FMR, or else the lowest supported decade.

    None where not even 0.1 is supported; raises `RateUnsupported` for an unsupported `wanted`.
    """
    if wanted is not None:
        require_support(wanted, nonmated_pairs)
        return wanted
    rates = (COMMON_FMR, 1e-3, 1e-2, 1e-1)
    return next((rate for rate in rates if rate >= lowest_rate(nonmated_pairs) * (1 - 1e-9)), None)


def thresholds_at(nonmated: Floats, rates: Doubles, weights: Doubles | None = None) -> Floats:
    """The smallest threshold whose FMR, by the pairs' `weights`, is at most each rate: float32[r].

    Support is not checked: see `require_support`.
    """
    assert len(nonmated)
    assert ((rates > 0) & (rates < 1)).all()
    # A rate that as many pairs have exactly is kept by these, in spite of rounding.
    best = np.quantile(-nonmated, rates * (1 + 1e-9), weights=weights, method="inverted_cdf")
    # Just above the best pair that must not match, so that ties with it do not match either.
    return np.nextafter(-best.astype(np.float32), np.float32(np.inf))


def wilson_interval(events: float, trials: float) -> tuple[float, float]:
    """The 95 % score interval of a share of independent trials (Wilson 1927)."""
    z = 1.959964
    centre = (events + z * z / 2) / (trials + z * z)
    spread = z / (trials + z * z) * math.sqrt(events * (trials - events) / trials + z * z / 4)
    share = events / trials
    return min(max(centre - spread, 0.0), share), max(min(centre + spread, 1.0), share)


BLOCK = 512
MOST_PHOTOGRAPHS = 8
"""Of a person that are compared: more add time and memory, but no people."""


@frozen(eq=False)
class ComparedPairs:
    """Compared rows of templates, `left` before `right`, int64[k], and `scores` float32[k]."""

    left: Ints
    right: Ints
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def keep(self, wanted: NDArray[np.bool_ | np.int64]) -> ComparedPairs:
        """The comparisons selected by the mask bool[k], or in this order by places int64."""
        return ComparedPairs(self.left[wanted], self.right[wanted], self.scores[wanted])


def compare_mated(left: TemplateSet, right: TemplateSet | None = None) -> ComparedPairs:
    """All pairs of templates of the same person that share no photograph, of `left` alone or of
    both sides, in the order of `PairScores.mated`."""
    other = left if right is None else right
    pairs = [np.empty((2, 0), np.int64)]
    starts = np.stack([left.starts(), other.starts()], axis=1)
    for (start, begin), (stop, end) in pairwise(starts):
        size = stop - start
        own = np.triu_indices(size, 1) if right is None else np.indices((size, end - begin))
        pairs.append(np.reshape(own, (2, -1)) + np.array([[start], [begin]]))
    rows, others = np.concatenate(pairs, axis=1)
    used, offered = left.photographs[rows], other.photographs[others]
    is_apart = ~(used[:, :, None] == offered[:, None, :]).any(axis=(1, 2))
    rows, others = rows[is_apart], others[is_apart]
    scores = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), BLOCK * BLOCK):
        part = slice(first, first + BLOCK * BLOCK)
        scores[part] = np.einsum("kd,kd->k", left.vectors[rows[part]], other.vectors[others[part]])
    return ComparedPairs(rows, others, scores)


def find_close_strangers(templates: TemplateSet, least: float) -> ComparedPairs:
    """All pairs of different people that score at least `least`."""
    found = []
    for start in range(0, len(templates.people), BLOCK):
        block = templates.vectors[start : start + BLOCK] @ templates.vectors[start:].T
        rows, others = np.nonzero(block >= least)
        # Templates are in the order of their people.
        is_wanted = templates.people[start + rows] < templates.people[start + others]
        rows, others = rows[is_wanted], others[is_wanted]
        found.append((start + rows, start + others, block[rows, others]))
    return ComparedPairs(*(np.concatenate(part) for part in zip(*found, strict=True)))


@frozen
class TemplateSet:
    """Templates, of one or two photographs each, in the order of their people.

    `vectors` float32[n, d], unit rows; `people` int64[n], rising, from 0 to `population` - 1;
    `photographs` int64[n, 2], the two photographs of each row, equal where there is only one.
    """

    vectors: Floats
    people: Ints
    photographs: Ints
    population: int

    def starts(self) -> Ints:
        """int64[population + 1]: person `p` has the rows `starts[p]` to `starts[p + 1]`."""
        return np.searchsorted(self.people, np.arange(self.population + 1)).astype(np.int64)

    def keep(self, wanted: Flags) -> TemplateSet:
        """The templates selected by the mask bool[n]."""
        parts = self.vectors[wanted], self.people[wanted], self.photographs[wanted]
        return TemplateSet(*parts, self.population)


def single_templates(vectors: Floats, people: Ints) -> TemplateSet:
    """A template of every photograph; `people` number them from 0 in any order."""
    order = np.argsort(people, kind="stable")
    population = int(people.max()) + 1 if len(people) else 0
    return TemplateSet(vectors[order], people[order], np.stack([order, order], axis=1), population)


def limit_photographs(templates: TemplateSet, most: int) -> TemplateSet:
    """The first `most` templates of each person, so that nobody dominates the statistics."""
    rank = np.arange(len(templates.people)) - templates.starts()[templates.people]
    return templates.keep(rank < most)


def keep_people(templates: TemplateSet, people: Ints) -> TemplateSet:
    """The templates of `people` alone, who keep their numbers."""
    return templates.keep(np.isin(templates.people, people))


def fused_templates(singles: TemplateSet, most_photographs: int) -> TemplateSet:
    """A template of each pair of the first `most_photographs` photographs of each person."""
    starts = singles.starts()
    rows = [
        pair
        for start, stop in pairwise(starts)
        for pair in combinations(range(start, min(stop, start + most_photographs)), 2)
    ]
    pairs = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return TemplateSet(
        fuse(singles.vectors[pairs[:, 0]], singles.vectors[pairs[:, 1]]),
        singles.people[pairs[:, 0]],
        singles.photographs[pairs, 0],
        singles.population,
    )


def fuse(*photographs: Floats) -> Floats:
    """The normalised mean of photographs of each person: float32[n, d], unit rows."""
    total = reduce(np.add, photographs)
    total /= np.linalg.norm(total, axis=1, keepdims=True)
    return total


@frozen
class PairScores:
    """Scores of all comparisons of templates.

    `mated` float32[m] with `mated_people` int32[m]; `nonmated` float32[n] with
    `nonmated_people` int32[n], the code `left * population + right` of the two people.
    `counts` int64[2, population] are each person's templates on the left and the right side.

    Rates weigh people, not photographs: the comparisons of two people weigh one together, and so
    do the mated ones of a person. Otherwise two brothers with many photographs, who look alike,
    would decide a threshold.
    """

    mated: Floats
    mated_people: NDArray[np.int32]
    nonmated: Floats
    nonmated_people: NDArray[np.int32]
    counts: Ints
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

    @property
    def shares(self) -> Doubles:
        """float64[2, population]: a non-mated comparison weighs the shares of its two people
        multiplied."""
        return np.where(self.counts > 0, 1 / np.maximum(self.counts, 1), 0.0)

    def missed(self, thresholds: Floats) -> Doubles:
        """The share of each person's mated comparisons below rising thresholds:
        float64[thresholds, population], zero for whoever has none."""
        steps = np.searchsorted(thresholds, self.mated, side="right")
        cells = steps * self.population + self.mated_people
        counts = np.bincount(cells, minlength=(len(thresholds) + 1) * self.population)
        below = counts.reshape(-1, self.population).cumsum(axis=0)
        shares: Doubles = below[:-1] / np.maximum(below[-1], 1)
        return shares

    def fmr_at(self, threshold: float) -> float:
        """The FMR of a threshold."""
        matches = np.flatnonzero(self.nonmated >= threshold)
        is_left, is_right = self.counts > 0
        both = int((is_left & is_right).sum())
        pairs = (int(is_left.sum()) * int(is_right.sum()) - both) / (1 + self.is_symmetric)
        return float(self._weigh(matches).sum() / pairs)

    def thresholds_at(self, rates: Doubles) -> Floats:
        """The smallest threshold whose FMR is at most each rate: float32[r].

        Support is not checked: see `engine.accuracy.pair_scores.require_support`.
        """
        heights = np.zeros(BINS)
        for part in self._parts():
            heights += np.bincount(_bin(self.nonmated[part]), self._weigh(part), BINS)
        # Only a bin in which one of the thresholds lies is sorted; each other is one score.
        reached = heights[::-1].cumsum() / heights.sum()
        is_whole = np.ones(BINS, bool)
        is_whole[BINS - 1 - np.searchsorted(reached, rates * (1 + 1e-9))] = False
        rows = np.concatenate(
            [
                np.flatnonzero(~is_whole[_bin(self.nonmated[part])]) + part.start
                for part in self._parts()
            ]
        )
        middles = (np.flatnonzero(is_whole) + 0.5) * (2 / BINS) - 1
        scores = np.append(self.nonmated[rows], middles.astype(np.float32))
        weights = np.append(self._weigh(rows), heights[is_whole])
        return thresholds_at(scores, rates, weights)

    def _parts(self) -> Iterator[slice]:
        for start in range(0, len(self.nonmated), PART):
            yield slice(start, start + PART)

    def _weigh(self, rows: slice | Ints) -> Doubles:
        left, right = np.divmod(self.nonmated_people[rows], self.population)
        one, other = self.shares
        weights: Doubles = one[left] * other[right]
        return weights


BINS = 2**16
"""Of scores: few comparisons share one."""
PART = 2**22


def _bin(scores: Floats) -> Ints:
    """int64[n]: the bin of each score, rising with it."""
    places = (scores.astype(np.float64) + 1) * (BINS / 2)
    return np.clip(places.astype(np.int64), 0, BINS - 1)


def compare_all(left: TemplateSet, right: TemplateSet | None = None) -> PairScores:
    """Compare each two templates of `left`, or each with all of `right`, of the same numbering of
    people; those of one person that share a photograph are left out. Takes 8 bytes per pair."""
    other = left if right is None else right
    population = left.population
    assert population == other.population
    assert population**2 < 2**31, "codes of two people are int32"
    starts, right_starts = left.starts(), other.starts()
    counts = np.stack([np.diff(starts), np.diff(right_starts)])
    total = int(counts.sum(axis=1).prod() - counts.prod(axis=0).sum())
    nonmated = np.empty(total if right else total // 2, np.float32)
    people = np.empty(len(nonmated), np.int32)
    filled = 0
    for person in np.flatnonzero(counts[0]):
        rows = left.vectors[starts[person] : starts[person + 1]]
        after = slice(right_starts[person + 1], None)
        for strangers in [after] if right is None else [slice(right_starts[person]), after]:
            block = rows @ other.vectors[strangers].T
            end = filled + block.size
            nonmated[filled:end] = block.ravel()
            codes = person * population + other.people[strangers]
            people[filled:end].reshape(block.shape)[:] = codes
            filled = end
    assert filled == len(nonmated)
    mated = compare_mated(left, right)
    own = left.people[mated.left].astype(np.int32)
    return PairScores(mated.scores, own, nonmated, people, counts, right is None)
