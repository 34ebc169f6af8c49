"""A sweep of everything and one of what is new, over a planted gallery, in a process of its own."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.timing import rested
from bench.suites.baselines import build_gallery, clock
from bench.suites.sweep.planted import (
    Agreement,
    Plan,
    Planted,
    agree,
    count_joined,
    count_missed,
    label_groups,
    label_linked,
    old_rings,
    plant,
    planted_pairs,
)
from engine.registry.records import LineStatus
from engine.sweeps.clustering import cluster_links, label_components, vector_reader
from engine.sweeps.groups import group_faces
from engine.sweeps.linking import LinkTable, Referenced
from engine.sweeps.sweep_model import Group, Identity, LineFact, PairTable
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery

# What a registry would say of a synthetic gallery: a document for each row, with a line or two.

_CARRIERS, _OUTLETS = 3, 400
_FIRST_OPENING = datetime(2019, 12, 1, tzinfo=UTC)
_MINUTES = 3 * 365 * 24 * 60
# Odd numbers without a pattern: what a row has follows from it, with nothing kept.
_SCATTER = 0x9E3779B1


@dataclass(frozen=True, slots=True)
class SyntheticFacts:
    """Of `count` references, each under its own document; nobody has judged anything."""

    count: int

    def document_owner_array(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = np.arange(self.count, dtype=np.int64)
        return rows, rows

    def exceptions(self) -> set[tuple[str, str]]:
        return set()

    def documents_by_id(self, ids: Sequence[str]) -> Mapping[str, Referenced]:
        return {key: introduce(int(key)) for key in ids}

    def identities_of(self, reference_ids: Sequence[int]) -> list[Identity]:
        return [introduce(row) for row in reference_ids]


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


# How much memory a process has had.


def read_peak_bytes() -> int | None:
    """The most memory that this process has had at once; None where there is no /proc."""
    # What the system's own accounting says (ru_maxrss) a child has from its parent.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


_FLAT_REFERENCES = 20_000


@dataclass(frozen=True, slots=True)
class Swept:
    """Seconds, and what was found. `planted` pairs reach the threshold, `missed` were not found;
    `false` pairs are of two people, traps not counted.

    Groups of ours, those without a look at pairs that are near, and what is linked at all.
    """

    join_s: float
    group_s: float
    pairs: int
    planted: int
    missed: int
    false: int
    groups: int
    ours: Agreement
    pairs_alone: Agreement
    components: Agreement

    @property
    def seconds(self) -> float:
        return self.join_s + self.group_s


@dataclass(frozen=True, slots=True)
class Renewed:
    """The sweep of what is new: `joined` of the `returning` identities are in a group with others
    of their ring."""

    join_s: float
    group_s: float
    planted: int
    missed: int
    groups: int
    returning: int
    joined: int

    @property
    def seconds(self) -> float:
        return self.join_s + self.group_s


@dataclass(frozen=True, slots=True)
class MeasuredSweep:
    """Of one process; `flat_s`: FAISS Flat's seconds, projected. `peak_bytes` from its start to
    the end of both sweeps, the gallery and all, None where the system doesn't tell."""

    swept: Swept
    renewed: Renewed
    flat_s: float
    peak_bytes: int | None
    ring_pairs: int
    kernel: str


def measure(plan: Plan, folder: Path) -> MeasuredSweep:
    """In a new process, so that its peak of memory is that of nothing else."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure_here, plan, folder).result()


def measure_here(plan: Plan, folder: Path) -> MeasuredSweep:
    """Both sweeps; checkpoints go to `folder`, as those of the product go to the disk."""
    planted = plant(plan)
    scanner = Scanner()
    first = planted.first_new
    gallery, _ = build_gallery(planted.vectors[:first], scanner)
    with TemporaryDirectory(prefix="sosie-bench-", dir=folder) as checkpoints:
        swept, pairs = _sweep_all(gallery, planted, plan.threshold, Path(checkpoints) / "all")
        added = np.arange(first, len(planted.people))
        gallery.add(added, planted.vectors[first:], gallery.sequence + 1)
        renewed = _sweep_new(gallery, planted, pairs, plan.threshold, Path(checkpoints) / "new")
    peak_bytes = read_peak_bytes()
    kernel = scanner.kernel
    scanner.close()
    return MeasuredSweep(
        swept=swept,
        renewed=renewed,
        flat_s=_time_flat(planted.vectors[:first], plan.threshold),
        peak_bytes=peak_bytes,
        ring_pairs=sum(len(rows) * (len(rows) - 1) // 2 for rows in old_rings(planted)),
        kernel=kernel,
    )


def _sweep_all(
    gallery: Gallery, planted: Planted, threshold: float, checkpoint: Path
) -> tuple[Swept, PairTable]:
    joined, join_s = clock(lambda: join_gallery(gallery, threshold, checkpoint=checkpoint))
    first = planted.first_new
    facts = SyntheticFacts(first)

    def group() -> tuple[PairTable, list[Group]]:
        found = PairTable(joined.pairs.left, joined.pairs.right, joined.pairs.scores)
        return found, group_faces(found, threshold, facts, read_vectors=vector_reader(gallery))

    (pairs, groups), group_s = clock(group)
    wanted = planted_pairs(planted, threshold)
    wanted = wanted[wanted[:, 1] < first]
    trapped = np.concatenate([np.empty(0, np.int64), *planted.traps])
    strange = planted.people[pairs.left] != planted.people[pairs.right]
    swept = Swept(
        join_s=join_s,
        group_s=group_s,
        pairs=len(pairs),
        planted=len(wanted),
        missed=count_missed(wanted, pairs),
        false=int((strange & ~np.isin(pairs.left, trapped)).sum()),
        groups=len(groups),
        ours=agree(planted, label_groups(first, groups)),
        pairs_alone=agree(planted, label_groups(first, group_faces(pairs, threshold, facts))),
        components=agree(planted, label_linked(first, pairs)),
    )
    return swept, pairs


def _sweep_new(
    gallery: Gallery, planted: Planted, earlier: PairTable, threshold: float, checkpoint: Path
) -> Renewed:
    first, total = planted.first_new, len(planted.people)
    known = np.arange(first)
    joined, join_s = clock(
        lambda: join_gallery(gallery, threshold, known=known, checkpoint=checkpoint)
    )
    facts = SyntheticFacts(total)

    def group() -> tuple[PairTable, list[Group]]:
        found = joined.pairs
        both = PairTable(
            np.concatenate([earlier.left, found.left]),
            np.concatenate([earlier.right, found.right]),
            np.concatenate([earlier.scores, found.scores]),
        )
        return both, group_faces(
            both,
            threshold,
            facts,
            read_vectors=vector_reader(gallery),
            fresh=np.arange(first, total),
        )

    (pairs, groups), group_s = clock(group)
    wanted = planted_pairs(planted, threshold)
    wanted = wanted[wanted[:, 1] >= first]
    labels = label_groups(total, groups)
    joined_count, returning = count_joined(planted, labels)
    return Renewed(
        join_s=join_s,
        group_s=group_s,
        planted=len(wanted),
        missed=count_missed(wanted, pairs),
        groups=len(groups),
        returning=returning,
        joined=joined_count,
    )


def _time_flat(vectors: NDArray[np.float32], threshold: float) -> float:
    """FAISS Flat's range search over all, by the rate at which it decides on the pairs of a few."""
    some = vectors[:_FLAT_REFERENCES]
    index = faiss.IndexFlatIP(some.shape[1])
    index.add(some)
    taken_s = min(rested(lambda: index.range_search(some, threshold))() for _ in range(3))
    return taken_s * (len(vectors) / len(some)) ** 2


# Grouping when the threshold is far too low: a million links between strangers at random.

LINKS_A_DOCUMENT = 2.5
"""With more than two, most documents hang together in one component."""


@dataclass(frozen=True, slots=True)
class Flood:
    """Seconds to cluster the links; documents of the largest component, of the largest cluster."""

    links: int
    seconds: float
    component: int
    cluster: int


def time_flood(links: int, seed: int) -> Flood:
    """Clusters so many random links."""
    rng = np.random.default_rng([seed, 23])
    documents = int(2 * links / LINKS_A_DOCUMENT)
    left, right = rng.integers(0, documents, (2, links))
    scores = rng.uniform(0.4, 0.7, links).astype(np.float32)
    kept = left != right
    left, right, scores = left[kept], right[kept], scores[kept]
    table = LinkTable.of(left, right, scores)
    clusters, seconds = clock(lambda: cluster_links(table))
    components = label_components(documents, left, right)
    largest = int(np.bincount(components).max())
    return Flood(links, seconds, largest, max(len(cluster.members) for cluster in clusters))
