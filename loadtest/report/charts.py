"""What a load test draws: latency over time, rates, the tail by percentile, the steps of a knee."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadtest.figures import Latencies, Slice, measure, measure_rates, write_ms
from loadtest.order import Session, Step
from loadtest.report.drawing import (
    Axis,
    Band,
    Chart,
    Line,
    Mark,
    spread_linear,
    spread_log,
    spread_time,
)

OVER_TIME = ((50.0, "p50", "low"), (90.0, "p90", "middle"), (99.0, "p99", "high"))
COLOURS = ("one", "two", "three", "four", "five")
NINES = (("0", 0.0), ("50", 50.0), ("90", 90.0), ("99", 99.0), ("99.9", 99.9), ("99.99", 99.99))
LEAST_MS = 0.5


def draw_latency(slices: Sequence[Slice], step: Step, objective_ms: float) -> str:
    """Percentiles of each slice, by when its visits were due."""
    most = max((one.latencies.at(100.0) for one in slices if one.latencies.count), default=1.0)
    least = min((one.latencies.at(50.0) for one in slices if one.latencies.count), default=1.0)
    lines = [
        Line(
            name,
            colour,
            [(one.start_s + one.width_s / 2, one.latencies.at(share)) for one in slices],
        )
        for share, name, colour in ((100.0, "max", "faint"), *OVER_TIME)
    ]
    chart = Chart(
        label="latency over time",
        x=spread_time("seconds from the start, by when visits were due", _end(slices)),
        y=spread_log("ms", max(LEAST_MS, least), max(most, objective_ms), _write_ms),
        lines=lines,
        bands=_list_bands(step, _end(slices)),
        level=(objective_ms, f"p99 ≤ {objective_ms:g} ms"),
    )
    return chart.draw()


def draw_rates(slices: Sequence[Slice], step: Step) -> str:
    """What was offered, what was achieved, what was refused or failed."""
    most = max(max(one.offered, one.achieved) for one in slices)
    chart = Chart(
        label="offered and achieved rate over time",
        x=spread_time("seconds from the start", _end(slices)),
        y=spread_linear("visits a second", 0, most),
        lines=[
            Line("offered", "faint", _steps(slices, [one.offered for one in slices]), is_step=True),
            Line("achieved", "low", _steps(slices, [one.achieved for one in slices]), is_step=True),
            Line(
                "refused or failed",
                "high",
                _steps(slices, [(one.refused + one.failed) / one.width_s for one in slices]),
                is_step=True,
            ),
        ],
        bands=_list_bands(step, _end(slices)),
    )
    return chart.draw()


def draw_tail(found: dict[str, Latencies], objective_ms: float) -> str:
    """Latency by percentile, each nine as wide as the last (HdrHistogram's plot)."""
    measured = [one for one in found.values() if one.count]
    most = max((one.at(100.0) for one in measured), default=1.0)
    least = min((max(LEAST_MS, one.at(0.0)) for one in measured), default=1.0)
    ticks = tuple((_nines(share), text) for text, share in NINES)
    chart = Chart(
        label="latency by percentile",
        x=Axis("percentile", 0.0, _nines(99.99), ticks),
        y=spread_log("ms", least, max(most, objective_ms), _write_ms),
        lines=[
            Line(
                name,
                COLOURS[place % len(COLOURS)],
                _list_tail(one),
            )
            for place, (name, one) in enumerate(found.items())
            if one.count
        ],
        level=(objective_ms, f"p99 ≤ {objective_ms:g} ms"),
    )
    return chart.draw()


def draw_knee(session: Session) -> str:
    """Each step: its rate against its p99, whether it held, and what it achieved. A step in which
    all were refused has no p99, and stands at the worst of the others."""
    steps = [(step, measure(step.run.outcomes).at(99.0)) for step in session.measured]
    objective_ms = session.order.objective.p99_ms
    known = [p99_ms for _, p99_ms in steps if not math.isnan(p99_ms)] or [objective_ms]
    worst, best = max(known), min(known)
    marks = [
        Mark(
            "low" if step.verdict.is_passed else "high",
            (step.rate, worst if math.isnan(p99_ms) else p99_ms),
            f"{step.rate:.1f}/s: p99 {write_ms(p99_ms, 0)} ms, "
            f"{measure_rates(step.run)[1]:.1f}/s achieved",
            is_cross=not step.verdict.is_passed,
        )
        for step, p99_ms in steps
    ]
    chart = Chart(
        label="p99 against the rate of each step",
        x=spread_linear("arrivals a second", 0, max(step.rate for step, _ in steps)),
        y=spread_log("p99, ms", max(LEAST_MS, best), max(worst, objective_ms), _write_ms),
        marks=marks,
        level=(objective_ms, f"p99 ≤ {objective_ms:g} ms"),
    )
    return chart.draw()


def _list_tail(found: Latencies) -> list[tuple[float, float]]:
    """No further out than there are visits: of a hundred, the slowest is at the second nine."""
    furthest = min(99.99, 100 * (1 - 1 / (found.count + 1)))
    return [(_nines(min(share, furthest)), ms) for share, ms in found.by_percentile.items()]


def _list_bands(step: Step, end_s: float) -> list[Band]:
    """Stretches that are not judged, and what follows the last arrival."""
    bands, start = [], 0.0
    for one in step.stretches:
        if not one.is_judged:
            bands.append(Band(start, start + one.seconds, one.name))
        start += one.seconds
    return [*bands, Band(start, end_s, "over")] if end_s > start else bands


def _steps(slices: Sequence[Slice], values: Sequence[float]) -> list[tuple[float, float]]:
    points = [(one.start_s, value) for one, value in zip(slices, values, strict=True)]
    return [*points, (_end(slices), values[-1])]


def _end(slices: Sequence[Slice]) -> float:
    return slices[-1].start_s + slices[-1].width_s


def _nines(share: float) -> float:
    """0 at 0 %, 1 at 90 %, 2 at 99 %."""
    return -math.log10(1 - share / 100)


def _write_ms(value: float) -> str:
    return f"{value:g}"
