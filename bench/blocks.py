"""Several runs of a suite, each a process of its own and apart in time, made one report.

Repeats inside a process tell how a figure trembles; they do not tell how it differs from the next
process, whose memory lies elsewhere, or from the next minute of a shared machine. So a figure's
noise is what its blocks differ by.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from bench.checks import Goal, load_goals
from bench.report import Check, Figure, Report, Result

# The expected range of so many draws from a normal distribution, in standard deviations:
# Tippett (1925), the d2 of control charts.
_RANGES = {2: 1.128, 3: 1.693, 4: 2.059, 5: 2.326}

Key = tuple[str, str, int]
"""Result or figure: its name, its unit, and which of those that are called so."""
Named = TypeVar("Named", bound=Result | Figure)


def merge_blocks(blocks: Sequence[Report]) -> Report:
    """Medians over the blocks, and how the blocks differ; one block is given back as it is.

    Where right or wrong is counted, the worst block stands.
    """
    first = blocks[0]
    if len(blocks) == 1:
        return first
    others = [dict(key_all(block.results)) for block in blocks]
    results = [
        _merge_results([other[key] for other in others if key in other])
        for key, _ in key_all(first.results)
    ]
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    checks = []
    for check in first.checks:
        same = [one for block in blocks for one in block.checks if one.name == check.name]
        checks.append(_merge_checks(same, goals.get((first.suite, check.name))))
    return replace(first, results=tuple(results), checks=tuple(checks), blocks=len(blocks))


def key_all(items: Sequence[Named]) -> Iterator[tuple[Key, Named]]:
    """Each with a key of its own, the same in every run: names alone may be there twice."""
    seen: Counter[tuple[str, str]] = Counter()
    for item in items:
        name = (item.name, item.unit if isinstance(item, Figure) else "")
        yield (*name, seen[name]), item
        seen[name] += 1


def spread(values: Sequence[float]) -> float | None:
    """Their standard deviation as a share of the median, from their range where they are few.

    None for one value, and where the median is 0.
    """
    median = statistics.median(values)
    if len(values) < 2 or not median:
        return None
    if len(values) in _RANGES:
        return abs((max(values) - min(values)) / _RANGES[len(values)] / median)
    return abs(statistics.stdev(values) / median)


def _merge_results(same: Sequence[Result]) -> Result:
    others = [dict(key_all(one.figures)) for one in same]
    figures = [
        _merge_figures([other[key] for other in others if key in other])
        for key, _ in key_all(same[0].figures)
    ]
    return replace(same[0], figures=tuple(figures))


def _merge_figures(same: Sequence[Figure]) -> Figure:
    values = [one.value for one in same if one.value is not None]
    if not values:
        return same[0]
    ratios = [one.ratio for one in same if one.ratio is not None]
    return Figure(
        name=same[0].name,
        unit=same[0].unit,
        value=statistics.median(values),
        low=_median([one.low for one in same]),
        high=_median([one.high for one in same]),
        ratio=statistics.median(ratios) if ratios else None,
        noise=spread(values),
        ratio_noise=spread(ratios) if ratios else None,
        repeats=same[0].repeats,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _merge_checks(same: Sequence[Check], goal: Goal | None) -> Check:
    values = [one.value for one in same if one.value is not None]
    if goal is None or not values:
        return same[0]
    if len(values) < len(same) and not goal.counts_errors:
        return next(one for one in same if one.value is None)
    value = goal.worst(values) if goal.counts_errors else statistics.median(values)
    measured = next(one for one in same if one.value is not None)
    return replace(measured, value=value, holds=goal.is_met(value))
