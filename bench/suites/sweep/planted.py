"""A gallery with rings and traps hidden in it, and the true identity of each row.

Strangers are people of the synthetic population, without its groups of look-alikes (see
`bench.data.vectors`). A ring is one person with several identities: a reference each, fused of two
photographs of its own, as an enrollment makes it. How alike they are is left to the population: a
poor photograph can lie below the threshold, and then it is nobody's to find.

A trap is a chain of strangers in which each is linked to the next through a blend of both, as a
morphed photograph is: A, A+C, C, or A, A+C, C, C+E, E. Neighbours reach the threshold, all others
lie `_CLEARANCE` below it at least. All of them count as different people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.core.machine import DISK
from bench.data.vectors import Rows, Vectors, population_of, turn
from engine.accuracy.pair_scores import fuse
from engine.accuracy.population import BLOCK, Population
from engine.errors import RequestError
from engine.sweeps.clustering import Owners
from engine.sweeps.groups import FaceFacts
from schema.lines import LineStatus
from schema.sweeps import Identity, LineFact

DIM = 128
SMALLEST, LARGEST = 2, 20
"""Identities of a ring."""

_CLEARANCE = 0.06
_CARRIERS, _OUTLETS = 3, 400
_FIRST_OPENING = datetime(2019, 12, 1, tzinfo=UTC)
_MINUTES = 3 * 365 * 24 * 60
# Odd numbers without a pattern: what a row has follows from it, with nothing kept.
_SCATTER = 0x9E3779B1
_PEOPLE_OF_RINGS, _PEOPLE_OF_TRAPS, _NEWCOMERS = 3, 4, 5
"""Added to the seed: people who are not in the gallery otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """`threshold`: above the highest score that two strangers of LFW have, 0.54, and high enough
    for a trap, whose strangers score up to 0.5.

    It is beyond what a calibration on LFW can give a rate for, as is any that serves a million.
    `newcomers` come later; one in twenty of them is one more identity of a ring's person.
    Checkpoints lie in a folder made in `folder`.
    """

    references: int = 1_000_000
    rings: int = 1_000
    traps: int = 100
    newcomers: int = 10_000
    threshold: float = 0.62
    folder: Path = DISK
    seed: int = 0


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


def plant(plan: SweepConfig) -> Planted:
    """Draws the gallery; the same plan gives the same one.

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
    turn(vectors, np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32))
    return Planted(vectors, people, rings, traps, plan.references)


def _seat_rings(
    plan: SweepConfig, sizes: Sequence[int], places: Iterator[int], rng: np.random.Generator
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


def _draw_traps(population: Population, plan: SweepConfig) -> Iterator[Vectors]:
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
    """The strangers in a row, with a blend of both between each two."""
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


def make_facts(count: int) -> FaceFacts:
    """Of `count` references, each under its own document; no pair has been reviewed."""
    rows = np.arange(count, dtype=np.int64)
    return FaceFacts(
        owners=Owners(rows, rows),
        exceptions=np.empty((0, 2), np.int64),
        identities_of=lambda references: [introduce(row) for row in references],
    )


def introduce(row: int) -> Identity:
    """The identity in this row of the gallery; its document's id is the row in digits."""
    number = row * _SCATTER % (1 << 32)
    lines = tuple(
        LineFact(
            line_id=f"{row}-{line}",
            carrier=f"carrier-{number % _CARRIERS}",
            outlet=f"outlet-{number % _OUTLETS}",
            opened_at=_FIRST_OPENING + timedelta(minutes=(number + line * _SCATTER) % _MINUTES),
            status=LineStatus.ACTIVE.value,
        )
        for line in range(1 + number % 2)
    )
    return Identity(f"{row:09d}", (row,), tuple(sorted(lines, key=lambda one: one.opened_at)))
