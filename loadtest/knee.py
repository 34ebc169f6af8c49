"""Finds the highest rate that holds: a coarse ramp, bisection, and a longer step to confirm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loadtest.errors import LoadTestRefused

GROWTH = 1.5
MOST_STEPS = 40
MOST_CONFIRMATIONS = 3
LEAST_RATE = 0.5
CONFIRM_TIMES = 2.0
"""A confirming step is so many times as long."""

Probe = Callable[[float, float], bool]
"""Offers a rate for so many times the usual length; whether the objective held."""


@dataclass(slots=True)
class Knee:
    """The highest rate that held, of those tried; `failed` is the lowest that did not, above it.

    No `failed`: the highest rate that may be tried held, and the knee lies beyond.
    """

    rate: float = 0.0
    failed: float | None = None
    steps: int = 0
    is_confirmed: bool = False


def find_knee(probe: Probe, first: float, most: float, resolution: float) -> Knee:
    """At most `MOST_STEPS` steps; done where the two rates differ by `resolution` of the lower."""
    if not 0 < first <= most:
        raise LoadTestRefused("a knee starts at a rate above 0, and not above the highest")
    knee = Knee()
    _ramp(knee, probe, first, most)
    while knee.failed is not None and _is_open(knee, resolution):
        _try(knee, probe, (knee.rate + knee.failed) / 2)
    _confirm(knee, probe, resolution)
    return knee


def _ramp(knee: Knee, probe: Probe, first: float, most: float) -> None:
    rate = first
    while _try(knee, probe, rate) and rate < most and knee.steps < MOST_STEPS:
        rate = min(rate * GROWTH, most)
    while not knee.rate and rate > LEAST_RATE and knee.steps < MOST_STEPS:
        rate = rate / 2
        _try(knee, probe, rate)
    if not knee.rate:
        raise LoadTestRefused(
            f"even {rate:g} arrivals a second do not hold the objective: look at the service first"
        )


def _confirm(knee: Knee, probe: Probe, resolution: float) -> None:
    """A short step may hold by luck: the rate found must hold for longer, or a lower one."""
    for _ in range(MOST_CONFIRMATIONS):
        rate = knee.rate
        if _probe_twice(knee, probe, rate, CONFIRM_TIMES):
            knee.is_confirmed = True
            return
        knee.failed, knee.rate = rate, rate * (1 - resolution)


def _try(knee: Knee, probe: Probe, rate: float) -> bool:
    holds = _probe_twice(knee, probe, rate, 1.0)
    if holds:
        knee.rate = max(knee.rate, rate)
    elif knee.failed is None or rate < knee.failed:
        knee.failed = rate
    return holds


def _probe_twice(knee: Knee, probe: Probe, rate: float, times: float) -> bool:
    """A rate has failed where it fails twice: once may be a neighbour's doing on the machine, and
    would end the ramp far below what the service can do."""
    for _ in range(2):
        knee.steps += 1
        if probe(rate, times):
            return True
    return False


def _is_open(knee: Knee, resolution: float) -> bool:
    assert knee.failed is not None
    return knee.failed - knee.rate > resolution * knee.rate and knee.steps < MOST_STEPS
