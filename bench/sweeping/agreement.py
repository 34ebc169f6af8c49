"""How well groups agree with the truth, and the grouping that everybody would try first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.sweeps.model import PairTable

Labels = NDArray[np.int64]


def adjusted_rand(truth: Labels, found: Labels) -> float:
    """The Rand index corrected for chance (Hubert and Arabie 1985); 1 where both are the same."""
    both = np.unique(np.stack([truth, found]), axis=1, return_counts=True)[1]
    together = _count_pairs(both)
    of_truth = _count_pairs(np.unique(truth, return_counts=True)[1])
    of_found = _count_pairs(np.unique(found, return_counts=True)[1])
    total = _count_pairs(np.array([len(truth)]))
    expected = of_truth * of_found / total if total else 0.0
    most = (of_truth + of_found) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def share_pairs(truth: Labels, found: Labels) -> tuple[float, float]:
    """Precision and recall of the pairs that are together; 1 where there is none to be right."""
    both = np.unique(np.stack([truth, found]), axis=1, return_counts=True)[1]
    together = _count_pairs(both)
    of_truth = _count_pairs(np.unique(truth, return_counts=True)[1])
    of_found = _count_pairs(np.unique(found, return_counts=True)[1])
    precision = together / of_found if of_found else 1.0
    return precision, together / of_truth if of_truth else 1.0


def label_groups(size: int, groups: Sequence[NDArray[np.int64]]) -> Labels:
    """int64[size]: who is in no group is alone."""
    labels = np.arange(size)
    for rows in groups:
        labels[rows] = rows.min()
    return labels


def label_components(size: int, pairs: PairTable) -> Labels:
    """int64[size]: whoever is linked is together, through however many others."""
    labels = np.arange(size)
    while True:
        before = labels.copy()
        np.minimum.at(labels, pairs.right, labels[pairs.left])
        np.minimum.at(labels, pairs.left, labels[pairs.right])
        labels = labels[labels]
        if np.array_equal(before, labels):
            return labels


def count_exact(people: Sequence[NDArray[np.int64]], labels: Labels) -> int:
    """How many of these sets of rows are a group, with nobody missing and nobody else."""
    sizes = np.bincount(labels, minlength=len(labels))
    return sum(
        len(set(labels[rows].tolist())) == 1 and sizes[labels[rows[0]]] == len(rows)
        for rows in people
    )


def _count_pairs(sizes: NDArray[np.int64]) -> float:
    """Pairs within sets of these sizes."""
    return float((sizes * (sizes - 1) // 2).sum())
