"""How well groups agree with what was planted, and with connected components beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure
from bench.data.vectors import Rows
from bench.suites.sweep.planted import Planted
from engine.sweeps.clustering import PairTable, label_components
from schema.sweeps import Group

Labels = NDArray[np.int64]


def adjusted_rand(truth: Labels, found: Labels) -> float:
    """The Rand index corrected for chance (Hubert and Arabie 1985); 1 where both are the same."""
    together, of_truth, of_found = _count_together(truth, found)
    total = count_pairs(np.array([len(truth)]))
    expected = of_truth * of_found / total if total else 0.0
    most = (of_truth + of_found) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def share_pairs(truth: Labels, found: Labels) -> tuple[float, float]:
    """Precision and recall of the pairs that are together; 1 where there is none to be right."""
    together, of_truth, of_found = _count_together(truth, found)
    precision = together / of_found if of_found else 1.0
    return precision, together / of_truth if of_truth else 1.0


def _count_together(truth: Labels, found: Labels) -> tuple[float, float, float]:
    """Pairs that are together in both, in the truth, and in what was found."""
    both = np.unique(np.stack([truth, found]), axis=1, return_counts=True)[1]
    alone = (np.unique(labels, return_counts=True)[1] for labels in (truth, found))
    of_truth, of_found = map(count_pairs, alone)
    return count_pairs(both), of_truth, of_found


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
    """int64[size]: references that are linked, directly or through others, have one label."""
    return label_components(size, pairs.left, pairs.right)


def count_exact(people: Sequence[NDArray[np.int64]], labels: Labels) -> int:
    """How many of these sets of rows are exactly a group."""
    sizes = np.bincount(labels, minlength=len(labels))
    return sum(
        len(set(labels[rows].tolist())) == 1 and sizes[labels[rows[0]]] == len(rows)
        for rows in people
    )


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a grouping agrees with the truth, pair by pair and ring by ring, and in how many traps
    it puts strangers together who are not linked."""

    adjusted_rand: float
    precision: float
    recall: float
    exact_rings: int
    sprung_traps: int

    def list_figures(self, name: str) -> tuple[Figure, ...]:
        return (
            Figure(f"{name}: adjusted Rand index", "of 1", self.adjusted_rand),
            Figure(f"{name}: precision", "of pairs together", self.precision),
            Figure(f"{name}: recall", "of pairs together", self.recall),
            Figure(f"{name}: rings without a fault", "rings", float(self.exact_rings)),
            Figure(f"{name}: chains joined", "of the traps", float(self.sprung_traps)),
        )


def agree(planted: Planted, labels: Labels) -> Agreement:
    """Agreement of a grouping of all rows but the newcomers: int64[first_new]."""
    truth = planted.people[: planted.first_new]
    precision, recall = share_pairs(truth, labels)
    return Agreement(
        adjusted_rand=adjusted_rand(truth, labels),
        precision=precision,
        recall=recall,
        exact_rings=count_exact(old_rings(planted), labels),
        sprung_traps=sum(_is_sprung(labels[rows]) for rows in planted.traps),
    )


def old_rings(planted: Planted) -> list[Rows]:
    """The rings without those who come later."""
    return [rows[rows < planted.first_new] for rows in planted.rings]


def list_joined(planted: Planted, labels: Labels) -> tuple[Figure, ...]:
    """How many identities of rings came later, and how many of these are in a group with an
    earlier one of their ring; `labels` are of all rows."""
    first = planted.first_new
    joined = [
        bool((labels[rows[rows < first]] == labels[row]).any())
        for rows in planted.rings
        for row in rows[rows >= first]
    ]
    return (
        Figure("new identities of rings", "identities", float(len(joined))),
        Figure("of these in a group with others of their ring", "identities", float(sum(joined))),
    )


def count_missed(wanted: Rows, pairs: PairTable) -> int:
    """How many of these pairs of rows, int64[k, 2] ascending, were not found."""
    found = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    return sum((one, other) not in found for one, other in wanted.tolist())


def _is_sprung(labels: Labels) -> bool:
    """True where a group holds two members of a chain that are not neighbours in it."""
    return any(
        labels[one] == labels[other]
        for one in range(len(labels))
        for other in range(one + 2, len(labels))
    )


def count_pairs(sizes: NDArray[np.int64]) -> float:
    """Pairs within sets of these sizes."""
    return float((sizes * (sizes - 1) // 2).sum())
