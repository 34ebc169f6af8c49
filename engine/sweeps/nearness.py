"""Pairs that a join leaves out, though they lie near its threshold between people who are linked.

The threshold of a sweep keeps strangers apart in half a million million comparisons. Among a few
documents that hang together already it asks too much: of three identities of one person the third
pair may lie just below, and looks like two strangers joined through a third. So inside a component
of links every pair is scored, and one that lies at most `SLACK` below the threshold speaks neither
for nor against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from engine.sweeps.linking import Documents, LinkTable, Owners, drop_exceptions
from indexes.errors import IdInvalid
from indexes.gallery import Gallery
from indexes.scoring import exact_scores

SLACK = 0.05
"""Of a cosine. Two strangers who both score 0.6 with a third score 0.36 with each other, give or
take 0.06; of two references of one person one pair in a thousand misses 0.55."""
MOST_DOCUMENTS = 500
"""A greater component hangs together by chance: its pairs are too many, and would tell nothing."""
_REFERENCES_AT_ONCE = 8_000

References = NDArray[np.int64]
Look = Callable[[References], tuple[References, NDArray[np.float32]]]
"""Those of the ascending references asked for that are there, and their rows: float32[n, dim]."""


def look_into(gallery: Gallery) -> Look:
    """Reads the rows of a gallery; what has been removed from it is left out."""

    def look(references: References) -> tuple[References, NDArray[np.float32]]:
        while True:
            try:
                return references, gallery.vectors(references)
            except IdInvalid:
                # Removals go on, and what is removed never comes back.
                references = np.intersect1d(references, gallery.ids)

    return look


def find_near(
    links: LinkTable, owners: Owners, exceptions: Documents, look: Look, threshold: float
) -> LinkTable:
    """Pairs of documents in one component of `links`, from `threshold - SLACK` to `threshold`.

    `exceptions` as in `link_documents`: whom people have told apart nothing brings near.
    """
    documents, labels = _open_components(links)
    is_member = np.isin(owners.documents, documents)
    references, holders = owners.references[is_member], owners.documents[is_member]
    components = labels[np.searchsorted(documents, holders)]
    order = np.argsort(components, kind="stable")
    found = []
    for span in _spans(components[order]):
        rows = order[span]
        found.append(_score(references[rows], holders[rows], components[rows], look))
    best = LinkTable.joined(found)
    scores = best.scores.astype(np.float64)
    near = best.at((scores >= threshold - SLACK) & (scores < threshold))
    return drop_exceptions(near, exceptions)


def label_components(size: int, left: Documents, right: Documents) -> Documents:
    """int64[size]: the smallest node that each is linked to, through however many others."""
    labels = np.arange(size)
    while True:
        before = labels.copy()
        np.minimum.at(labels, right, labels[left])
        np.minimum.at(labels, left, labels[right])
        labels = labels[labels]
        if np.array_equal(before, labels):
            return labels


def _open_components(links: LinkTable) -> tuple[Documents, Documents]:
    """The documents, ascending, whose component lacks a link and is not too great; its label."""
    documents, left, right = links.ends()
    labels = label_components(len(documents), left, right)
    sizes = np.bincount(labels, minlength=len(labels))
    linked = np.bincount(labels[left], minlength=len(labels))
    is_open = (linked < sizes * (sizes - 1) // 2) & (sizes <= MOST_DOCUMENTS)
    members = is_open[labels]
    return documents[members], labels[members]


def _spans(labels: Documents) -> Iterator[slice]:
    """Some thousand places at a time; equal labels, which lie side by side, are never parted."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    start = 0
    while start < len(labels):
        end = np.searchsorted(starts, start + _REFERENCES_AT_ONCE)
        stop = int(starts[end]) if end < len(starts) else len(labels)
        yield slice(start, stop)
        start = stop


def _score(
    references: References, holders: Documents, components: Documents, look: Look
) -> LinkTable:
    """All pairs within each component, by document, each with its highest score."""
    there, vectors = look(np.sort(references))
    kept = np.isin(references, there)
    references, holders, components = references[kept], holders[kept], components[kept]
    starts = np.flatnonzero(np.diff(components, prepend=-1)).tolist()
    sizes = np.diff([*starts, len(components)]).tolist()
    pairs = [start + _triangle(size) for start, size in zip(starts, sizes, strict=True)]
    one, other = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    one, other = (side[holders[one] != holders[other]] for side in (one, other))
    rows = np.searchsorted(there, references)
    scores = exact_scores(vectors, vectors, rows[one], rows[other])
    return LinkTable.of(holders[one], holders[other], scores)


@cache
def _triangle(size: int) -> NDArray[np.int64]:
    """int64[2, m]: every two of so many places."""
    return np.stack(np.triu_indices(size, 1))
