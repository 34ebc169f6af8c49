"""How well groups agree with the truth, and the grouping that everybody would try first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise

import numpy as np
from numpy.typing import NDArray

from bench.data.vectors import Rows, Vectors, population_of
from engine.accuracy.pair_scores import fuse
from engine.accuracy.population import BLOCK, Population
from engine.errors import RequestError
from engine.sweeps.clustering import label_components
from engine.sweeps.sweep_model import Group, PairTable

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


# A gallery with rings and traps hidden in it, and who everybody in it really is.
#
# Strangers are people of the synthetic population, without its groups of look-alikes (see
# `bench.data.vectors`). A ring is one person with several identities: a reference each, fused of two
# photographs of its own, as an enrollment makes it. How alike they are is left to the
# population: a poor photograph can lie below the threshold, and then it is nobody's to find.
#
# A trap is a chain of strangers in which each is linked to the next through a blend of both, as
# a morphed photograph is: A, A+C, C, or A, A+C, C, C+E, E. Neighbours reach the threshold, all
# others lie `_CLEARANCE` below it at least. All of them count as different people.

DIM = 128
SMALLEST, LARGEST = 2, 20
"""Identities of a ring."""

_CLEARANCE = 0.06
_PEOPLE_OF_RINGS, _PEOPLE_OF_TRAPS, _NEWCOMERS = 3, 4, 5
"""Added to the seed: people who are nobody of the gallery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`newcomers` come later; one in twenty of them is one more identity of a ring's person."""

    references: int
    rings: int
    traps: int
    newcomers: int
    threshold: float
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """`vectors` float32[n, DIM], unit rows; `people` int64[n], the same for one person alone.

    `rings` and `traps` are rows; newcomers are the last rows, from `first_new` on.
    """

    vectors: Vectors
    people: Rows
    rings: tuple[Rows, ...]
    traps: tuple[Rows, ...]
    first_new: int


def plant(plan: Plan) -> Planted:
    """Draws everybody; the same plan gives the same gallery.

    Raises `RequestError` where the gallery is too small for what is to be hidden in it.
    """
    population = population_of(DIM)
    rng = np.random.default_rng([plan.seed, 21])
    sizes = rng.integers(SMALLEST, LARGEST + 1, plan.rings).tolist()
    chains = list(_draw_traps(population, plan))
    if sum(sizes) + sum(map(len, chains)) > plan.references:
        raise RequestError("more rings and traps than references to hide them in: raise --n")
    total = plan.references + plan.newcomers
    vectors = np.empty((total, DIM), np.float32)
    vectors[: plan.references] = population.references(plan.references, plan.seed)
    vectors[plan.references :] = population.references(plan.newcomers, plan.seed + _NEWCOMERS)
    places = iter(rng.permutation(plan.references).tolist())
    rings = _seat_rings(plan, sizes, places, rng)
    traps = tuple(np.array(list(islice(places, len(chain)))) for chain in chains)
    latent = population.people(plan.rings, plan.seed + _PEOPLE_OF_RINGS)
    faces = _photograph(population, latent, plan.seed + _PEOPLE_OF_RINGS)
    people = np.arange(total)
    for ring, rows in enumerate(rings):
        vectors[rows] = faces[: len(rows), ring]
        people[rows] = rows[0]
    for rows, chain in zip(traps, chains, strict=True):
        vectors[rows] = chain
    _turn(vectors, rng)
    return Planted(vectors, people, rings, traps, plan.references)


def _seat_rings(
    plan: Plan, sizes: Sequence[int], places: Iterator[int], rng: np.random.Generator
) -> tuple[Rows, ...]:
    """The rows of each ring, those of its identities that come later at the end."""
    new = plan.references + rng.permutation(plan.newcomers)[: plan.newcomers // 20]
    return tuple(
        np.array([*islice(places, size), *new[ring :: plan.rings][: LARGEST - SMALLEST]], np.int64)
        for ring, size in enumerate(sizes)
    )


def _photograph(population: Population, latent: Vectors, seed: int) -> Vectors:
    """float32[2 LARGEST, people, DIM]: references of the same people, each of fresh photographs."""
    references = [
        fuse(population.samples(latent, seed, 2 * i), population.samples(latent, seed, 2 * i + 1))
        for i in range(2 * LARGEST)
    ]
    return np.stack(references)


def _draw_traps(population: Population, plan: Plan) -> Iterator[Vectors]:
    """`plan.traps` chains of three and of five in turn, float32[k, DIM] each."""
    strangers = _meet_strangers(population, plan.seed + _PEOPLE_OF_TRAPS)
    rng = np.random.default_rng([plan.seed, 22])
    for number in range(plan.traps):
        people = 2 if number % 2 == 0 else 3
        chain = _blend([next(strangers) for _ in range(people)], rng)
        while not is_trap(chain, plan.threshold):
            chain = _blend([next(strangers) for _ in range(people)], rng)
        yield chain


def _meet_strangers(population: Population, seed: int) -> Iterator[Vectors]:
    """One after another, without an end."""
    for block in count():
        yield from population.mates(np.arange(block * BLOCK, (block + 1) * BLOCK), seed)


def _blend(strangers: Sequence[Vectors], rng: np.random.Generator) -> Vectors:
    """The strangers in a row, between each two of them somebody who is half of either."""
    chain = [strangers[0]]
    for one, other in pairwise(strangers):
        share = rng.uniform(0.48, 0.52)
        chain += [share * one + (1 - share) * other, other]
    rows = np.array(chain, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def is_trap(chain: Vectors, threshold: float) -> bool:
    """True where neighbours alone reach the threshold, and all others lie well below it."""
    scores = chain @ chain.T
    places = np.arange(len(chain))
    apart = np.abs(places[:, None] - places)
    neighbours = scores[apart == 1] >= threshold + 1e-3
    return bool(neighbours.all() and (scores[apart > 1] < threshold - _CLEARANCE).all())


def _turn(vectors: Vectors, rng: np.random.Generator) -> None:
    """As a vault turns templates, in place: scores stay."""
    normals = rng.standard_normal((DIM, DIM))
    turn = np.linalg.qr(normals)[0].astype(np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK] @ turn
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors[start : start + BLOCK] = rows


def planted_pairs(planted: Planted, threshold: float) -> NDArray[np.int64]:
    """int64[k, 2], ascending rows: those of rings and traps at or above the threshold.

    Scores in float64; what lies within 1e-6 of the threshold may go either way, and is left out.
    """
    found = [np.empty((0, 2), np.int64)]
    for rows in (*planted.rings, *planted.traps):
        faces = planted.vectors[rows].astype(np.float64)
        scores = faces @ faces.T
        one, other = np.nonzero(np.triu(scores >= threshold + 1e-6, 1))
        found.append(np.sort(np.stack([rows[one], rows[other]], axis=1), axis=1))
    return np.concatenate(found)


# A grouping held against what was planted.


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
