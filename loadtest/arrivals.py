"""When visits are due: moments drawn from a rate that changes by stretches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Process(StrEnum):
    """Evenly spaced, or as independent people come."""

    CONSTANT = "constant"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many seconds at one rate. What is due in one that is not judged has no latency objective,
    and may be refused; it must still be decided rightly."""

    name: str
    seconds: float
    rate: float
    is_judged: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sorted seconds from the start, float64[n], and the stretch of each, int64[n]."""

    due_s: NDArray[np.float64]
    stretch: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.due_s)


def draw_moments(
    stretches: Sequence[Stretch], process: Process, rng: np.random.Generator
) -> Moments:
    """All arrivals of the stretches, one after the other."""
    due, places, start = [], [], 0.0
    for place, stretch in enumerate(stretches):
        if process is Process.POISSON:
            # Given their number, moments of a Poisson process are independent and uniform.
            count = int(rng.poisson(stretch.seconds * stretch.rate))
            moments: NDArray[np.float64] = np.sort(rng.uniform(0, stretch.seconds, count))
        else:
            count = round(stretch.seconds * stretch.rate)
            moments = np.arange(0.5, count, dtype=np.float64) / max(stretch.rate, 1e-9)
        due.append(start + moments)
        places.append(np.full(count, place))
        start += stretch.seconds
    return Moments(np.concatenate(due), np.concatenate(places))
