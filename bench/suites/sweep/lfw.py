"""Photographs of known people as a gallery: each photograph of a person under a false document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.core.reports import Figure, Result, Setup
from bench.data.photographs import find_faces
from bench.data.vectors import Rows, Vectors, default_thresholds
from bench.suites.baselines import build_gallery
from bench.suites.sweep.agreement import (
    adjusted_rand,
    count_pairs,
    label_groups,
    label_linked,
    share_pairs,
)
from bench.suites.sweep.synthetic import make_facts
from engine.accuracy.dataset import LabelledFolder, embed_folder
from engine.accuracy.pair_scores import fuse
from engine.faces.extractor import open_extractor
from engine.sweeps.groups import group_faces
from engine.sweeps.sweep_model import Group, PairTable
from indexes.exact.scanner import Scanner
from indexes.joining.join import join_gallery

MOST_IDENTITIES = 20
"""Of one person: a few have hundreds of photographs, and would be most of all pairs."""


def sweep_photographs(faces: Path | None, people: int | None) -> Iterator[Result]:
    """Extracts all photographs (of the first `people`), and sweeps them at three thresholds.

    A result for each gallery: of the pairs, and of the pairs of identities that share a group.
    """
    root = find_faces(faces)
    folder = LabelledFolder.open(root)
    if people is not None:
        folder = _first(folder, people)
    with open_extractor() as one:
        embeddings = embed_folder(folder, one)
    vectors, labels = embeddings.acquired()
    limits = default_thresholds()
    thresholds = {
        "same document": limits.same_document,
        "review": limits.review,
        "certain": limits.certain,
    }
    for name, each in (("one photograph each", 1), ("fused of two photographs", 2)):
        references, owners = _split(vectors, labels, each)
        counts = np.unique(owners, return_counts=True)[1]
        setup: Setup = {
            "photographs": f"{root.parent.name}/{root.name}",
            "without a face": len(embeddings.failed),
            "references": len(owners),
            "people": len(counts),
            "people with several": int((counts > 1).sum()),
            "identities at most": MOST_IDENTITIES,
        }
        figures = tuple(_sweep(references, owners, thresholds))
        yield Result(f"People under false documents, {name}", setup, figures)


def _first(folder: LabelledFolder, people: int) -> LabelledFolder:
    kept = folder.people < people
    paths = tuple(path for path, is_kept in zip(folder.paths, kept, strict=True) if is_kept)
    return LabelledFolder(folder.root, folder.names[:people], paths, folder.people[kept])


def _split(vectors: Vectors, people: Rows, each: int) -> tuple[Vectors, Rows]:
    """References fused of `each` photographs, none used twice, and whose they are.

    People with too few photographs are left out; those with enough for one reference have one
    honest identity.
    """
    references, owners = [], []
    for person in np.unique(people).tolist():
        own = np.flatnonzero(people == person)
        for number in range(min(len(own) // each, MOST_IDENTITIES)):
            chosen = vectors[own[number * each : (number + 1) * each]]
            references.append(chosen[0] if each == 1 else fuse(chosen[:1], chosen[1:])[0])
            owners.append(person)
    return np.array(references, np.float32), np.array(owners)


def _sweep(references: Vectors, people: Rows, thresholds: Mapping[str, float]) -> Iterator[Figure]:
    scanner = Scanner()
    indexed, _ = build_gallery(references, scanner)
    facts = make_facts(len(people))
    for name, threshold in thresholds.items():
        joined = join_gallery(indexed, threshold).pairs
        pairs = PairTable(joined.left, joined.right, joined.scores)
        groups = group_faces(pairs, threshold, facts, read_vectors=indexed.held)
        yield from _compare(f"{name} ({threshold:.3f})", people, pairs, groups)
    scanner.close()


def _compare(at: str, people: Rows, pairs: PairTable, groups: Sequence[Group]) -> Iterator[Figure]:
    labels = label_groups(len(people), groups)
    precision, recall = share_pairs(people, labels)
    right = int((people[pairs.left] == people[pairs.right]).sum())
    mated = count_pairs(np.unique(people, return_counts=True)[1])
    components = adjusted_rand(people, label_linked(len(people), pairs))
    yield Figure(f"{at}: pairs, precision", "share", right / len(pairs) if len(pairs) else 1.0)
    yield Figure(f"{at}: pairs, recall", "share", right / mated if mated else 1.0)
    yield Figure(f"{at}: together in groups, precision", "share", precision)
    yield Figure(f"{at}: together in groups, recall", "share", recall)
    yield Figure(f"{at}: adjusted Rand index", "of 1", adjusted_rand(people, labels))
    yield Figure(f"{at}: the same of connected components", "of 1", components)
    yield Figure(f"{at}: groups", "groups", float(len(groups)))
