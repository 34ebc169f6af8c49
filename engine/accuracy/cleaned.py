"""What the flagged comparisons do to the rates: the same table without them.

It is no better estimate: strangers are flagged by their score, so a rate without them is the lowest
that could be true. The truth lies between both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.metrics import false_nonmatch_rate, lowest_rate, thresholds_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from engine.accuracy.comparisons import Comparisons
    from engine.accuracy.flagged import Flagged
    from engine.accuracy.pairs import PairScores
    from engine.accuracy.templates import Templates


@dataclass(frozen=True, slots=True)
class CleanedRate:
    """The threshold that keeps a false match rate, and the FNMR there."""

    threshold: float
    fnmr: float


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Without mated comparisons of one picture, and without all of two people flagged as one.

    `rates` by their names; None where not supported.
    """

    mated_pairs: int
    nonmated_pairs: int
    pairs_of_people: int
    rates: dict[str, CleanedRate | None]


def leave_out(
    scores: PairScores,
    mated: Comparisons,
    flagged: Flagged,
    singles: Templates,
    rates: Mapping[str, float],
) -> Cleaned:
    """`mated` in the order of `scores.mated`."""
    doubtful = flag_people(flagged, singles)
    nonmated = scores.nonmated[~np.isin(scores.nonmated_people, doubtful)]
    kept = scores.mated[~_are_one_picture(mated, flagged, len(singles.people))]
    known = {n: r for n, r in rates.items() if r >= lowest_rate(len(nonmated)) * (1 - 1e-9)}
    found: dict[str, CleanedRate | None] = dict.fromkeys(rates)
    if known and len(kept):
        thresholds = thresholds_at(nonmated, np.array(list(known.values())))
        for name, threshold in zip(known, map(float, thresholds), strict=True):
            found[name] = CleanedRate(threshold, false_nonmatch_rate(kept, threshold))
    return Cleaned(len(kept), len(nonmated), len(doubtful) // 2, found)


def flag_people(flagged: Flagged, singles: Templates) -> NDArray[np.int64]:
    """int64[k]: the codes `left * population + right` of people flagged as one, both ways."""
    codes = []
    for pairs in (flagged.strangers, flagged.same_pictures):
        left, right = singles.people[pairs.left], singles.people[pairs.right]
        apart = left != right
        codes.append(left[apart] * singles.population + right[apart])
        codes.append(right[apart] * singles.population + left[apart])
    return np.unique(np.concatenate(codes))


def _are_one_picture(mated: Comparisons, flagged: Flagged, count: int) -> NDArray[np.bool_]:
    """bool[k]: mated comparisons of a picture with itself."""
    pictures = flagged.same_pictures
    codes = pictures.left * count + pictures.right
    return np.isin(mated.left * count + mated.right, codes)
