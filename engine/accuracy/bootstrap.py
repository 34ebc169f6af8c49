"""Operating points and shares with 95 % intervals, by a bootstrap over people.

Pairs that share a person are not independent, so people are drawn with replacement, not pairs (the
subsets bootstrap of Bolle, Ratha and Pankanti 2004). A replicate gives person `p` the weight
`w[p]`, how often it was drawn; the mated pairs of `p` weigh `w[p]` together, the non-mated pairs of
`p` and `q` `w[p] * w[q]`. Each replicate finds its own threshold for a rate and the FNMR there.
For non-mated pairs intervals are at least as wide as Wilson's of so many pairs of people; of a
share where nothing happened the upper end is three over the number of people: the rule of three.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.pair_scores import (
    PairScores,
    lowest_rate,
    require_support,
    thresholds_at,
    wilson_interval,
)
from engine.matching.calibration import OperatingPoint
from indexes.base import Doubles, Flags, Floats, Ints
from schema import frozen

REPLICATES = 500
FEW_EVENTS = 10
"""With fewer, the upper end of a bootstrap is too low."""
DENSE_PAIRS = 20_000
"""From this many pairs on, a matrix of all people is faster than pair by pair."""
DENSE_PEOPLE = 8_000
"""Up to this many people, such a matrix is small enough."""


def rate_grid(highest: float, nonmated_pairs: int) -> Doubles:
    """Falling rates float64[r]: ten per decade from `highest` to the lowest supported one."""
    lowest = lowest_rate(nonmated_pairs)
    require_support(highest, nonmated_pairs)
    steps = np.arange(round(10 * np.log10(highest / lowest)) + 2)
    rates = highest * 10 ** (-steps / 10)
    rates = rates[rates >= lowest * (1 - 1e-9)]
    # The lowest, just below the last, would have its threshold.
    return np.append(rates, lowest) if rates[-1] > lowest * 1.1 else rates


def operating_points(
    scores: PairScores, rates: Doubles, *, seed: int = 0
) -> tuple[OperatingPoint, ...]:
    """An operating point for each of the falling `rates`; raises `RateUnsupported`."""
    require_support(float(rates.min()), len(scores.nonmated))
    rates = rates.astype(np.float64)
    chosen = scores.thresholds_at(rates)
    present = np.flatnonzero(scores.counts.sum(axis=0))
    weights = draw_people(present, scores.population, seed=seed)
    # Thresholds outside the range of `rates`, which some replicates need.
    few = np.arange(0.5, 10) / len(scores.nonmated)
    outer = np.append(few, rates.max() * 1.5)
    grid = np.unique(np.concatenate([chosen, thresholds_at(scores.nonmated, outer[outer < 1])]))
    own_fmr, own_fnmr = _replicate(scores, grid, weights)
    # Each replicate has its own thresholds for the rates: interpolated in log FMR, never of zero.
    logs = np.log10(np.maximum(own_fmr, 0.1 / len(scores.nonmated)))[::-1]
    falling, wanted = grid[::-1].astype(np.float64), np.log10(rates)
    own = np.stack([np.interp(wanted, log, falling) for log in logs.T], axis=1)
    pairs = zip(own.T, own_fnmr.T, strict=True)
    missed = [np.interp(thresholds, grid, fnmr) for thresholds, fnmr in pairs]
    fmr_low, fmr_high = _interval(own_fmr[np.searchsorted(grid, chosen)], rates)
    # Of few people a bootstrap knows too few look-alikes: only pairs of people are independent.
    pairs_of_people = scores.stranger_pairs
    wilson = [wilson_interval(rate * pairs_of_people, pairs_of_people) for rate in rates.tolist()]
    low, high = np.array(wilson).T
    fmr_low, fmr_high = np.minimum(fmr_low, low), np.maximum(fmr_high, high)
    threshold_low, threshold_high = _interval(own, chosen)
    mated = len(np.unique(scores.mated_people))
    fnmr = scores.missed(chosen).sum(axis=1) / max(mated, 1)
    fnmr_low, fnmr_high = _interval(np.stack(missed, axis=1), fnmr)
    fnmr_high = np.maximum(fnmr_high, _bound_few(fnmr, mated))
    columns = np.stack([
        rates, fmr_low, fmr_high, chosen, threshold_low, threshold_high, fnmr, fnmr_low, fnmr_high
    ])  # fmt: skip
    names = OperatingPoint.__struct_fields__
    return tuple(
        OperatingPoint(**dict(zip(names, column, strict=True))) for column in columns.T.tolist()
    )


def _replicate(scores: PairScores, thresholds: Floats, weights: Floats) -> tuple[Doubles, Doubles]:
    """FMR and FNMR of each replicate at rising thresholds: float64[thresholds, replicates]."""
    # float64[thresholds, replicates]: weight of the non-mated pairs at or above each threshold.
    assert len(thresholds) < 255, "steps are uint8, which sort fast"
    tail = np.flatnonzero(scores.nonmated >= thresholds[0])
    steps = np.searchsorted(thresholds, scores.nonmated[tail], side="right").astype(np.uint8) - 1
    order = np.argsort(steps, kind="stable")
    codes = scores.nonmated_people[tail[order]]
    sides = [weights * share[:, None].astype(np.float32) for share in scores.shares]
    ends = np.cumsum(np.bincount(steps, minlength=len(thresholds)))
    sums = np.zeros((len(thresholds), weights.shape[1]))
    for step, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        sums[step] = _weigh_pairs(codes[start:end], *sides)
    matches = sums[::-1].cumsum(axis=0)[::-1]
    is_left, is_right = scores.counts > 0
    drawn = weights.astype(np.float64)
    both = (is_left & is_right) @ drawn**2
    pairs = ((is_left @ drawn) * (is_right @ drawn) - both) / (1 + scores.is_symmetric)
    misses = scores.missed(thresholds) @ drawn
    mated = (np.bincount(scores.mated_people, minlength=scores.population) > 0) @ drawn
    return matches / np.maximum(pairs, 1.0), misses / np.maximum(mated, 1.0)


def draw_people(people: Ints, population: int, *, seed: int = 0) -> Floats:
    """How often each of `people` is drawn in each replicate: float32[population, replicates]."""
    present = np.unique(people)
    weights = np.zeros((population, REPLICATES), np.float32)
    rng = np.random.default_rng(seed)
    chances = np.full(len(present), 1 / len(present))
    weights[present] = rng.multinomial(len(present), chances, size=REPLICATES).T
    return weights


def _weigh_pairs(codes: NDArray[np.int32], left: Floats, right: Floats) -> Doubles:
    """float64[replicates]: the sum of both people's weights multiplied, over all pairs."""
    population = len(left)
    if len(codes) > DENSE_PAIRS and population <= DENSE_PEOPLE:
        counts = np.bincount(codes, minlength=population**2).astype(np.float32)
        paired = counts.reshape(population, population) @ right
        whole: Doubles = np.einsum("pb,pb->b", paired, left, dtype=np.float64)
        return whole
    total = np.zeros(left.shape[1])
    for start in range(0, len(codes), DENSE_PAIRS):
        one, other = np.divmod(codes[start : start + DENSE_PAIRS], population)
        total += np.einsum("kb,kb->b", left[one], right[other], dtype=np.float64)
    return total


def _bound_few(fnmr: Doubles, people: int) -> Doubles:
    """Lower bounds of the upper ends where misses of `people` are few, else 0.

    Without any miss: the rule of three. With a few, of which a bootstrap too often draws none:
    Wilson's interval.
    """
    if not people:
        return np.ones_like(fnmr)
    wilson = np.array([wilson_interval(rate * people, people)[1] for rate in fnmr.tolist()])
    few = np.where(fnmr * people < FEW_EVENTS, wilson, 0.0)
    return np.where(fnmr == 0, min(3 / people, 1.0), few)


def _interval(replicates: Doubles, estimates: Doubles | Floats) -> tuple[Doubles, Doubles]:
    """2.5 and 97.5 percentiles of each row, widened to hold the estimate itself."""
    low, high = np.percentile(replicates, [2.5, 97.5], axis=1)
    return np.minimum(low, estimates), np.maximum(high, estimates)


MIN_PEOPLE = 30
"""With fewer, even the interval of a share without events reaches above 10 %."""


@frozen
class Share:
    """Share of `trials` with an event, from `people` people, with its 95 % interval."""

    events: int
    trials: int
    people: int
    value: float
    low: float
    high: float


def share_of(people: Ints, happened: Flags, weights: Floats, *, is_mean: bool = False) -> Share:
    """Share of trials that `happened`; each belongs to one of `people`."""
    assert len(people)
    events = np.bincount(people[happened], minlength=len(weights))
    trials = np.bincount(people, minlength=len(weights))
    return share_of_counts(events, trials, weights, is_mean=is_mean)


def share_of_counts(events: Ints, trials: Ints, weights: Floats, *, is_mean: bool) -> Share:
    """Share of the trials of all people, int64[population], with an event; with `is_mean` the mean
    of each person's share, in which more trials weigh no more."""
    is_asked = trials > 0
    people = int(is_asked.sum())
    amounts, asked, value = events.astype(np.float64), trials.astype(np.float64), None
    if is_mean:
        amounts, asked = events / np.maximum(trials, 1), is_asked.astype(np.float64)
        value = float(amounts.sum() / people)
    happened, drawn = amounts @ weights, asked @ weights
    return summarize(events, trials, people, happened, drawn, value=value)


def refuse_few(found: int, what: str = "people", needed: int = MIN_PEOPLE) -> str | None:
    """Message that `found` are too few, by default people for a share; None if they suffice."""
    if found >= needed:
        return None
    name = what.replace("people", "person", 1) if found == 1 else what
    return f"{found:,} {name}, {needed:,} are needed"


def pair_share_of(
    left: Ints, right: Ints, counts: Ints, weights: Floats, without: Sequence[Ints] = ()
) -> Share:
    """Share of non-mated comparisons that match; all those of two people weigh one.

    `left` and `right` are the people of those that do; `counts` int64[population] are the
    templates of each person, compared with those of all other people, except within each of the
    groups `without`.
    """
    held = np.maximum(counts, 1)
    everybody = np.ones((len(counts), 1))
    whole, parts = counts > 0, [group / held for group in without]
    drawn, asked = (
        _weigh_strangers(whole, each) - sum(_weigh_strangers(part, each) for part in parts)
        for each in (weights, everybody)
    )
    amounts = 1 / (held[left] * held[right])
    matches = np.einsum("k,kb,kb->b", amounts, weights[left], weights[right], dtype=np.float64)
    trials = count_strangers(counts) - sum(count_strangers(group) for group in without)
    independent = _count_pairs(counts) - sum(map(_count_pairs, without))
    people = int((counts > 0).sum())
    value = float(amounts.sum() / asked[0])
    return summarize(len(left), trials, people, matches, drawn, max(independent, 1), value=value)


def count_strangers(counts: Ints) -> int:
    """Number of comparisons of templates of different people."""
    total = int(counts.sum())
    return (total**2 - int((counts**2).sum())) // 2


def _count_pairs(counts: Ints) -> int:
    """Number of pairs of different people."""
    people = int((counts > 0).sum())
    return people * (people - 1) // 2


def _weigh_strangers(
    shares: NDArray[np.bool_ | np.float64], weights: NDArray[np.float32 | np.float64]
) -> Doubles:
    """Pairs of people, each by its share of templates, of each replicate: float64[replicates]."""
    sizes, drawn = shares.astype(np.float64), weights.astype(np.float64)
    weighed: Doubles = ((sizes @ drawn) ** 2 - sizes**2 @ drawn**2) / 2
    return weighed


def summarize(
    events: Ints | int,
    trials: Ints | int,
    people: int,
    happened: Doubles,
    drawn: Doubles,
    independent: int | None = None,
    *,
    value: float | None = None,
) -> Share:
    """Share of all `trials`, or the weighted share `value`, with an interval of the 2.5 and 97.5
    percentiles of its replicates: weights float64[replicates] of what `happened` and was `drawn`.

    The rule of three uses the number of `independent` trials, by default people.
    """
    total, asked = int(np.sum(events)), int(np.sum(trials))
    independent = people if independent is None else independent
    share = total / asked
    value = share if value is None else value
    replicates = (happened[drawn > 0] / drawn[drawn > 0]).astype(np.float64)
    ends = np.percentile(replicates, [2.5, 97.5]) if len(replicates) else (0.0, 1.0)
    low, high = map(float, ends)
    if total == 0:
        high = max(high, min(3 / independent, 1.0))
    elif total < FEW_EVENTS:
        # Of so few, a bootstrap too often draws none.
        high = max(high, wilson_interval(share * independent, independent)[1])
    if total == asked:
        low = min(low, max(1 - 3 / independent, 0.0))
    return Share(total, asked, people, value, min(low, share, value), max(high, share, value))
