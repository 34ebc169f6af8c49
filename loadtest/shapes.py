"""The shapes of a load: their defaults, and the stretches that each is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from loadtest.errors import LoadTestRefused
from loadtest.schedule import Process, Stretch

# Finds the highest rate that holds: a coarse ramp, bisection, and a longer step to confirm.

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


MOST_SECONDS = 86_400.0
MOST_VISITS = 500_000
"""Of one run: each is kept until it is judged."""
RECOVERY_S = 5.0
"""After a spike, for what had gathered; visits due then have no latency objective."""


class Shape(StrEnum):
    """What `sosie loadtest` is asked for."""

    SMOKE = "smoke"
    STEADY = "steady"
    SPIKE = "spike"
    KNEE = "knee"
    SOAK = "soak"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a load goes: `rate` in arrivals a second; a spike has `peak` for `peak_s` in its middle.

    A knee has no rate: it starts at `rate`, ends at `most_rate`, and each step takes `seconds`.
    """

    rate: float
    seconds: float
    process: Process = Process.POISSON
    peak: float = 0.0
    peak_s: float = 0.0
    most_rate: float = 0.0
    resolution: float = 0.04


USUAL: Mapping[Shape, Course] = MappingProxyType(
    {
        Shape.SMOKE: Course(rate=5, seconds=8, process=Process.CONSTANT),
        Shape.STEADY: Course(rate=20, seconds=60),
        Shape.SPIKE: Course(rate=15, seconds=40, peak=120, peak_s=10),
        Shape.KNEE: Course(rate=10, seconds=10, process=Process.CONSTANT, most_rate=2_000),
        Shape.SOAK: Course(rate=15, seconds=600),
    }
)


def lay_out(shape: Shape, course: Course) -> tuple[Stretch, ...]:
    """The stretches of a run; of a knee those of a step at the course's rate."""
    stretches: tuple[Stretch, ...]
    if shape is Shape.SPIKE:
        half = course.seconds / 2
        recovery = min(RECOVERY_S, half / 2)
        stretches = (
            Stretch("before", half, course.rate),
            Stretch("spike", course.peak_s, course.peak, is_judged=False),
            Stretch("recovery", recovery, course.rate, is_judged=False),
            Stretch("after", half - recovery, course.rate),
        )
    else:
        stretches = (Stretch(shape.value, course.seconds, course.rate),)
    require_bounded(stretches)
    return stretches


def require_runnable(shape: Shape, course: Course) -> None:
    """What cannot be laid out is refused before anything is started: of a knee its longest step at
    its highest rate, too."""
    lay_out(shape, course)
    if shape is Shape.KNEE:
        if course.rate > course.most_rate:
            raise LoadTestRefused("a knee starts at --rate, which must not be above --most-rate")
        longest_s = course.seconds * CONFIRM_TIMES
        lay_out(shape, replace(course, rate=course.most_rate, seconds=longest_s))


def require_bounded(stretches: tuple[Stretch, ...]) -> None:
    """A load test stops by itself: in a day at most, and with no more visits than can be kept."""
    seconds = sum(one.seconds for one in stretches)
    visits = sum(one.seconds * one.rate for one in stretches)
    if not 0 < seconds <= MOST_SECONDS or any(one.rate < 0 for one in stretches):
        raise LoadTestRefused(f"give a time above 0 and of at most {MOST_SECONDS:.0f} s")
    if not 1 <= visits <= MOST_VISITS:
        raise LoadTestRefused(
            f"{visits:.0f} visits: a run has 1 to {MOST_VISITS}; give another rate or time"
        )
