"""Finds the highest rate that holds: a coarse ramp, bisection, and a longer step to confirm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.errors import LoadTestRefused

GROWTH = 1.5
MOST_CONFIRMATIONS = 5
MOST_STEPS = 45
"""All together; the search leaves the confirmations theirs."""
LEAST_RATE = 0.5
CONFIRM_TIMES = 2.0
"""A confirming step is so many times as long."""

Probe = Callable[[float, float], bool]
"""Offers a rate for so many times the usual length; whether the objective held."""


@dataclass(slots=True)
class Knee:
    """The highest rate that held, of those tried; `failed` is the lowest that did not, above it.

    No `failed`: the highest rate that may be tried held, and the knee lies beyond. A `rate` of 0:
    none held. `trouble` says what ended the search before its time.
    """

    rate: float = 0.0
    failed: float | None = None
    steps: int = 0
    is_confirmed: bool = False
    trouble: str = ""
    _held: list[float] = field(init=False, default_factory=list, repr=False)


def find_knee(probe: Probe, first: float, most: float, resolution: float) -> Knee:
    """At most `MOST_STEPS` steps; done where the two rates differ by `resolution` of the lower.

    A `LoadTestRefused` of the probe ends the search; of its first step it is raised.
    """
    assert 0 < first <= most, "a knee starts at a rate above 0, and not above the highest"
    assert resolution > 0, "no two rates are the same"
    knee = Knee()
    try:
        _ramp(knee, probe, first, most)
        while _is_open(knee, resolution):
            assert knee.failed is not None
            _try(knee, probe, (knee.rate + knee.failed) / 2)
        if knee.rate:
            _confirm(knee, probe, resolution)
    except LoadTestRefused as refused:
        if not knee.steps:
            raise
        knee.trouble = str(refused)
    return knee


def _ramp(knee: Knee, probe: Probe, first: float, most: float) -> None:
    rate = first
    while _try(knee, probe, rate) and rate < most and _has_steps(knee):
        rate = min(rate * GROWTH, most)
    while not knee.rate and rate > LEAST_RATE and _has_steps(knee):
        rate = rate / 2
        _try(knee, probe, rate)
    if not knee.rate:
        knee.trouble = f"even {rate:g} arrivals a second do not hold: look at the service first"


def _confirm(knee: Knee, probe: Probe, resolution: float) -> None:
    """A short step may hold by luck: the rate found must hold for longer, or a lower one.

    One try each, as a rate that holds has one too: the better of two would be luck again, and a
    neighbour on the machine costs no more than the resolution here, where it would end a ramp.
    """
    rate = knee.rate
    for _ in range(MOST_CONFIRMATIONS):
        holds = probe(rate, CONFIRM_TIMES)
        knee.steps += 1
        if holds:
            knee.rate, knee.is_confirmed = rate, True
            return
        knee.failed = rate
        # What is told has been tried, if only for a short step.
        knee.rate = max((one for one in knee._held if one < rate), default=0.0)
        rate *= 1 - resolution


def _try(knee: Knee, probe: Probe, rate: float) -> bool:
    """A rate has failed where it fails twice: once may be a neighbour's doing on the machine, and
    would end the ramp far below what the service can do."""
    holds = False
    for _ in range(2):
        if _has_steps(knee) and not holds:
            holds = probe(rate, 1.0)
            knee.steps += 1
    if holds:
        knee._held.append(rate)
        knee.rate = max(knee.rate, rate)
    elif knee.failed is None or rate < knee.failed:
        knee.failed = rate
    return holds


def _is_open(knee: Knee, resolution: float) -> bool:
    if knee.failed is None or not knee.rate:
        return False
    return knee.failed - knee.rate > resolution * knee.rate and _has_steps(knee)


def _has_steps(knee: Knee) -> bool:
    return knee.steps < MOST_STEPS - MOST_CONFIRMATIONS
