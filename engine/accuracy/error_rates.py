"""Error rates of scores (ISO/IEC 19795-1).

A pair matches at `score >= threshold`. FMR: share of non-mated pairs that match. FNMR: share of
mated pairs that do not.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.errors import RateUnsupported

COMMON_FMR = 1e-4
MIN_EXPECTED_PAIRS = 10
"""Non-mated pairs above its threshold that a rate needs to count as measured."""


def lowest_rate(comparisons: int) -> float:
    """The lowest false match rate that this many non-mated comparisons support."""
    return MIN_EXPECTED_PAIRS / comparisons if comparisons else math.inf


def require_support(rate: float, comparisons: int) -> None:
    """Raise `RateUnsupported`, with the lowest supported rate, where `rate` is below it."""
    # Ten pairs of a million must support 1e-5 in spite of rounding.
    if rate < lowest_rate(comparisons) * (1 - 1e-9):
        raise RateUnsupported(
            f"a rate of {rate:g} is not supported by {comparisons:,} non-mated comparisons: "
            f"the lowest is {lowest_rate(comparisons):.2g}"
        )


def choose_rate(wanted: float | None, nonmated_pairs: int) -> float | None:
    """The rate wanted, or COMMON_FMR, or else the lowest supported decade.

    None where not even 0.1 is supported; raises `RateUnsupported` for an unsupported `wanted`.
    """
    if wanted is not None:
        require_support(wanted, nonmated_pairs)
        return wanted
    rates = (COMMON_FMR, 1e-3, 1e-2, 1e-1)
    return next((rate for rate in rates if rate >= lowest_rate(nonmated_pairs) * (1 - 1e-9)), None)


def thresholds_at(
    nonmated: NDArray[np.float32],
    rates: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """The smallest threshold whose FMR, by the pairs' `weights`, is at most each rate: float32[r].

    Support is not checked: see `require_support`.
    """
    assert len(nonmated)
    assert ((rates > 0) & (rates < 1)).all()
    # A rate that as many pairs have exactly is kept by these, in spite of rounding.
    best = np.quantile(-nonmated, rates * (1 + 1e-9), weights=weights, method="inverted_cdf")
    # Just above the best pair that must not match, so that ties with it do not match either.
    return np.nextafter(-best.astype(np.float32), np.float32(np.inf))


def threshold_at(nonmated: NDArray[np.float32], rate: float) -> float:
    """The smallest threshold whose FMR is at most `rate`; raises `RateUnsupported`."""
    require_support(rate, len(nonmated))
    return float(thresholds_at(nonmated, np.array([rate]))[0])


def wilson_interval(events: float, trials: float) -> tuple[float, float]:
    """The 95 % score interval of a share of independent trials (Wilson 1927)."""
    z = 1.959964
    centre = (events + z * z / 2) / (trials + z * z)
    spread = z / (trials + z * z) * math.sqrt(events * (trials - events) / trials + z * z / 4)
    share = events / trials
    return min(max(centre - spread, 0.0), share), max(min(centre + spread, 1.0), share)
