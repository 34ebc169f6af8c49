"""Gain of fused templates, and open-set identification (ISO/IEC 19795-1).

FPIR: share of strangers' probes with any candidate at or above the threshold. FNIR: share of
enrolled people's probes whose own reference is below it. Both belong to one gallery size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.error_rates import lowest_rate, threshold_at, wilson_interval
from engine.accuracy.pair_scores import Templates, fuse
from engine.matching.calibration import Comparison

FUSION_RATES = (1e-3, 1e-4, 1e-5)
ROUNDS = 20


@dataclass(frozen=True, slots=True)
class FusionPoint:
    """FNMR at an FMR, over all rounds; the interval counts people, not comparisons."""

    fmr: float
    threshold: float
    fnmr: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FusionGain:
    """Points of each kind of comparison over the same people and photographs."""

    people: int
    mated_pairs: int
    nonmated_pairs: int
    points: dict[Comparison, tuple[FusionPoint, ...]]


def compare_fusion(singles: Templates, *, seed: int = 0, rounds: int = ROUNDS) -> FusionGain | None:
    """Compare single and fused templates of people with four photographs, drawn in each round.

    One against one, two fused against one, two fused against the two others fused; the sides share
    no photograph. Each person has a mated comparison per round, and non-mated ones with all others.
    `None` where fewer than two people have four photographs.
    """
    starts = singles.starts()
    people = np.flatnonzero(np.diff(starts) >= 4)
    if len(people) < 2:
        return None
    rng = np.random.default_rng(seed)
    mated: dict[Comparison, list[NDArray[np.float32]]] = {kind: [] for kind in Comparison}
    nonmated: dict[Comparison, list[NDArray[np.float32]]] = {kind: [] for kind in Comparison}
    strangers = ~np.eye(len(people), dtype=bool)
    for _ in range(rounds):
        rows = np.stack(
            [starts[p] + rng.permutation(starts[p + 1] - starts[p])[:4] for p in people]
        )
        one, two, other, another = (singles.vectors[rows[:, k]] for k in range(4))
        sides = {
            Comparison.ONE_TO_ONE: (one, other),
            Comparison.FUSED_TO_ONE: (fuse(one, two), other),
            Comparison.FUSED: (fuse(one, two), fuse(other, another)),
        }
        for kind, (left, right) in sides.items():
            scores = left @ right.T
            mated[kind].append(scores.diagonal())
            nonmated[kind].append(scores[strangers])
    points = {
        kind: _fusion_points(
            np.concatenate(mated[kind]), np.concatenate(nonmated[kind]), len(people)
        )
        for kind in Comparison
    }
    pairs = rounds * len(people)
    return FusionGain(len(people), pairs, pairs * (len(people) - 1), points)


def _fusion_points(
    mated: NDArray[np.float32], nonmated: NDArray[np.float32], people: int
) -> tuple[FusionPoint, ...]:
    points = []
    for rate in FUSION_RATES:
        if rate < lowest_rate(len(nonmated)):
            continue
        threshold = threshold_at(nonmated, rate)
        fnmr = float((mated < threshold).mean())
        # Rounds reduce the noise of the figure, but add no people.
        low, high = wilson_interval(round(fnmr * people), people)
        points.append(FusionPoint(rate, threshold, fnmr, min(low, fnmr), max(high, fnmr)))
    return tuple(points)


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

    Rates that fewer than ten strangers' probes could exceed are left out.
    """

    gallery_size: int
    mated_probes: int
    nonmated_probes: int
    single: tuple[IdentificationPoint, ...]
    fused: tuple[IdentificationPoint, ...]


def identify_open_set(singles: Templates, *, seed: int = 0) -> Identification | None:
    """Split the people in two halves; each is enrolled while the other half are strangers.

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
    """Rows of up to three photographs of each person: int64[population, 3], -1 where missing."""
    order = rng.permutation(len(singles.people))
    order = order[np.argsort(singles.people[order], kind="stable")]
    starts = singles.starts()
    places = starts[:-1, None] + np.arange(3)
    rows = order[np.minimum(places, len(order) - 1)]
    return np.where(places < starts[1:, None], rows, -1)


def make_references(
    singles: Templates, drawn: NDArray[np.int64], *, is_fused: bool
) -> NDArray[np.float32]:
    """A reference of each person: float32[population, d]; rows of absent people are undefined."""
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
