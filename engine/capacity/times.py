"""Distributions of a time on a grid, added up stage by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

GRID = 4096
JITTERS = 9
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Masses float64[GRID] at multiples of `step_s`; the last one is of everything from there on.

    Stages are taken as independent of each other.
    """

    step_s: float
    masses: NDArray[np.float64]

    @classmethod
    def of(cls, seconds: NDArray[np.float64], weights: NDArray[np.float64], step_s: float) -> Self:
        """Moments with their weights, which need not add up to one."""
        places = np.minimum(np.rint(seconds / step_s), GRID - 1).astype(np.int64)
        masses = np.bincount(places.ravel(), weights.ravel(), GRID)
        return cls(step_s, masses / masses.sum())

    @classmethod
    def constant(cls, seconds: float, step_s: float) -> Self:
        return cls.of(np.array([seconds]), np.ones(1), step_s)

    def plus(self, other: Times) -> Times:
        """The sum of two independent times."""
        assert self.step_s == other.step_s
        size = 2 * GRID
        spectrum = np.fft.rfft(self.masses, size) * np.fft.rfft(other.masses, size)
        summed = np.fft.irfft(spectrum, size)
        masses = summed[:GRID].clip(0)
        masses[-1] += summed[GRID:].sum()
        return Times(self.step_s, masses / masses.sum())

    def jittered(self, spread: float) -> Times:
        """Each time a log-normal factor of mean 1 longer or shorter."""
        if spread <= 0:
            return self
        factors = jitters(spread)
        seconds = np.outer(factors, np.arange(GRID) * self.step_s)
        weights = np.tile(self.masses, (JITTERS, 1))
        # What lay beyond the grid stays there.
        seconds[:, -1] = GRID * self.step_s
        return Times.of(seconds, weights, self.step_s)

    def quantile(self, share: float) -> float:
        """In seconds; infinite where it lies beyond the grid."""
        place = int(np.searchsorted(np.cumsum(self.masses), share - 1e-12))
        return math.inf if place >= GRID - 1 else place * self.step_s


def jitters(spread: float) -> NDArray[np.float64]:
    """Equally likely factors, float64[JITTERS], of mean 1."""
    shares = (np.arange(JITTERS) + 0.5) / JITTERS
    factors = np.exp(spread * np.array([_NORMAL.inv_cdf(share) for share in shares.tolist()]))
    return np.asarray(factors / factors.mean(), np.float64)


def slowest_of(count: int, spread: float) -> float:
    """How many times as long as one the slowest of so many takes: the median of the greatest."""
    if count <= 1:
        return 1.0
    return math.exp(spread * _NORMAL.inv_cdf(0.5 ** (1 / count)))
