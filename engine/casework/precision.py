"""How right sweeps were: what people found of the pairs that they were shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.casework.model import Outcome
from engine.matching.thresholds import Rate
from engine.registry.casefile import JudgedPair
from indexes.intervals import wilson_interval


@dataclass(frozen=True, slots=True)
class Precision:
    """`confirmed` of the `judged` pairs at or above `threshold` were fraud.

    Without a threshold all pairs count.
    """

    judged: int
    confirmed: int
    threshold: float | None = None

    @property
    def rate(self) -> Rate | None:
        """With the 95 % interval of pairs that are judged each by itself; those of one case are
        not, so the truth is less certain. None where nothing was judged."""
        if not self.judged:
            return None
        low, high = wilson_interval(self.confirmed, self.judged)
        return Rate(self.confirmed / self.judged, low, high)


def measure_precision(
    pairs: Sequence[JudgedPair], threshold: float | None = None, sweep_id: str | None = None
) -> Precision:
    """Of the pairs that one sweep, or any, had found: twins and mistakes count against it."""
    outcomes = [
        pair.outcome
        for pair in pairs
        if pair.sweep_id is not None
        and sweep_id in (None, pair.sweep_id)
        and (threshold is None or pair.score >= threshold)
    ]
    return Precision(len(outcomes), outcomes.count(Outcome.FRAUD), threshold)


def measure_at(
    pairs: Sequence[JudgedPair], thresholds: Sequence[float], sweep_id: str | None = None
) -> list[Precision]:
    """The same at each of these thresholds: what a higher one would have spared people."""
    return [measure_precision(pairs, threshold, sweep_id) for threshold in thresholds]
