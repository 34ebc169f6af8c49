"""The shapes of a load: their defaults, and the stretches that each is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from loadtest.arrivals import Process, Stretch
from loadtest.errors import LoadTestRefused
from loadtest.knee import CONFIRM_TIMES

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
