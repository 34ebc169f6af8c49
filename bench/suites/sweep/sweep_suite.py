"""Suite `sweep`: rings hidden in a million references, found, grouped, and told from chains."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.machine import clock, open_folder, read_peak_bytes, rested
from bench.core.reports import Figure, Result, SuiteOutput
from bench.data.vectors import Rows, Vectors, describe_faces
from bench.suites.baselines import build_gallery
from bench.suites.serve.process import Worker
from bench.suites.sweep.planted import DIM, Planted, SweepConfig, make_facts, plant, planted_pairs
from engine.sweeps.clustering import PairTable, label_components
from engine.sweeps.groups import group_faces
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery
from schema.sweeps import Group

QUICK = {"references": 20_000, "rings": 50, "traps": 10, "newcomers": 1_000}
_FLAT_REFERENCES = 20_000

Labels = NDArray[np.int64]


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
) -> tuple[tuple[Figure, ...], dict[str, float], PairTable, float]:
    """What was found, with those who are linked through however many others beside our groups; the
    pairs, and the seconds of the groups."""
    joined, join_s = clock(lambda: join_gallery(gallery, threshold, checkpoint=checkpoint))
    first = planted.first_new
    pairs = PairTable(joined.pairs.left, joined.pairs.right, joined.pairs.scores)
    group = partial(group_faces, pairs, threshold, make_facts(first), read_vectors=gallery.held)
    groups, group_s = clock(group)
    wanted = planted_pairs(planted, threshold)
    wanted = wanted[wanted[:, 1] < first]
    missed = count_missed(wanted, pairs)
    truth = planted.people[:first]
    rand, sprung = agree(truth, planted.traps, label_groups(first, groups))
    others = agree(truth, planted.traps, label_components(first, pairs.left, pairs.right))
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
    gallery: Gallery, planted: Planted, earlier: PairTable, threshold: float, checkpoint: Path
) -> tuple[Figure, dict[str, float]]:
    first, total = planted.first_new, len(planted.people)
    known, fresh = np.arange(first), np.arange(first, total)
    join = partial(join_gallery, gallery, threshold, known=known, checkpoint=checkpoint)
    joined, join_s = clock(join)
    facts, found = make_facts(total), joined.pairs

    def group() -> PairTable:
        both = PairTable(
            *(
                np.concatenate([getattr(one, name) for one in (earlier, found)])
                for name in ("left", "right", "scores")
            )
        )
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


def count_pairs(sizes: NDArray[np.int64]) -> float:
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


def count_missed(wanted: Rows, pairs: PairTable) -> int:
    """How many of these pairs of rows, int64[k, 2] ascending, were not found."""
    found = pairs.left.astype(np.int64) << 32 | pairs.right
    return int((~np.isin(wanted[:, 0] << 32 | wanted[:, 1], found)).sum())
