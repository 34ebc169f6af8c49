"""How often an index misses a reference whose score is just above a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from indexes.base import Ids, VectorIndex, Vectors
from indexes.intervals import wilson_interval
from indexes.scoring import exact_scores

BAND = 0.05
"""Scores from the threshold to so much above it are near it."""

_NOISE_ROWS = 2048
# What is left of the noise where all references are one vector, give or take a rounding.
_LEAST_NOISE = 1e-3


@dataclass(frozen=True, slots=True)
class MissRate:
    """The share of near mates that a range search did not find, with its 95 % interval (Wilson).

    Measured at `threshold` with `probes` probes while the index held `references`.
    """

    share: float
    low: float
    high: float
    threshold: float
    probes: int
    references: int

    def __str__(self) -> str:
        return f"{self.share:.2%} (95 % interval {self.low:.2%} to {self.high:.2%})"


def measure_misses(
    index: VectorIndex, threshold: float, *, probes: int = 1000, seed: int = 0
) -> MissRate | None:
    """Search for references by made probes that score just above the threshold with them.

    `None` where no such probe can be made: too few references, or all alike.
    """
    if not len(index):
        return None
    queries, targets = near_mates(index, threshold, probes=probes, seed=seed)
    if not len(targets):
        return None
    hits = index.range_search(queries, threshold)
    found = sum(int(target in hits.of(query)[0]) for query, target in enumerate(targets))
    low, high = wilson_interval(len(targets) - found, len(targets))
    share = 1 - found / len(targets)
    return MissRate(share, low, high, threshold, len(targets), len(index))


def near_mates(
    index: VectorIndex, threshold: float, *, probes: int, seed: int
) -> tuple[Vectors, Ids]:
    """Probes float32[m, dim], and the id of the reference that each is a mate of; m <= probes.

    A probe is `t x + sqrt(1 - t²) u`: x a reference, t a score in the band above the threshold,
    u a unit vector orthogonal to x, drawn with the covariance that the references have among
    themselves. So a probe lies where faces lie, which is harder than noise in all directions,
    and somewhat harder than a photograph: of synthetic people's photographs with such scores
    `ivf` misses fewer by a factor of 1.3 to 1.8.
    """
    rng = np.random.default_rng(seed)
    ids = index.ids
    targets = rng.choice(ids, min(probes, len(ids)), replace=False)
    rows = index.vectors(targets)
    others = index.vectors(rng.choice(ids, min(_NOISE_ROWS, len(ids)), replace=False))
    weights = rng.standard_normal((len(rows), len(others)), dtype=np.float32)
    noise = weights @ (others - others.mean(axis=0)) / np.float32(math.sqrt(len(others)))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    noise -= np.einsum("ij,ij->i", noise, units)[:, None] * units
    sizes = np.linalg.norm(noise, axis=1, keepdims=True)
    scores = rng.uniform(threshold, min(1.0, threshold + BAND), (len(rows), 1)).astype(np.float32)
    queries = scores * units + np.sqrt(1 - scores**2) * noise / np.maximum(sizes, _LEAST_NOISE)
    sound = np.flatnonzero(sizes[:, 0] > _LEAST_NOISE)
    # A row may be a little shorter than 1: its probe may then score just below the threshold.
    reached = exact_scores(queries, rows, sound, sound).astype(np.float64) >= threshold
    kept = sound[reached]
    return np.ascontiguousarray(queries[kept], np.float32), targets[kept]
