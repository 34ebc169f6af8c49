"""LFW's verification protocol (Huang, Ramesh, Berg and Learned-Miller 2007)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FoldAccuracy:
    """Mean and standard deviation (of a sample) of the folds' accuracies, from 0 to 1."""

    accuracy: float
    accuracy_std: float
    folds: tuple[float, ...]


def fold_accuracy(
    scores: NDArray[np.float32], is_mated: NDArray[np.bool_], fold: NDArray[np.int64]
) -> FoldAccuracy:
    """The best threshold of all other folds, applied to each fold in turn."""
    accuracies = []
    for number in np.unique(fold):
        others = fold != number
        threshold = best_threshold(scores[others], is_mated[others])
        matches = scores[~others] >= threshold
        accuracies.append(float((matches == is_mated[~others]).mean()))
    return FoldAccuracy(
        float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)), tuple(accuracies)
    )


def best_threshold(scores: NDArray[np.float32], is_mated: NDArray[np.bool_]) -> float:
    """The threshold that decides most pairs rightly: halfway between two scores.

    Of several as good, the middle one.
    """
    order = np.argsort(scores)
    ordered, mated = scores[order], is_mated[order]
    candidates, first = np.unique(ordered, return_index=True)
    missed = np.append(0, mated.cumsum())[first]
    refused = first - missed
    right = (mated.sum() - missed) + refused
    best = np.flatnonzero(right == right.max())
    chosen = int(best[len(best) // 2])
    below = candidates[max(chosen - 1, 0)]
    return (float(below) + float(candidates[chosen])) / 2
