"""Gain of fused templates: the FNMR with one and with two photographs on either side."""

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
