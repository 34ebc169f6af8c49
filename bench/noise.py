"""How far a figure may change from one run to the next by chance, hundreds of them judged at once.

What blocks of a run differ by says how a figure trembles, but three blocks say it badly: of
hundreds of figures some have three that agree by luck, and any other run then seems a change. So
each figure's variance is drawn towards that of its suite, as far as its blocks are few (Smyth,
"Linear models and empirical Bayes methods for assessing differential expression", 2004), a change
is held against Student's distribution of what is then known, and the chance of a false alarm is
shared by all figures that are judged (Bonferroni), so that it is one of the whole comparison.

A run that was made in one block knows its repeats alone: how far their median may lie off, which is
less than how far one of them does, and nothing of how the next process differs, for which there is
a wide floor.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from bench.report import Figure

CHANCE = 0.05
"""That two runs of one thing are told apart at all, where noise is what was measured."""
FLOOR_BLOCKS, FLOOR_REPEATS = 0.05, 0.25
"""Nobody cares for less; repeats in one process don't know how the next process differs."""

# The variance of the suite counts as much as so many blocks more.
_PRIOR = 4.0
_FEW = 8
# Of a logarithm: more than any figure changes, and a number still.
_MOST = 50.0
# A median of so many draws from a normal distribution, in standard deviations of one.
_MEDIANS = {1: 1.0, 2: 0.7071, 3: 0.6698, 4: 0.5460, 5: 0.5356}
# Quartiles of a normal distribution lie so many standard deviations apart; of few draws less.
_QUARTILES, _NEARER = 1.349, 1.25


@dataclass(frozen=True, slots=True)
class Sample:
    """Variance of a figure in a run, as a share of its value, and from how many it is known.

    It is that of one of the `blocks`; where these are 0, that of the value itself, known from
    `repeats` in one process.
    """

    variance: float
    blocks: int
    repeats: int = 0

    @property
    def freedom(self) -> int:
        return max(self.blocks, self.repeats, 1) - 1

    @property
    def error(self) -> float:
        """Variance of the value that stands in the report: of blocks it is the median."""
        return self.variance * _median_of(self.blocks) ** 2 if self.blocks else self.variance


def sample_value(figure: Figure, blocks: int) -> Sample | None:
    """What is known of a value measured in so many blocks; None where it was measured once."""
    if figure.noise is not None:
        # Blocks of one process, as the kernels are timed in, don't know the next one either.
        return Sample(figure.noise**2, blocks if blocks > 1 else 0)
    if figure.low is None or figure.high is None:
        return None
    # One repeat has quartiles too, all of them itself.
    if not figure.value or figure.low == figure.high:
        return None
    width = (figure.high - figure.low) / figure.value
    if figure.repeats is None:
        # Of one repeat, which is more than of their median.
        return Sample((width / _QUARTILES) ** 2, 0)
    repeats = max(figure.repeats, 2)
    deviation = width / _QUARTILES / (1 - _NEARER / repeats) * _median_of(repeats)
    return Sample(deviation**2, 0, repeats)


def sample_ratio(figure: Figure, base: Figure, blocks: int) -> Sample | None:
    """The same of its ratio; from repeats alone it has the variances of both figures."""
    if figure.ratio_noise is not None:
        return Sample(figure.ratio_noise**2, blocks if blocks > 1 else 0)
    own, other = sample_value(figure, 1), sample_value(base, 1)
    if own is None or other is None:
        return None
    return Sample(own.variance + other.variance, 0, min(own.repeats, other.repeats))


@dataclass(frozen=True, slots=True)
class Noise:
    """What chance does to the figures of a suite, of `judged` that are judged in all."""

    prior: float | None
    judged: int

    def limit(self, old: Sample, new: Sample) -> float:
        """How far a figure may change, as a share: 0.1 for a tenth more, or a tenth less of it."""
        quantile = 1 - CHANCE / max(self.judged, 1)
        if old.blocks and new.blocks:
            variance, freedom = self._moderate(old, new)
            wide = math.sqrt(variance) * math.hypot(_median_of(old.blocks), _median_of(new.blocks))
            floor = FLOOR_BLOCKS
        else:
            wide, floor = math.sqrt(old.error + new.error), FLOOR_REPEATS
            freedom = max(float(old.freedom + new.freedom), _PRIOR)
        return max(math.expm1(min(_find_quantile(quantile, freedom) * wide, _MOST)), floor)

    def _moderate(self, old: Sample, new: Sample) -> tuple[float, float]:
        """Variance and freedom of both runs together, drawn towards the suite's."""
        own = old.freedom + new.freedom
        variance = (old.variance * old.freedom + new.variance * new.freedom) / own
        if self.prior is None:
            return variance, own
        return (self.prior * _PRIOR + variance * own) / (_PRIOR + own), _PRIOR + own


def find_prior(samples: Sequence[Sample]) -> float | None:
    """The usual variance of a suite's figures; None where they are too few to have one."""
    known = [one for one in samples if one.blocks > 1 and one.variance > 0]
    if len(known) < _FEW:
        return None
    freedom = statistics.median(one.freedom for one in known)
    # The median of chi square over its freedom, by Wilson and Hilferty.
    return statistics.median(one.variance for one in known) / (1 - 2 / (9 * freedom)) ** 3


@lru_cache
def _find_quantile(chance: float, freedom: float) -> float:
    """Student's: below it lies this share."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, chance))


def _median_of(blocks: int) -> float:
    return _MEDIANS.get(blocks, math.sqrt(math.pi / 2 / blocks))
