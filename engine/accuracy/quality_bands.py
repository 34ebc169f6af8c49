"""FNMR by the quality of the photographs, at one threshold (ISO/IEC 29794-1 asks quality for that).

A comparison is as good as the worse of its two photographs. Photographs are ranked by each measure
of `engine.faces.quality`, and cut into bands by their rank, not by their value: every set of
photographs has a worst tenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.bootstrap import draw_people
from engine.accuracy.comparisons import compare_mated
from engine.accuracy.embedding import QUALITIES
from engine.accuracy.shares import Share, refuse_few, share_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from engine.accuracy.comparisons import Comparisons
    from engine.accuracy.templates import Templates

BANDS = (("best half", 0.5), ("next quarter", 0.75), ("next 15 %", 0.9), ("worst tenth", 1.0))
"""Of the photographs, and up to which share of them."""
MIDDLE_EXPOSURE = 0.5


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of quality; `badness` is its value, or less nought or the middle, with a sign that
    makes the worst the greatest."""

    name: str
    unit: str
    badness: Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _negative(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return -values


def _off_middle(values: NDArray[np.float32]) -> NDArray[np.float32]:
    off: NDArray[np.float32] = np.abs(values - np.float32(MIDDLE_EXPOSURE))
    return off


MEASURES = (
    Measure("inter_eye_px", "px", _negative),
    Measure("sharpness", "", _negative),
    Measure("exposure", "off the middle", _off_middle),
    Measure("contrast", "", _negative),
    Measure("yaw_deg", "°", np.abs),
    Measure("pitch_deg", "°", np.abs),
    Measure("roll_deg", "°", np.abs),
    Measure("detection_score", "", _negative),
)


@dataclass(frozen=True, slots=True)
class QualityBand:
    """The band reaches up to `worst`: degrees to either side, or an exposure so far off the middle.

    `fnmr` is None where `refused` says why.
    """

    name: str
    worst: float
    people: int
    mated_pairs: int
    fnmr: Share | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class MeasuredQuality:
    """The bands of one measure, best first."""

    measure: str
    unit: str
    bands: tuple[QualityBand, ...]


@dataclass(frozen=True, slots=True)
class QualityBands:
    """FNMR at `threshold`, over all mated comparisons and by band.

    `photographs` of a person are compared at most, so that nobody fills the bands alone.
    """

    threshold: float
    photographs: int
    overall: Share
    measures: tuple[MeasuredQuality, ...]


def band_quality(
    singles: Templates,
    qualities: NDArray[np.float32],
    threshold: float,
    *,
    photographs: int,
    seed: int,
) -> QualityBands | None:
    """`qualities` float32[n, 8], a row a template; None without a mated comparison."""
    mated = compare_mated(singles)
    if not len(mated):
        return None
    people = singles.people[mated.left]
    weights = draw_people(people, singles.population, seed=seed)
    is_missed = mated.scores < threshold
    return QualityBands(
        threshold=threshold,
        photographs=photographs,
        overall=share_of(people, is_missed, weights),
        measures=tuple(
            _cut(one, qualities[:, QUALITIES.index(one.name)], mated, people, is_missed, weights)
            for one in MEASURES
        ),
    )


def _cut(
    measure: Measure,
    values: NDArray[np.float32],
    mated: Comparisons,
    people: NDArray[np.int64],
    is_missed: NDArray[np.bool_],
    weights: NDArray[np.float32],
) -> MeasuredQuality:
    badness = measure.badness(values)
    order = np.sort(badness)
    places = np.minimum((np.array([end for _, end in BANDS]) * len(order)).astype(int), len(order))
    ends = order[np.maximum(places, 1) - 1]
    worse = np.maximum(badness[mated.left], badness[mated.right])
    band_of = np.searchsorted(ends, worse)
    bands = []
    for number, (name, _) in enumerate(BANDS):
        held = band_of == number
        asked = len(np.unique(people[held]))
        refused = refuse_few(asked)
        bands.append(
            QualityBand(
                name=name,
                worst=abs(float(ends[number])),
                people=asked,
                mated_pairs=int(held.sum()),
                fnmr=None if refused else share_of(people[held], is_missed[held], weights),
                refused=refused,
            )
        )
    return MeasuredQuality(measure.name, measure.unit, tuple(bands))
