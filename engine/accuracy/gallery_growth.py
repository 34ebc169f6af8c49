"""FNIR at an FPIR by the size of the gallery: measured, then extrapolated as far as data allow.

Measured: everybody's photographs are searched among references of all *other* people, M of them.
A gallery of N has each of these with chance N/M, so a stranger's probe that k references of M match
has no candidate with probability (1 - N/M)^k: the mean over all galleries, not over a few.

Extrapolated, beyond M: if comparisons were independent, FPIR = 1 - (1 - FMR)^N; the threshold is
that of the required FMR over all comparisons of a probe with a stranger's reference. At measured
sizes both are shown. The extrapolation ends where the FMR is below what the comparisons support, or
where most false matches at that threshold are flagged as errors of the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.bootstrap import MIN_PEOPLE, draw_people, summarize
from engine.accuracy.error_rates import lowest_rate, thresholds_at
from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    TemplateSet,
    find_close_strangers,
    fuse,
    limit_photographs,
)

TAIL = 5e-3
"""Share of comparisons that is kept: enough for an FPIR of 0.1 in the smallest gallery."""
SAMPLE = 512
GRID = 64
MIN_RATE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """Rates at the falling `grid` of thresholds; the first replicate is the sample itself.

    `fpir` float64[sizes, grid, replicates] and `fmr` float64[grid, replicates] rise along the
    grid; `scores` float32[k], falling, are those of strangers, of which some are `flagged`.
    """

    sizes: NDArray[np.int64]
    grid: NDArray[np.float32]
    fpir: NDArray[np.float64]
    fmr: NDArray[np.float64]
    scores: NDArray[np.float32]
    flagged: NDArray[np.bool_]
    comparisons: int

    def thresholds_for(self, rates: NDArray[np.float64], wanted: float) -> NDArray[np.float64]:
        """Threshold float64[replicates] where each column of `rates` has the rate wanted."""
        logs = np.log(np.maximum(rates, MIN_RATE))
        grid = self.grid.astype(np.float64)
        return np.array([np.interp(np.log(wanted), column, grid) for column in logs.T])

    def fmr_at(self, threshold: float) -> float:
        return float((self.scores >= threshold).sum() / self.comparisons)

    def flagged_share(self, threshold: float) -> float:
        above = self.scores >= threshold
        return float(self.flagged[above].mean()) if above.any() else 0.0


def find_tail(
    probes: TemplateSet,
    references: NDArray[np.float32],
    present: NDArray[np.int64],
    doubtful: NDArray[np.int64],
    weights: NDArray[np.float32],
    sizes: NDArray[np.int64],
) -> Tail:
    """Search each of `probes` in the references float32[population, d] of other `present` people.

    `weights` float32[population, replicates].
    """
    known = TemplateSet(references[present], present, present[:, None], probes.population)
    found = find_close_strangers(probes, _find_least(probes, known), known)
    found = found.keep(np.argsort(-found.scores, kind="stable"))
    rows, owners, scores = found.left, present[found.right], found.scores
    ranks = np.unique(np.geomspace(1, len(scores), GRID).astype(np.int64))
    fpir, fmr = _weigh(probes, rows, owners, ranks, weights, sizes)
    return Tail(
        sizes=sizes,
        grid=scores[ranks - 1],
        fpir=fpir,
        fmr=fmr,
        scores=scores,
        flagged=np.isin(probes.people[rows] * probes.population + owners, doubtful),
        comparisons=len(probes.people) * (len(present) - 1),
    )


def _find_least(probes: TemplateSet, references: TemplateSet) -> float:
    """The score that TAIL of all comparisons of strangers reach, by a sample of the probes."""
    chosen = np.linspace(0, len(probes.people) - 1, SAMPLE).astype(np.int64)
    sample = probes.vectors[chosen] @ references.vectors.T
    strangers = sample[probes.people[chosen][:, None] != references.people[None, :]]
    return float(thresholds_at(strangers, np.array([TAIL]))[0])


def _weigh(
    probes: TemplateSet,
    rows: NDArray[np.int64],
    owners: NDArray[np.int64],
    ranks: NDArray[np.int64],
    weights: NDArray[np.float32],
    sizes: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FPIR float64[sizes, ranks, replicates] and FMR float64[ranks, replicates] of best ranks."""
    replicates = weights.shape[1]
    # Renumber the rows that match at all: most probes never do.
    used, place = np.unique(rows, return_inverse=True)
    own = weights[probes.people[used]]
    matches = np.zeros((len(used), replicates), np.float32)
    drawn = np.bincount(probes.people, minlength=len(weights)) @ weights.astype(np.float64)
    people = weights[:, 0].sum()
    shares = np.minimum(sizes / (people - 1), 1 - 1e-9)
    logs = np.log1p(-shares).astype(np.float32)
    fpir = np.empty((len(sizes), len(ranks), replicates))
    fmr = np.empty((len(ranks), replicates))
    before = 0
    for number, rank in enumerate(ranks):
        fresh = slice(before, rank)
        np.add.at(matches, place[fresh], weights[owners[fresh]])
        before = rank
        fmr[number] = np.einsum("pb,pb->b", own, matches, dtype=np.float64) / (drawn * (people - 1))
        hit = np.flatnonzero(matches.any(axis=1))
        for size, log in enumerate(logs):
            raised = -np.expm1(matches[hit] * log)
            fpir[size, number] = np.einsum("pb,pb->b", own[hit], raised) / drawn
    return fpir, fmr


FPIRS = (1e-1, 1e-2)
MIN_GALLERY = 50
FORMULA = "FPIR = 1 - (1 - FMR)^N"
MAX_FLAGGED = 0.5
STEPS = (1.0, 2.0, 5.0)
LARGEST = 1e10


@dataclass(frozen=True, slots=True)
class GrowthPoint:
    """FNIR with its 95 % interval at the threshold that keeps the FPIR with `gallery_size`.

    `by_formula`: the FPIR by the formula for this threshold.
    """

    gallery_size: int
    threshold: float
    fnir: float
    low: float
    high: float
    by_formula: float


@dataclass(frozen=True, slots=True)
class ExtrapolatedPoint:
    """FNIR by the formula; `flagged`: share of the false matches there that are flagged."""

    gallery_size: int
    fmr: float
    threshold: float
    fnir: float
    low: float
    high: float
    flagged: float


@dataclass(frozen=True, slots=True)
class GrowthCurve:
    """A curve of single or fused references; `supported_to`: the largest supported gallery."""

    reference: str
    fpir: float
    measured: tuple[GrowthPoint, ...]
    extrapolated: tuple[ExtrapolatedPoint, ...]
    supported_to: int
    refused: str


@dataclass(frozen=True, slots=True)
class GalleryGrowth:
    """FNIR by gallery size; `comparisons` of a stranger's probe with a reference."""

    references: int
    mated_probes: int
    nonmated_probes: int
    comparisons: int
    formula: str
    curves: tuple[GrowthCurve, ...]


def grow_gallery(singles: TemplateSet, doubtful: NDArray[np.int64]) -> GalleryGrowth | None:
    """Measure and extrapolate.

    `doubtful` int64: the codes `left * population + right` of people flagged as one.
    References are of one photograph drawn at random or fused of two, mated probes the third.
    None with too few people.
    """
    drawn = draw_photographs(singles, np.random.default_rng(0))
    probed = np.flatnonzero(drawn[:, 2] >= 0)
    present = np.flatnonzero(drawn[:, 0] >= 0)
    if len(probed) < MIN_PEOPLE or len(present) - 1 < 2 * MIN_GALLERY:
        return None
    strangers = limit_photographs(singles, MOST_PHOTOGRAPHS)
    weights = draw_people(present, singles.population)
    # The first column is the sample itself: everyone once.
    weights[:, 0] = 0
    weights[present, 0] = 1
    curves, comparisons = [], 0
    for name, is_fused in (("single", False), ("fused", True)):
        references = make_references(singles, drawn, is_fused=is_fused)
        mates = np.einsum("nd,nd->n", singles.vectors[drawn[probed, 2]], references[probed])
        tail = find_tail(strangers, references, present, doubtful, weights, _sizes(len(present)))
        comparisons = tail.comparisons
        mated = _Mated(mates, weights[probed])
        drawn_curves = (
            _draw_curve(name, rate, tail, mated)
            for rate in FPIRS
            if rate >= lowest_rate(len(present))
        )
        curves += [curve for curve in drawn_curves if curve.measured]
    return GalleryGrowth(
        len(present) - 1, len(probed), len(strangers.people), comparisons, FORMULA, tuple(curves)
    )


def draw_photographs(singles: TemplateSet, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of up to three photographs of each person: int64[population, 3], -1 where missing."""
    order = rng.permutation(len(singles.people))
    order = order[np.argsort(singles.people[order], kind="stable")]
    starts = singles.starts()
    places = starts[:-1, None] + np.arange(3)
    rows = order[np.minimum(places, len(order) - 1)]
    return np.where(places < starts[1:, None], rows, -1)


def make_references(
    singles: TemplateSet, drawn: NDArray[np.int64], *, is_fused: bool
) -> NDArray[np.float32]:
    """A reference of each person: float32[population, d]; rows of absent people are undefined."""
    references = singles.vectors[drawn[:, 0]]
    if is_fused:
        rows = np.flatnonzero(drawn[:, 2] >= 0)
        references[rows] = fuse(references[rows], singles.vectors[drawn[rows, 1]])
    return references


def _sizes(people: int) -> NDArray[np.int64]:
    """Gallery sizes, doubling from about MIN_GALLERY up to everyone else."""
    doublings = int(np.log2((people - 1) / MIN_GALLERY))
    sizes = (people - 1) / 2.0 ** np.arange(doublings, -1, -1)
    return np.round(sizes).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Mated:
    """Scores float32[k] of enrolled people's probes, and their weights float32[k, replicates]."""

    scores: NDArray[np.float32]
    weights: NDArray[np.float32]

    def miss(self, thresholds: NDArray[np.float64]) -> tuple[float, float, float]:
        """FNIR and its interval; a threshold for each replicate, the sample's first."""
        below = self.scores[:, None] < thresholds[None, :]
        drawn = self.weights.sum(axis=0)
        happened = (below * self.weights).sum(axis=0)
        count = len(self.scores)
        events = int(below[:, 0].sum())
        found = summarize(events, count, count, happened[1:], drawn[1:])
        return found.value, found.low, found.high


def _draw_curve(name: str, fpir: float, tail: Tail, mated: _Mated) -> GrowthCurve:
    measured = []
    for number, size in enumerate(tail.sizes):
        if tail.fpir[number, -1, 0] < fpir:
            continue
        thresholds = tail.thresholds_for(tail.fpir[number], fpir)
        by_formula = 1 - (1 - tail.fmr_at(thresholds[0])) ** int(size)
        measured.append(
            GrowthPoint(int(size), float(thresholds[0]), *mated.miss(thresholds), by_formula)
        )
    extrapolated, supported, refused = [], int(tail.sizes[-1]), ""
    for size in _larger(int(tail.sizes[-1])):
        fmr = fmr_for(fpir, size)
        lowest = lowest_rate(tail.comparisons)
        if fmr < lowest:
            refused = (
                f"{size:,} references need an FMR of {fmr:.1g}; {tail.comparisons:,} "
                f"comparisons support {lowest:.1g}"
            )
            break
        thresholds = tail.thresholds_for(tail.fmr, fmr)
        flagged = tail.flagged_share(thresholds[0])
        if flagged > MAX_FLAGGED:
            refused = (
                f"with {size:,} references {flagged * 100:.0f} % of the false matches that would "
                "set the threshold are flagged as errors of the labels"
            )
            break
        miss = mated.miss(thresholds)
        extrapolated.append(ExtrapolatedPoint(size, fmr, float(thresholds[0]), *miss, flagged))
        supported = size
    return GrowthCurve(name, fpir, tuple(measured), tuple(extrapolated), supported, refused)


def fmr_for(fpir: float, gallery_size: int) -> float:
    """The FMR that gives an FPIR if all comparisons of a search are independent."""
    return float(-np.expm1(np.log1p(-fpir) / gallery_size))


def _larger(size: int) -> list[int]:
    """The sizes 1, 2, 5, 10, … above `size`."""
    decades = 10.0 ** np.arange(0, np.log10(LARGEST) + 1)
    return [int(step * ten) for ten in decades for step in STEPS if step * ten > size]
