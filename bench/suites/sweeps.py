"""Suite `sweep`: rings hidden in a million references, found, grouped, and told from chains."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice, pairwise
from pathlib import Path

import faiss
import numpy as np

from bench.core.machine import DISK, clock, open_folder, read_peak_bytes, rested
from bench.core.reports import Figure, Result, SuiteOutput
from bench.datasets import Rows, Vectors, describe_faces, population_of, turn
from bench.suites.baselines import build_gallery
from bench.suites.serve.process import Worker
from engine.accuracy.pair_scores import fuse
from engine.accuracy.population import BLOCK, Population
from engine.errors import RequestError
from engine.sweeps.clustering import Owners, label_components
from engine.sweeps.groups import FaceFacts, group_faces
from indexes.base import Ints
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining import Records
from indexes.joining.join import join_gallery
from schema import frozen
from schema.lines import LineStatus
from schema.sweeps import Group, Identity, LineFact

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


@frozen(kw_only=True)
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


@frozen(eq=False)
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
    """Draws the gallery, with rings and traps hidden in it; the same plan gives the same one.

    Strangers are people of the synthetic population, without its groups of look-alikes. A ring is
    one person with several identities: a reference each, fused of two photographs of its own, as an
    enrollment makes it. A poor photograph can lie below the threshold, and then it is nobody's to
    find. A trap is a chain of strangers in which each is linked to the next through a blend of
    both, as a morphed photograph is: A, A+C, C, or A, A+C, C, C+E, E. Neighbours reach the
    threshold, all others lie `_CLEARANCE` below it at least. All of them count as different people.

    `RequestError` where the gallery is too small for what is to be hidden in it.
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
    new = plan.references + rng.permutation(plan.newcomers)[: plan.newcomers // 20]
    # The rows of each ring, those of its identities that come later at the end.
    rings = tuple(
        np.array([*islice(places, size), *new[ring :: plan.rings][: LARGEST - SMALLEST]], np.int64)
        for ring, size in enumerate(sizes)
    )
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


def _photograph(population: Population, latent: Vectors, seed: int) -> Vectors:
    """float32[2 LARGEST, people, DIM]: references of the same people, each of fresh photographs."""
    references = [
        fuse(population.samples(latent, seed, 2 * i), population.samples(latent, seed, 2 * i + 1))
        for i in range(2 * LARGEST)
    ]
    return np.stack(references)


def _draw_traps(population: Population, plan: SweepConfig) -> Iterator[Vectors]:
    """`plan.traps` chains of three and of five in turn, float32[k, DIM] each."""
    blocks = (np.arange(start, start + BLOCK) for start in count(0, BLOCK))
    seed = plan.seed + _PEOPLE_OF_TRAPS
    strangers = (one for block in blocks for one in population.mates(block, seed))
    rng = np.random.default_rng([plan.seed, 22])
    for number in range(plan.traps):
        people = 2 if number % 2 == 0 else 3
        chain = _blend([next(strangers) for _ in range(people)], rng)
        while not is_trap(chain, plan.threshold):
            chain = _blend([next(strangers) for _ in range(people)], rng)
        yield chain


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


def planted_pairs(planted: Planted, threshold: float) -> Ints:
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


QUICK = {"references": 20_000, "rings": 50, "traps": 10, "newcomers": 1_000}
_FLAT_REFERENCES = 20_000

Labels = Ints


def run(config: SweepConfig) -> SuiteOutput:
    """In a new process, so that its peak of memory is that of nothing else; checkpoints go to a
    folder on the disk, as those of the product do."""
    with open_folder(config.folder) as folder, Worker() as pool:
        return pool.submit(sweep_planted, config, folder).result()


def sweep_planted(plan: SweepConfig, folder: Path) -> SuiteOutput:
    """What a sweep of everything costs and finds, and then one of what is new."""
    planted, scanner = plant(plan), Scanner()
    setup = describe_faces(plan.references, DIM, plan.seed) | {
        "kernel": scanner.kernel,
        "rings": plan.rings,
        "traps": plan.traps,
        "threshold": round(plan.threshold, 4),
    }
    first = planted.first_new
    gallery = build_gallery(planted.vectors[:first], scanner)
    found, measured, pairs, group_s = _sweep_all(gallery, planted, plan.threshold, folder / "all")
    added = np.arange(first, len(planted.people))
    gallery.add(added, planted.vectors[first:], gallery.sequence + 1)
    new, more = _sweep_new(gallery, planted, pairs, plan.threshold, folder / "new")
    more["sweep_peak_gb"] = read_peak_bytes() / 1e9
    scanner.close()
    flat_s = _time_flat(planted.vectors[:first], plan.threshold)
    swept_s = measured["sweep_seconds"]
    costs = (
        # It compares each pair from both sides.
        Figure("FAISS Flat's range search, projected", "s", flat_s, ratio=1.0),
        Figure("the sweep", "s", swept_s, ratio=flat_s / swept_s),
        Figure("groups and their ranks in it", "s", group_s),
    )
    results = (
        Result("A sweep of everything", setup, costs),
        Result("What it found", setup, found),
        Result("A sweep of what is new", setup | {"newcomers": plan.newcomers}, (new,)),
    )
    return results, measured | more


def _sweep_all(
    gallery: Gallery, planted: Planted, threshold: float, checkpoint: Path
) -> tuple[tuple[Figure, ...], dict[str, float], Records, float]:
    """What was found, with those who are linked through however many others beside our groups; the
    pairs, and the seconds of the groups."""
    joined, join_s = clock(lambda: join_gallery(gallery, threshold, checkpoint=checkpoint))
    first = planted.first_new
    pairs = joined.pairs.records
    group = partial(group_faces, pairs, threshold, make_facts(first), read_vectors=gallery.held)
    groups, group_s = clock(group)
    wanted = planted_pairs(planted, threshold)
    wanted = wanted[wanted[:, 1] < first]
    missed = count_missed(wanted, pairs)
    truth = planted.people[:first]
    rand, sprung = agree(truth, planted.traps, label_groups(first, groups))
    others = agree(truth, planted.traps, label_components(first, pairs["left"], pairs["right"]))
    figures = (
        Figure("planted, at or above the threshold", "pairs", float(len(wanted))),
        Figure("connected components: adjusted Rand index", "of 1", others[0]),
        Figure("connected components: chains joined", "of the traps", float(others[1])),
    )
    measured = {
        "planted_pairs_found": 1 - missed / max(len(wanted), 1),
        "adjusted_rand": rand,
        "sprung_traps": float(sprung),
        "sweep_seconds": join_s + group_s,
    }
    return figures, measured, pairs, group_s


def _sweep_new(
    gallery: Gallery, planted: Planted, earlier: Records, threshold: float, checkpoint: Path
) -> tuple[Figure, dict[str, float]]:
    first, total = planted.first_new, len(planted.people)
    known, fresh = np.arange(first), np.arange(first, total)
    join = partial(join_gallery, gallery, threshold, known=known, checkpoint=checkpoint)
    joined, join_s = clock(join)
    facts, found = make_facts(total), joined.pairs

    def group() -> Records:
        both = np.concatenate([earlier, found.records])
        group_faces(both, threshold, facts, read_vectors=gallery.held, fresh=fresh)
        return both

    pairs, group_s = clock(group)
    wanted = planted_pairs(planted, threshold)
    wanted = wanted[wanted[:, 1] >= first]
    missed = count_missed(wanted, pairs)
    return Figure("planted, with a new reference", "pairs", float(len(wanted))), {
        "new_pairs_found": 1 - missed / max(len(wanted), 1),
        "new_seconds": join_s + group_s,
    }


def _time_flat(vectors: Vectors, threshold: float) -> float:
    """FAISS Flat's range search over all, by the rate at which it decides on the pairs of a few."""
    some = vectors[:_FLAT_REFERENCES]
    index = faiss.IndexFlatIP(some.shape[1])
    index.add(some)
    taken_s = min(rested(lambda: index.range_search(some, threshold))() for _ in range(3))
    return taken_s * (len(vectors) / len(some)) ** 2


def adjusted_rand(truth: Labels, found: Labels) -> float:
    """The Rand index corrected for chance (Hubert and Arabie 1985); 1 where both are the same."""
    together, of_truth, of_found = _count_together(truth, found)
    total = count_pairs(np.array([len(truth)]))
    expected = of_truth * of_found / total if total else 0.0
    most = (of_truth + of_found) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def _count_together(truth: Labels, found: Labels) -> tuple[float, float, float]:
    """Pairs that are together in both, in the truth, and in what was found."""
    both = np.unique(np.stack([truth, found]), axis=1, return_counts=True)[1]
    alone = (np.unique(labels, return_counts=True)[1] for labels in (truth, found))
    of_truth, of_found = map(count_pairs, alone)
    return count_pairs(both), of_truth, of_found


def count_pairs(sizes: Ints) -> float:
    """Pairs within sets of these sizes."""
    return float((sizes * (sizes - 1) // 2).sum())


def label_groups(size: int, groups: Iterable[Group]) -> Labels:
    """int64[size] by reference, where those are rows: who is in no group is alone."""
    labels = np.arange(size)
    for group in groups:
        rows = [key for one in group.identities for key in one.reference_ids]
        labels[rows] = min(rows)
    return labels


def agree(truth: Labels, traps: Iterable[Rows], labels: Labels) -> tuple[float, int]:
    """The adjusted Rand index of a grouping, and in how many traps it puts strangers together who
    are no neighbours there."""
    sprung = sum(
        any(labels[row] in labels[rows[place + 2 :]] for place, row in enumerate(rows))
        for rows in traps
    )
    return adjusted_rand(truth, labels), sprung


def count_missed(wanted: Rows, pairs: Records) -> int:
    """How many of these pairs of rows, int64[k, 2] ascending, were not found."""
    found = pairs["left"].astype(np.int64) << 32 | pairs["right"]
    return int((~np.isin(wanted[:, 0] << 32 | wanted[:, 1], found)).sum())
