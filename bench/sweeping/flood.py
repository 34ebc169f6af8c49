"""Grouping when the threshold is far too low: a million links between strangers at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.searchers import clock
from engine.sweeps.clustering import cluster_links
from engine.sweeps.linking import LinkTable
from engine.sweeps.nearness import label_components

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
