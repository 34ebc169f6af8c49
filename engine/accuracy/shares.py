"""Shares with intervals, by the bootstrap over people of `engine.accuracy.bootstrap`.

Comparisons that share a person are not independent, so people are drawn with replacement: a mated
comparison of `p` weighs `w[p]`, a non-mated one of `p` and `q` weighs `w[p] * w[q]`. Where nothing
happened, the upper end is three over the people (or over the pairs of people) that were asked: the
rule of three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.bootstrap import FEW_EVENTS
from indexes.intervals import wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST_PEOPLE = 30
"""With fewer, even a share without any event has an interval that reaches above 10 %."""


@dataclass(frozen=True, slots=True)
class Share:
    """`events` of `trials`, which come from `people` people; the interval is one of 95 %."""

    events: int
    trials: int
    people: int
    value: float
    low: float
    high: float


def share_of(
    people: NDArray[np.int64], happened: NDArray[np.bool_], weights: NDArray[np.float32]
) -> Share:
    """The share of trials in which it `happened`; each trial belongs to one of `people`."""
    assert len(people)
    population = len(weights)
    return count_share(
        np.bincount(people[happened], minlength=population),
        np.bincount(people, minlength=population),
        weights,
    )


def count_share(
    events: NDArray[np.int64], trials: NDArray[np.int64], weights: NDArray[np.float32]
) -> Share:
    """The same of what is counted already: `events` and `trials` int64[population] of each
    person."""
    drawn = trials.astype(np.float64) @ weights
    replicates = (events.astype(np.float64) @ weights)[drawn > 0] / drawn[drawn > 0]
    asked = int((trials > 0).sum())
    return summarize(int(events.sum()), int(trials.sum()), asked, replicates, asked)


def refuse_few(found: int, what: str = "people", needed: int = LEAST_PEOPLE) -> str | None:
    """Why so many are too few, by default for a share; or None where they are enough."""
    if found >= needed:
        return None
    told = what.replace("people", "person", 1) if found == 1 else what
    return f"{found:,} {told}, {needed:,} are needed"


def pair_share_of(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    counts: NDArray[np.int64],
    weights: NDArray[np.float32],
    without: Sequence[NDArray[np.int64]] = (),
) -> Share:
    """The share of non-mated comparisons that match.

    `left` and `right` are the people of those that do; `counts` int64[population] are everybody's
    templates, all of which were compared with all of other people's, but for those of one of the
    groups `without` among themselves.
    """
    drawn = _weigh_strangers(counts, weights)
    for group in without:
        drawn = drawn - _weigh_strangers(group, weights)
    matches = np.einsum("kb,kb->b", weights[left], weights[right], dtype=np.float64)
    trials = count_strangers(counts) - sum(count_strangers(group) for group in without)
    replicates = matches[drawn > 0] / drawn[drawn > 0]
    asked = int((counts > 0).sum())
    independent = _count_pairs(counts) - sum(map(_count_pairs, without))
    return summarize(len(left), trials, asked, replicates, max(independent, 1))


def count_strangers(counts: NDArray[np.int64]) -> int:
    """Comparisons of different people, each two of whose templates meet once."""
    total = int(counts.sum())
    return (total**2 - int((counts**2).sum())) // 2


def _count_pairs(counts: NDArray[np.int64]) -> int:
    """Pairs of different people."""
    asked = int((counts > 0).sum())
    return asked * (asked - 1) // 2


def _weigh_strangers(
    counts: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """float64[replicates]: the same, weighed."""
    sizes, drawn = counts.astype(np.float64), weights.astype(np.float64)
    weighed: NDArray[np.float64] = ((sizes @ drawn) ** 2 - sizes**2 @ drawn**2) / 2
    return weighed


def summarize(
    events: int, trials: int, people: int, replicates: NDArray[np.float64], independent: int
) -> Share:
    """The share with the 2.5 and 97.5 percentiles of its replicates, which hold it.

    `independent` trials are what the rule of three counts.
    """
    value = events / trials
    low, high = (
        (float(end) for end in np.percentile(replicates, [2.5, 97.5]))
        if len(replicates)
        else (0.0, 1.0)
    )
    if events == 0:
        high = max(high, min(3 / independent, 1.0))
    elif events < FEW_EVENTS:
        # Of so few a bootstrap draws too often none, and never another one.
        high = max(high, wilson_interval(value * independent, independent)[1])
    if events == trials:
        low = min(low, max(1 - 3 / independent, 0.0))
    return Share(events, trials, people, value, min(low, value), max(high, value))
