"""A grouping held against what was planted."""

from __future__ import annotations

from dataclasses import dataclass

from bench.sweeping.agreement import Labels, adjusted_rand, count_exact, share_pairs
from bench.sweeping.planted import Planted
from bench.vectors import Rows
from engine.sweeps.model import PairTable


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a grouping agrees with the truth, pair by pair and ring by ring, and in how many traps
    it puts strangers together who are not linked."""

    adjusted_rand: float
    precision: float
    recall: float
    exact_rings: int
    sprung_traps: int


def agree(planted: Planted, labels: Labels) -> Agreement:
    """Of a grouping of everybody but those who come later: int64[first_new]."""
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


def count_joined(planted: Planted, labels: Labels) -> tuple[int, int]:
    """How many identities that came later are in a group with an earlier one of their ring, and
    how many of rings came later; `labels` are of everybody."""
    first = planted.first_new
    joined = [
        bool((labels[rows[rows < first]] == labels[row]).any())
        for rows in planted.rings
        for row in rows[rows >= first]
    ]
    return sum(joined), len(joined)


def count_missed(wanted: Rows, pairs: PairTable) -> int:
    """How many of these pairs of rows, int64[k, 2] ascending, were not found."""
    found = set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))
    return sum((one, other) not in found for one, other in wanted.tolist())


def _is_sprung(labels: Labels) -> bool:
    """True where two of a chain are together who do not follow one another."""
    return any(
        labels[one] == labels[other]
        for one in range(len(labels))
        for other in range(one + 2, len(labels))
    )
