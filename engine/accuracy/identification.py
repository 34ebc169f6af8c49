"""Open-set identification (ISO/IEC 19795-1): probes of enrolled people and of strangers.

FPIR: share of strangers' probes with any candidate at or above the threshold. FNIR: share of
enrolled people's probes whose own reference is below it. Both belong to one gallery size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.accuracy.metrics import lowest_rate, threshold_at
from engine.accuracy.templates import fuse
from indexes.intervals import wilson_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.accuracy.templates import Templates

RATES = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True, slots=True)
class IdentificationPoint:
    """FNIR with its 95 % interval (Wilson; one probe a person) at the threshold of an FPIR."""

    fpir: float
    threshold: float
    fnir: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Identification:
    """`single` and `fused`: points with references of one and of two photographs, same probes.

    Rates that fewer than ten strangers' probes could break are left out.
    """

    gallery_size: int
    mated_probes: int
    nonmated_probes: int
    single: tuple[IdentificationPoint, ...]
    fused: tuple[IdentificationPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def identify_open_set(singles: Templates, *, seed: int = 0) -> Identification | None:
    """Split the people in two halves; each is enrolled once while the other half are strangers.

    An enrolled person's reference is a photograph drawn at random, or the fusion of two where
    there are three; the third is then the mated probe. A stranger's probe is one photograph.
    `None` where too few people have three photographs.
    """
    rng = np.random.default_rng(seed)
    drawn = draw_photographs(singles, rng)
    present = np.flatnonzero(drawn[:, 0] >= 0)
    has_probe = drawn[:, 2] >= 0
    halves = np.array_split(rng.permutation(present), 2)
    if not all(has_probe[half].any() for half in halves):
        return None
    outcomes = []
    for is_fused in (False, True):
        references = make_references(singles, drawn, is_fused=is_fused)
        mated, best = [], []
        for enrolled, strangers in (halves, halves[::-1]):
            probed = enrolled[has_probe[enrolled]]
            probes = singles.vectors[drawn[probed, 2]]
            mated.append(np.einsum("nd,nd->n", probes, references[probed]))
            others = singles.vectors[drawn[strangers, 0]]
            best.append((others @ references[enrolled].T).max(axis=1))
        outcomes.append(_points(np.concatenate(mated), np.concatenate(best)))
    return Identification(
        len(halves[1]), int(has_probe.sum()), len(present), outcomes[0], outcomes[1]
    )


def draw_photographs(singles: Templates, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64[population, 3]: rows of up to three photographs of each person, -1 where none is."""
    order = rng.permutation(len(singles.people))
    order = order[np.argsort(singles.people[order], kind="stable")]
    starts = singles.starts()
    places = starts[:-1, None] + np.arange(3)
    rows = order[np.minimum(places, len(order) - 1)]
    return np.where(places < starts[1:, None], rows, -1)


def make_references(
    singles: Templates, drawn: NDArray[np.int64], *, is_fused: bool
) -> NDArray[np.float32]:
    """float32[population, d]: a reference of each person; rows of absent people mean nothing."""
    references = singles.vectors[drawn[:, 0]]
    if is_fused:
        rows = np.flatnonzero(drawn[:, 2] >= 0)
        references[rows] = fuse(references[rows], singles.vectors[drawn[rows, 1]])
    return references


def _points(
    mated: NDArray[np.float32], best: NDArray[np.float32]
) -> tuple[IdentificationPoint, ...]:
    points = []
    for rate in RATES:
        if rate < lowest_rate(len(best)):
            continue
        threshold = threshold_at(best, rate)
        missed = int(np.count_nonzero(mated < threshold))
        interval = wilson_interval(missed, len(mated))
        points.append(IdentificationPoint(rate, threshold, missed / len(mated), *interval))
    return tuple(points)
