"""Differential performance by any attribute, in the terms of ISO/IEC 19795-10.

All groups are judged at one common threshold. A false negative differential is a difference of
FNMR between groups, a false positive differential one of FMR between comparisons of strangers
within a group. The interval of a ratio divides the ends of both groups' intervals: it is wide on
purpose, since the worst and the best group were chosen after the fact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.bootstrap import (
    Share,
    count_strangers,
    draw_people,
    pair_share_of,
    refuse_few,
    share_of,
)
from engine.accuracy.dataset import Labels
from engine.accuracy.error_rates import MIN_EXPECTED_PAIRS
from engine.accuracy.pair_scores import Comparisons, Templates

MIXED, UNKNOWN = -2, -1
"""Codes of comparisons with two different labels, or with a side without one."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rates of one label; `fnmr` or `fmr` is None where a reason is given instead.

    `fta`: of all its photographs. `median`: of its mated scores, which shift before errors appear.
    """

    label: str
    people: int
    photographs: int
    mated_pairs: int
    nonmated_pairs: int
    fta: Share
    median: float | None
    fnmr: Share | None
    fnmr_refused: str | None
    fmr: Share | None
    fmr_refused: str | None


@dataclass(frozen=True, slots=True)
class Differential:
    """The worst group's rate over the best one's, and over the geometric mean of all.

    None where the best group has no error: `low` is still a lower bound of the ratio.
    """

    worst: str
    best: str
    ratio: float | None
    low: float
    high: float | None
    over_geometric_mean: float | None


@dataclass(frozen=True, slots=True)
class AttributeReport:
    """Groups of a column and both differentials (None with fewer than two groups to compare).

    `across`: FMR of strangers of different groups. `unlabelled` photographs and `mixed_pairs`,
    mated comparisons with two labels, are counted nowhere.
    """

    column: str
    threshold: float
    common_fmr: float
    groups: tuple[Group, ...]
    unlabelled: int
    mixed_pairs: int
    across: Share | None
    false_negative: Differential | None
    false_positive: Differential | None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Input of every column: templates, their comparisons, and the threshold.

    `singles` are rows of `places` in the folder, whose photographs are `people` int64[n] with
    `is_failed` bool[n]; `matches` are the strangers at or above `threshold`.
    """

    singles: Templates
    places: NDArray[np.int64]
    people: NDArray[np.int64]
    is_failed: NDArray[np.bool_]
    mated: Comparisons
    matches: Comparisons
    threshold: float
    common_fmr: float


def compare_groups(sample: Sample, labels: Labels, *, seed: int) -> AttributeReport:
    """Rates of each group of a column, and their differentials."""
    codes = labels.codes[sample.places]
    mated_codes = _shared(codes, sample.mated)
    weights = draw_people(sample.people, int(sample.people.max()) + 1, seed=seed)
    groups = tuple(
        _measure(sample, labels, number, codes, mated_codes, weights)
        for number in range(len(labels.names))
    )
    return AttributeReport(
        column=labels.column,
        threshold=sample.threshold,
        common_fmr=sample.common_fmr,
        groups=groups,
        unlabelled=int((labels.codes < 0).sum()),
        mixed_pairs=int((mated_codes == MIXED).sum()),
        across=_measure_across(sample, labels, codes, weights),
        false_negative=find_differential({g.label: g.fnmr for g in groups if g.fnmr}),
        false_positive=find_differential({g.label: g.fmr for g in groups if g.fmr}),
    )


def _shared(codes: NDArray[np.int64], compared: Comparisons) -> NDArray[np.int64]:
    """int64[k]: the label of both sides, MIXED where they differ, UNKNOWN where one is."""
    left, right = codes[compared.left], codes[compared.right]
    both = np.where(left == right, left, MIXED)
    return np.where((left < 0) | (right < 0), UNKNOWN, both)


def _measure(
    sample: Sample,
    labels: Labels,
    number: int,
    codes: NDArray[np.int64],
    mated_codes: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> Group:
    people, held = sample.singles.people, mated_codes == number
    owners = people[sample.mated.left[held]]
    scores = sample.mated.scores[held]
    counts = np.bincount(people[codes == number], minlength=len(weights))
    matches = sample.matches.keep(_shared(codes, sample.matches) == number)
    own = labels.codes == number
    fnmr_refused = refuse_few(len(np.unique(owners)), "people with two photographs")
    least_pairs = round(MIN_EXPECTED_PAIRS / sample.common_fmr)
    strangers, asked = count_strangers(counts), int((counts > 0).sum())
    fmr_refused = refuse_few(asked) or refuse_few(
        strangers, f"non-mated pairs at FMR {sample.common_fmr:g}", least_pairs
    )
    return Group(
        label=labels.names[number],
        people=len(np.unique(sample.people[own])),
        photographs=int(own.sum()),
        mated_pairs=len(scores),
        nonmated_pairs=strangers,
        fta=share_of(sample.people[own], sample.is_failed[own], weights),
        median=float(np.median(scores)) if len(scores) else None,
        fnmr=None if fnmr_refused else share_of(owners, scores < sample.threshold, weights),
        fnmr_refused=fnmr_refused,
        fmr=None
        if fmr_refused
        else pair_share_of(people[matches.left], people[matches.right], counts, weights),
        fmr_refused=fmr_refused,
    )


def _measure_across(
    sample: Sample, labels: Labels, codes: NDArray[np.int64], weights: NDArray[np.float32]
) -> Share | None:
    """The FMR of strangers whose labels differ; None where there are none."""
    people, population = sample.singles.people, len(weights)
    groups = [
        np.bincount(people[codes == number], minlength=population)
        for number in range(len(labels.names))
    ]
    counts = np.bincount(people[codes >= 0], minlength=population)
    if count_strangers(counts) == sum(map(count_strangers, groups)):
        return None
    matches = sample.matches.keep(_shared(codes, sample.matches) == MIXED)
    return pair_share_of(
        people[matches.left], people[matches.right], counts, weights, without=groups
    )


def find_differential(rates: dict[str, Share]) -> Differential | None:
    """Between the groups of the highest and of the lowest rate; None with fewer than two groups."""
    if len(rates) < 2:
        return None
    worst = max(rates, key=lambda label: rates[label].value)
    best = min(rates, key=lambda label: rates[label].value)
    top, bottom = rates[worst], rates[best]
    values = np.array([rate.value for rate in rates.values()])
    has_errors = bool((values > 0).all())
    return Differential(
        worst=worst,
        best=best,
        ratio=top.value / bottom.value if bottom.value else None,
        low=top.low / bottom.high if bottom.high else 1.0,
        high=top.high / bottom.low if bottom.low else None,
        over_geometric_mean=top.value / float(np.exp(np.log(values).mean()))
        if has_errors
        else None,
    )
