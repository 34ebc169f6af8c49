"""Where the nodes of a small graph go: linked ones near, the same graph always the same way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.sweeps.spanning import Edge

_STEPS = 120


def lay_out(count: int, edges: Sequence[Edge]) -> NDArray[np.float64]:
    """float64[count, 2] within the unit square, its longer extent along x.

    Stress majorisation (Gansner, Koren and North 2004) of the distances along edges: each step
    lowers the stress, and none is drawn by lot.
    """
    if count == 1:
        return np.full((1, 2), 0.5)
    wanted = _distances(count, edges)
    places = _circle(count)
    for _ in range(_STEPS):
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        pull = np.divide(wanted, apart, out=np.zeros_like(wanted), where=apart > 1e-9)
        places = (np.diag(pull.sum(axis=1)) - pull) @ places / count
    return _fit(places)


def _distances(count: int, edges: Sequence[Edge]) -> NDArray[np.float64]:
    """Edges from node to node (Floyd 1962); parts that no edge joins lie beyond the farthest."""
    far = np.full((count, count), np.inf)
    np.fill_diagonal(far, 0.0)
    for one, other in edges:
        far[one, other] = far[other, one] = 1.0
    np.fill_diagonal(far, 0.0)
    for middle in range(count):
        far = np.minimum(far, far[:, middle, None] + far[None, middle])
    joined = far[np.isfinite(far)]
    far[np.isinf(far)] = max(float(joined.max()), 1.0) + 1.0
    return np.asarray(far, np.float64)


def _circle(count: int) -> NDArray[np.float64]:
    """A start without symmetry, which could hold a node where every pull on it cancels."""
    angles = 2 * np.pi * np.arange(count) / count + 0.3
    radii = 1 + 0.12 * (np.arange(count) % 3)
    rim = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(rim * radii[:, None])


def _fit(places: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = places - places.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    # The sign of an axis is free: its greatest part counts as positive.
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    turned = centred @ axes.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    extent = max(float((high - low).max()), 1e-9)
    return np.asarray(0.5 + (turned - (low + high) / 2) / extent)
