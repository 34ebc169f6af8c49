"""Template ageing: what the years between two photographs of one person cost.

Faces that were photographed over many years are seldom those photographed once: so beside the
figures of each span of years stands the slope *within* people, which compares each person's scores
only with that person's others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.bootstrap import draw_people
from engine.accuracy.shares import LEAST_PEOPLE, Share, refuse_few, share_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.accuracy.comparisons import Comparisons

DAYS_A_YEAR = 365.25
SPANS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, np.inf)
"""Years, each span without its end."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Span:
    """Mated comparisons whose photographs lie `from_years` to `to_years` apart (None: no end).

    `scores`: their 5, 25, 50, 75 and 95 % quantiles. `fnmr` is None where `refused` says why.
    """

    from_years: float
    to_years: float | None
    people: int
    mated_pairs: int
    scores: tuple[float, ...]
    fnmr: Share | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class Slope:
    """By how much a mated score changes a year, within people; the interval is one of 95 %."""

    people: int
    score_a_year: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ageing:
    """At `threshold`; spans without a comparison are left out, so are `undated` photographs."""

    threshold: float
    undated: int
    spans: tuple[Span, ...]
    slope: Slope | None
    slope_refused: str | None


def measure_ageing(
    mated: Comparisons,
    people: NDArray[np.int64],
    days: NDArray[np.datetime64],
    threshold: float,
    *,
    seed: int,
) -> Ageing:
    """`people` int64[n] and `days` datetime64[D][n] are of the templates compared, NaT unknown."""
    undated = int(np.isnat(days).sum())
    gaps = np.abs(days[mated.left] - days[mated.right])
    dated = mated.keep(~np.isnat(gaps))
    years = gaps[~np.isnat(gaps)].astype(np.float64) / DAYS_A_YEAR
    if not len(dated):
        return Ageing(threshold, undated, (), None, "no person has two photographs with dates")
    owners = people[dated.left]
    weights = draw_people(owners, int(people.max()) + 1, seed=seed)
    place = np.searchsorted(SPANS, years, side="right") - 1
    spans = tuple(
        _measure_span(int(number), dated.keep(place == number), people, threshold, weights)
        for number in np.unique(place)
    )
    slope, refused = _fit_slope(owners, years, dated.scores, weights)
    return Ageing(threshold, undated, spans, slope, refused)


def _measure_span(
    number: int,
    held: Comparisons,
    people: NDArray[np.int64],
    threshold: float,
    weights: NDArray[np.float32],
) -> Span:
    owners = people[held.left]
    asked = len(np.unique(owners))
    refused = refuse_few(asked)
    end = SPANS[number + 1]
    return Span(
        from_years=SPANS[number],
        to_years=None if np.isinf(end) else end,
        people=asked,
        mated_pairs=len(held),
        scores=tuple(float(score) for score in np.quantile(held.scores, QUANTILES)),
        fnmr=None if refused else share_of(owners, held.scores < threshold, weights),
        refused=refused,
    )


def _fit_slope(
    owners: NDArray[np.int64],
    years: NDArray[np.float64],
    scores: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> tuple[Slope | None, str | None]:
    """Least squares of scores on years, each less the mean of its person."""
    population = len(weights)
    pairs = np.maximum(np.bincount(owners, minlength=population), 1)
    own_years = years - (np.bincount(owners, years, population) / pairs)[owners]
    own_scores = scores - (np.bincount(owners, scores, population) / pairs)[owners]
    spread = np.bincount(owners, own_years**2, population)
    common = np.bincount(owners, own_years * own_scores, population)
    asked = int((spread > 1e-9).sum())
    if asked < LEAST_PEOPLE:
        return None, (
            f"{asked} people have photographs different years apart, {LEAST_PEOPLE} are needed"
        )
    drawn = spread @ weights
    replicates = (common @ weights)[drawn > 0] / drawn[drawn > 0]
    value = float(common.sum() / spread.sum())
    low, high = (float(end) for end in np.percentile(replicates, [2.5, 97.5]))
    return Slope(asked, value, min(low, value), max(high, value)), None
