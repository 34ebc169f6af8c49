"""Latencies and rates of a run, over all of it and over time; percentiles are HdrHistogram's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from hdrh.histogram import HdrHistogram

from loadtest.mix import REPEATED, Traffic
from loadtest.tally import Run
from loadtest.visits import Outcome

LONGEST_US = 3_600_000_000
FIGURES, FIGURES_OVER_TIME = 3, 2
"""Significant figures that a histogram keeps: a thousandth of the value, and a hundredth."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
CURVE = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0)
MOST_SLICES, LEAST_SLICES, LEAST_IN_SLICE = 120, 16, 40
SHORTEST_SLICE_S = 0.5


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds by percentile; empty where nothing was counted. `histogram` is HdrHistogram's
    own encoding (V2, in microseconds), so that runs can be added up and compared later."""

    count: int
    by_percentile: dict[float, float]
    histogram: str = ""

    def at(self, percentile: float) -> float:
        """NaN where nothing was counted."""
        return self.by_percentile.get(percentile, float("nan"))


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a run: `offered` and `achieved` in visits a second, by the moment that each was due
    and that each was answered well; latencies of what was due in it."""

    start_s: float
    width_s: float
    offered: float
    achieved: float
    refused: int
    failed: int
    latencies: Latencies


def measure(outcomes: Iterable[Outcome], *, is_whole: bool = True) -> Latencies:
    """Of all but refusals, which are quick: what failed or came too late counts with its time."""
    figures = FIGURES if is_whole else FIGURES_OVER_TIME
    histogram = HdrHistogram(1, LONGEST_US, figures)
    count = 0
    for one in outcomes:
        if not one.answer.is_refusal:
            count += 1
            histogram.record_value(min(max(1, round(one.latency_s * 1e6)), LONGEST_US - 1))
    if not count:
        return Latencies(0, {})
    wanted = list(CURVE if is_whole else PERCENTILES)
    values = histogram.get_percentile_to_value_dict(wanted)
    encoded = histogram.encode().decode() if is_whole else ""
    return Latencies(count, {share: value / 1e3 for share, value in values.items()}, encoded)


def measure_traffics(outcomes: Sequence[Outcome]) -> dict[Traffic, Latencies]:
    """Of each kind of traffic that came."""
    came = sorted({one.visit.traffic for one in outcomes}, key=list(Traffic).index)
    return {
        traffic: measure(one for one in outcomes if one.visit.traffic is traffic)
        for traffic in came
    }


def slice_run(run: Run) -> tuple[Slice, ...]:
    """The run in parts of one width, to the last answer."""
    width_s = choose_width(run.seconds, len(run.outcomes))
    count = max(1, int(np.ceil(max(run.elapsed_s, run.seconds) / width_s)))
    due: list[list[Outcome]] = [[] for _ in range(count)]
    answered = [0] * count
    for one in run.outcomes:
        due[min(int(one.visit.due_s / width_s), count - 1)].append(one)
        if not is_failed(one):
            answered[min(int(one.done_s / width_s), count - 1)] += 1
    return tuple(
        Slice(
            start_s=place * width_s,
            width_s=width_s,
            offered=len(mine) / width_s,
            achieved=answered[place] / width_s,
            refused=sum(one.answer.is_refusal for one in mine),
            failed=sum(is_failed(one) and not one.answer.is_refusal for one in mine),
            latencies=measure(mine, is_whole=False),
        )
        for place, mine in enumerate(due)
    )


def choose_width(seconds: float, visits: int) -> float:
    """Round numbers of seconds: no more slices than a chart can show, and in each enough visits
    for a percentile, but no fewer than some slices."""
    for width_s in (SHORTEST_SLICE_S, 1, 2, 5, 10, 30, 60, 300, 600):
        is_few = seconds / width_s <= MOST_SLICES
        is_full = visits * width_s / seconds >= LEAST_IN_SLICE
        if is_few and (is_full or seconds / width_s <= LEAST_SLICES):
            return float(width_s)
    return 1800.0


def is_failed(outcome: Outcome) -> bool:
    """Not answered as such a request can be: what a repeated key may be told is no failure."""
    answer, visit = outcome.answer, outcome.visit
    # The first of two may be overtaken by the second, and is told so.
    is_repeat = visit.kind in REPEATED or visit.has_repeat
    return not answer.is_good and not (is_repeat and (answer.is_in_flight or answer.is_mismatch))


def measure_rates(run: Run) -> tuple[float, float]:
    """Visits offered a second, and those well answered while the schedule went on."""
    in_time = sum(not is_failed(one) and one.done_s <= run.seconds for one in run.outcomes)
    offered = len(run.outcomes) + run.omitted
    return offered / run.seconds, in_time / run.seconds


def count_from(run: Run, start_s: float) -> tuple[int, int]:
    """Visits due after `start_s`, and those well answered from then until the schedule's end.

    Of a service that keeps up both are alike however long it takes for each: those who were on
    their way at the start are answered in place of those who are at the end.
    """
    due = sum(one.visit.due_s > start_s for one in run.outcomes)
    answered = sum(
        start_s < one.done_s <= run.seconds and not is_failed(one) for one in run.outcomes
    )
    return due, answered


def quantile(values: Iterable[float], share: float) -> float:
    """NaN of none."""
    found = np.fromiter(values, np.float64)
    return float(np.quantile(found, share)) if len(found) else float("nan")


def count_failures(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How often each status and code came in place of an answer, the commonest first."""
    counted = Counter(one.answer.describe() for one in outcomes if is_failed(one))
    return dict(counted.most_common())


def write_ms(value: float, places: int = 1) -> str:
    """Milliseconds; a dash where nothing was measured."""
    return "-" if np.isnan(value) else f"{value:.{places}f}"
