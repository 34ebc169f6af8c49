"""Photographs of known people as a gallery: each photograph of a person under a false document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from bench.data.photographs import find_faces
from bench.data.vectors import Vectors, default_thresholds
from bench.suites.baselines import build_gallery
from bench.suites.sweep.planted import adjusted_rand, label_groups, label_linked, share_pairs
from bench.suites.sweep.synthetic import SyntheticFacts
from engine.accuracy.dataset import LabelledFolder, embed_folder
from engine.accuracy.pair_scores import fuse
from engine.faces.extractor import open_extractor
from engine.sweeps.clustering import vector_reader
from engine.sweeps.groups import group_faces
from engine.sweeps.sweep_model import Group, PairTable
from indexes.exact.scanner import Scanner
from indexes.joining.join import join_gallery

MOST_IDENTITIES = 20
"""Of one person: a few have hundreds of photographs, and would be most of all pairs."""


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """`vectors` float32[n, d], a reference each; `people` int64[n]."""

    name: str
    vectors: Vectors
    people: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Found:
    """At a threshold: of the pairs, and of the pairs of identities that share a group.

    `of_components` is the adjusted Rand index of whoever is linked through however many others.
    """

    threshold: float
    pair_precision: float
    pair_recall: float
    precision: float
    recall: float
    adjusted_rand: float
    of_components: float
    groups: int


@dataclass(frozen=True, slots=True)
class Photographed:
    """What three thresholds bring, by gallery and by the threshold's name."""

    source: str
    failed: int
    sizes: dict[str, tuple[int, int, int]]
    found: dict[str, dict[str, Found]]


def sweep_photographs(faces: Path | None, people: int | None) -> Photographed:
    """Extracts all photographs (of the first `people`), and sweeps them at three thresholds."""
    root = find_faces(faces)
    folder = LabelledFolder.open(root)
    if people is not None:
        folder = _first(folder, people)
    with TemporaryDirectory(prefix="sosie-bench-") as cache, open_extractor(Path(cache)) as one:
        embeddings = embed_folder(folder, one)
    vectors, labels = embeddings.acquired()
    galleries = [
        _split("one photograph each", vectors, labels, 1),
        _split("fused of two photographs", vectors, labels, 2),
    ]
    limits = default_thresholds()
    thresholds = {
        "same document": limits.same_document,
        "review": limits.review,
        "certain": limits.certain,
    }
    return Photographed(
        source=f"{root.parent.name}/{root.name}",
        failed=len(embeddings.failed),
        sizes={one.name: _count(one.people) for one in galleries},
        found={one.name: _sweep(one, thresholds) for one in galleries},
    )


def _first(folder: LabelledFolder, people: int) -> LabelledFolder:
    kept = folder.people < people
    paths = tuple(path for path, is_kept in zip(folder.paths, kept, strict=True) if is_kept)
    return LabelledFolder(folder.root, folder.names[:people], paths, folder.people[kept])


def _split(name: str, vectors: Vectors, people: NDArray[np.int64], each: int) -> Gallery:
    """References of `each` photographs that no other has; who has too few photographs is left out,
    who has enough for one reference is somebody with an honest single identity."""
    references, owners = [], []
    for person in np.unique(people).tolist():
        own = np.flatnonzero(people == person)
        for number in range(min(len(own) // each, MOST_IDENTITIES)):
            chosen = vectors[own[number * each : (number + 1) * each]]
            references.append(chosen[0] if each == 1 else fuse(chosen[:1], chosen[1:])[0])
            owners.append(person)
    return Gallery(name, np.array(references, np.float32), np.array(owners))


def _count(people: NDArray[np.int64]) -> tuple[int, int, int]:
    """Identities, people, and people with several identities."""
    counts = np.unique(people, return_counts=True)[1]
    return len(people), len(counts), int((counts > 1).sum())


def _sweep(gallery: Gallery, thresholds: dict[str, float]) -> dict[str, Found]:
    scanner = Scanner()
    indexed, _ = build_gallery(gallery.vectors, scanner)
    found = {}
    for name, threshold in thresholds.items():
        joined = join_gallery(indexed, threshold).pairs
        pairs = PairTable(joined.left, joined.right, joined.scores)
        facts = SyntheticFacts(len(gallery.people))
        groups = group_faces(pairs, threshold, facts, read_vectors=vector_reader(indexed))
        found[name] = _compare(gallery.people, threshold, pairs, groups)
    scanner.close()
    return found


def _compare(
    people: NDArray[np.int64], threshold: float, pairs: PairTable, groups: Sequence[Group]
) -> Found:
    labels = label_groups(len(people), groups)
    precision, recall = share_pairs(people, labels)
    right, mated = int((people[pairs.left] == people[pairs.right]).sum()), _count_mated(people)
    return Found(
        threshold=threshold,
        pair_precision=right / len(pairs) if len(pairs) else 1.0,
        pair_recall=right / mated if mated else 1.0,
        precision=precision,
        recall=recall,
        adjusted_rand=adjusted_rand(people, labels),
        of_components=adjusted_rand(people, label_linked(len(people), pairs)),
        groups=len(groups),
    )


def _count_mated(people: NDArray[np.int64]) -> int:
    counts = np.unique(people, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())
