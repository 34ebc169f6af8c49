"""How well groups agree with the truth, and the grouping that everybody would try first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.sweeps.model import Group, PairTable
from engine.sweeps.nearness import label_components

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


def label_groups(size: int, groups: Iterable[Group]) -> Labels:
    """int64[size] by reference, where those are rows: who is in no group is alone."""
    return label_sets(
        size, ([key for one in group.identities for key in one.reference_ids] for group in groups)
    )


def label_sets(size: int, sets: Iterable[Sequence[int]]) -> Labels:
    """int64[size]: the rows of each set have one label, all others one of their own."""
    labels = np.arange(size)
    for rows in sets:
        labels[rows] = min(rows)
    return labels


def label_linked(size: int, pairs: PairTable) -> Labels:
    """int64[size]: whoever is linked is together, through however many others."""
    return label_components(size, pairs.left, pairs.right)


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
