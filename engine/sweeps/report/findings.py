"""What the numbers of a sweep say, and what they can't."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from engine.matching.thresholds import CalibrationCurve, Rate
from engine.sweeps.report.contents import Chance
from engine.sweeps.report.words import tell_count, tell_rate, tell_share


@dataclass(frozen=True, slots=True)
class Verdict:
    """`tone` is `clear`, `doubt` or `unknown`."""

    tone: str
    title: str
    text: str


def judge_chance(found: int, chance: Chance | None) -> Verdict:
    """Whether what was found is more than strangers alone would bring."""
    if not found:
        return Verdict(
            "clear", "Nothing was found", "No two documents have faces that reach the threshold."
        )
    if chance is None:
        return Verdict(
            "unknown",
            "Nothing is known of chance here",
            "The model has no calibration, so nobody can say how many of these pairs are "
            "strangers who look alike. Look at every group before anything is done.",
        )
    expected = chance.false_pairs
    if expected.is_bound:
        return _judge_bound(found, expected)
    if found > expected.high:
        surplus = found - expected.high
        return Verdict(
            "clear",
            "More than chance explains",
            f"Strangers who look alike would bring {_count_pairs(expected)}. Even at the upper "
            f"end, {tell_count(surplus)} of the {found:,} found ({tell_share(surplus / found)}) "
            "need another explanation.",
        )
    return Verdict(
        "doubt",
        "No more than chance may bring",
        f"Strangers who look alike would bring {_count_pairs(expected)}, and {found:,} were found. "
        "Any of them may be two strangers: take a higher threshold, or look at every pair.",
    )


def miss_rate(curve: CalibrationCurve, threshold: float) -> Rate | None:
    """The share of pairs of one person that stays below `threshold`, between the calibration's
    points by straight lines; None beyond them."""
    for lower, upper in pairwise(curve.points):
        if lower.threshold <= threshold <= upper.threshold:
            width = upper.threshold - lower.threshold
            share = (threshold - lower.threshold) / width if width else 0.0
            value, low, high = (
                (1 - share) * one + share * other
                for one, other in (
                    (lower.fnmr, upper.fnmr),
                    (lower.fnmr_low, upper.fnmr_low),
                    (lower.fnmr_high, upper.fnmr_high),
                )
            )
            return Rate(value, low, high)
    return None


def _judge_bound(found: int, expected: Rate) -> Verdict:
    if found > expected.high:
        return Verdict(
            "clear",
            "More than chance explains",
            f"The threshold lies beyond the calibration, which bounds strangers who look alike at "
            f"{tell_count(expected.high)} pairs and says no more. At least "
            f"{tell_count(found - expected.high)} of the {found:,} found need another explanation.",
        )
    return Verdict(
        "unknown",
        "Chance cannot be ruled out",
        f"The threshold lies beyond the calibration: strangers who look alike bring "
        f"{tell_rate(expected)} pairs, which may be none or all of the {found:,} found. "
        "Look at every group before anything is done.",
    )


def _count_pairs(expected: Rate) -> str:
    return (
        f"about {tell_count(expected.value)} pairs "
        f"({tell_count(expected.low)} to {tell_count(expected.high)})"
    )
