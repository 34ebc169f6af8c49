"""Scores of fused photographs from those of single ones.

The service keeps the normalised mean of a person's two photographs. Its cosine with another such
mean follows exactly from the cosines of the photographs, which `/v1/match` tells: so a planted mate
is one that the service's own model calls a mate, and no label of a photograph has to be believed.
"""

from __future__ import annotations

import math


def fuse_single(to_live: float, to_portrait: float, within: float) -> float:
    """Cosine of one photograph with the mean of two, whose own cosine is `within`."""
    return (to_live + to_portrait) / _length(within)


def fuse_both(cross: float, within: float, within_other: float) -> float:
    """Cosine of two means; `cross` is the sum of the four cosines between them."""
    return cross / (_length(within) * _length(within_other))


def _length(within: float) -> float:
    # Of a + b, both of unit length. Opposite photographs have no mean.
    return math.sqrt(max(2 + 2 * within, 1e-12))
