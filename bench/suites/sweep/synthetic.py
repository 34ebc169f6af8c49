"""A planted gallery of synthetic people, swept in a process of its own; a flood of links."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Result, Setup
from bench.core.timing import clock, rested
from bench.suites.baselines import build_gallery
from bench.suites.serve.process import Worker
from bench.suites.sweep.agreement import (
    agree,
    count_missed,
    label_groups,
    label_linked,
    list_joined,
    old_rings,
)
from bench.suites.sweep.planted import Plan, Planted, plant, planted_pairs
from engine.sweeps.clustering import LinkTable, Owners, PairTable, cluster_links
from engine.sweeps.groups import FaceFacts, group_faces
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery
from schema.lines import LineStatus
from schema.sweeps import Group, Identity, LineFact

LINKS_A_DOCUMENT = 2.5
"""With more than two, most documents hang together in one component."""
Found = tuple[tuple[Result, ...], dict[str, float]]
"""Results, and the figures that goals name, but for those that could not be measured."""

_FLAT_REFERENCES = 20_000
_CARRIERS, _OUTLETS = 3, 400
_FIRST_OPENING = datetime(2019, 12, 1, tzinfo=UTC)
_MINUTES = 3 * 365 * 24 * 60
# Odd numbers without a pattern: what a row has follows from it, with nothing kept.
_SCATTER = 0x9E3779B1


def measure(plan: Plan, folder: Path, setup: Setup) -> Found:
    """In a new process, so that its peak of memory is that of nothing else."""
    with Worker() as pool:
        return pool.submit(measure_here, plan, folder, setup).result()


def measure_here(plan: Plan, folder: Path, setup: Setup) -> Found:
    """What a sweep of everything costs and finds, and then one of what is new.

    Checkpoints go to `folder`, as those of the product go to the disk.
    """
    planted = plant(plan)
    scanner = Scanner()
    setup = setup | {"kernel": scanner.kernel}
    first = planted.first_new
    gallery, _ = build_gallery(planted.vectors[:first], scanner)
    everything, measured, pairs = _sweep_all(gallery, planted, plan.threshold, folder / "all")
    added = np.arange(first, len(planted.people))
    gallery.add(added, planted.vectors[first:], gallery.sequence + 1)
    new, more = _sweep_new(gallery, planted, pairs, plan.threshold, folder / "new")
    peak_bytes = read_peak_bytes()
    scanner.close()
    flat_s = _time_flat(planted.vectors[:first], plan.threshold)
    swept_s = measured["sweep_seconds"]
    costs = (
        # It compares each pair from both sides.
        Figure("FAISS Flat's range search, projected", "s", flat_s, ratio=1.0),
        Figure("the sweep", "s", swept_s, ratio=flat_s / swept_s),
        *everything[:2],
        list_peak(peak_bytes),
    )
    results = (
        Result("A sweep of everything", setup, costs),
        Result("What it found", setup, everything[2:]),
        Result("A sweep of what is new", setup | {"newcomers": plan.newcomers}, new),
    )
    if peak_bytes is not None:
        more["sweep_peak_gb"] = peak_bytes / 1e9
    return results, measured | more


def _sweep_all(
    gallery: Gallery, planted: Planted, threshold: float, checkpoint: Path
) -> tuple[tuple[Figure, ...], dict[str, float], PairTable]:
    """Seconds of join and groups, then what was found; beside our groups those without a look at
    pairs that are near, and who is linked through however many others."""
    joined, join_s = clock(lambda: join_gallery(gallery, threshold, checkpoint=checkpoint))
    first = planted.first_new
    facts = make_facts(first)
    pairs = PairTable(joined.pairs.left, joined.pairs.right, joined.pairs.scores)
    group = partial(group_faces, pairs, threshold, facts)
    groups, group_s = clock(lambda: group(read_vectors=gallery.held))
    wanted = planted_pairs(planted, threshold)
    wanted = wanted[wanted[:, 1] < first]
    missed = count_missed(wanted, pairs)
    trapped = np.concatenate([np.empty(0, np.int64), *planted.traps])
    strange = planted.people[pairs.left] != planted.people[pairs.right]
    of_rings = sum(len(rows) * (len(rows) - 1) // 2 for rows in old_rings(planted))
    ours = agree(planted, label_groups(first, groups))
    alone = agree(planted, label_groups(first, group()))
    components = agree(planted, label_linked(first, pairs))
    false = int((strange & ~np.isin(pairs.left, trapped)).sum())
    figures = (
        Figure("the join in it", "s", join_s),
        Figure("groups and their ranks in it", "s", group_s),
        Figure("pairs found", "pairs", float(len(pairs))),
        Figure("planted, at or above the threshold", "pairs", float(len(wanted))),
        Figure("of these missed", "pairs", float(missed)),
        Figure("of one ring, whatever their score", "pairs", float(of_rings)),
        Figure("of strangers of the population", "pairs", float(false)),
        Figure("groups", "groups", float(len(groups))),
        *ours.list_figures("groups"),
        *alone.list_figures("groups of the pairs alone"),
        *components.list_figures("connected components"),
    )
    measured = {
        "planted_pairs_found": 1 - missed / max(len(wanted), 1),
        "adjusted_rand": ours.adjusted_rand,
        "sprung_traps": float(ours.sprung_traps),
        "sweep_seconds": join_s + group_s,
    }
    return figures, measured, pairs


def _sweep_new(
    gallery: Gallery, planted: Planted, earlier: PairTable, threshold: float, checkpoint: Path
) -> tuple[tuple[Figure, ...], dict[str, float]]:
    first, total = planted.first_new, len(planted.people)
    known = np.arange(first)
    joined, join_s = clock(
        lambda: join_gallery(gallery, threshold, known=known, checkpoint=checkpoint)
    )
    facts, found = make_facts(total), joined.pairs

    def group() -> tuple[PairTable, list[Group]]:
        both = PairTable(
            *(
                np.concatenate([getattr(one, name) for one in (earlier, found)])
                for name in ("left", "right", "scores")
            )
        )
        read_vectors, fresh = gallery.held, np.arange(first, total)
        return both, group_faces(both, threshold, facts, read_vectors=read_vectors, fresh=fresh)

    (pairs, groups), group_s = clock(group)
    wanted = planted_pairs(planted, threshold)
    wanted = wanted[wanted[:, 1] >= first]
    missed = count_missed(wanted, pairs)
    figures = (
        Figure("the sweep of what is new", "s", join_s + group_s),
        Figure("the join in it", "s", join_s),
        Figure("groups and their ranks in it", "s", group_s),
        Figure("planted, with a new reference", "pairs", float(len(wanted))),
        Figure("of these missed", "pairs", float(missed)),
        *list_joined(planted, label_groups(total, groups)),
        Figure("groups with something new", "groups", float(len(groups))),
    )
    measured = {
        "new_pairs_found": 1 - missed / max(len(wanted), 1),
        "new_seconds": join_s + group_s,
    }
    return figures, measured


def _time_flat(vectors: NDArray[np.float32], threshold: float) -> float:
    """FAISS Flat's range search over all, by the rate at which it decides on the pairs of a few."""
    some = vectors[:_FLAT_REFERENCES]
    index = faiss.IndexFlatIP(some.shape[1])
    index.add(some)
    taken_s = min(rested(lambda: index.range_search(some, threshold))() for _ in range(3))
    return taken_s * (len(vectors) / len(some)) ** 2


def time_flood(links: int, seed: int) -> float:
    """Seconds to cluster so many random links, as of a threshold that strangers reach."""
    rng = np.random.default_rng([seed, 23])
    documents = int(2 * links / LINKS_A_DOCUMENT)
    left, right = rng.integers(0, documents, (2, links))
    scores = rng.uniform(0.4, 0.7, links).astype(np.float32)
    kept = left != right
    table = LinkTable.of(left[kept], right[kept], scores[kept])
    return clock(lambda: cluster_links(table))[1]


def list_peak(peak_bytes: int | None) -> Figure:
    """The most memory that a process has had."""
    name = "peak of memory, gallery and all"
    if peak_bytes is None:
        return Figure.skip(name, "GB", "no /proc here")
    return Figure(name, "GB", peak_bytes / 1e9)


def read_peak_bytes() -> int | None:
    """The most memory that this process has had at once; None where there is no /proc."""
    # What the system's own accounting says (ru_maxrss) a child has from its parent.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


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
