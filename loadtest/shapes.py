"""The shapes of a load: their defaults, their phases, and the search for the knee."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from loadtest.errors import LoadTestRefused
from loadtest.schedule import ArrivalProcess, LoadPhase

GROWTH = 1.5
MOST_CONFIRMATIONS = 5
MOST_STEPS = 45
"""In total; the search leaves room for the confirmations."""
LEAST_RATE = 0.5
CONFIRM_TIMES = 2.0
"""Length of a confirming step, as a multiple of the others."""

Probe = Callable[[float, float], bool]
"""`probe(rate, times)` offers a rate for `times` the usual length: whether the objective held."""


@dataclass(slots=True)
class Knee:
    """The highest rate that held, and the lowest one above it that failed.

    `failed` is None if the highest rate allowed held: the knee lies beyond it. `rate` is 0 if none
    held. `trouble` says what ended the search early.
    """

    rate: float = 0.0
    failed: float | None = None
    steps: int = 0
    is_confirmed: bool = False
    trouble: str = ""


def find_knee(probe: Probe, first: float, most: float, resolution: float) -> Knee:
    """Finds the highest rate that holds: a coarse ramp, bisection, and a longer step to confirm.

    Takes at most `MOST_STEPS` steps, until both rates differ by `resolution` of the lower. A
    `LoadTestRefused` by the probe ends the search; it is raised if it came in the first step.
    """
    assert 0 < first <= most, "a knee starts at a rate above 0, and not above the highest"
    assert resolution > 0, "no two rates are the same"
    search = _Search(probe, resolution)
    try:
        search.ramp(first, most)
        search.bisect()
        search.confirm()
    except LoadTestRefused as refused:
        if not search.knee.steps:
            raise
        search.knee.trouble = str(refused)
    return search.knee


class _Search:
    def __init__(self, probe: Probe, resolution: float) -> None:
        self._probe, self._resolution = probe, resolution
        self._held: list[float] = []
        self.knee = Knee()

    def ramp(self, first: float, most: float) -> None:
        rate = first
        while self._holds(rate) and rate < most and self._has_steps():
            rate = min(rate * GROWTH, most)
        while not self._held and rate > LEAST_RATE and self._has_steps():
            rate = rate / 2
            self._holds(rate)
        if not self._held:
            self.knee.trouble = (
                f"even {rate:g} arrivals a second do not hold: look at the service first"
            )

    def bisect(self) -> None:
        knee = self.knee
        while knee.failed is not None and knee.rate and self._has_steps():
            if knee.failed - knee.rate <= self._resolution * knee.rate:
                break
            self._holds((knee.rate + knee.failed) / 2)

    def confirm(self) -> None:
        """Tries the rate found, or a lower one, for longer: a short step may hold by luck.

        One try each: the better of two would be luck again, and other work on the machine costs no
        more than the resolution here, where it would end a ramp.
        """
        rate = self.knee.rate
        for _ in range(MOST_CONFIRMATIONS if rate else 0):
            self.knee.is_confirmed = self._try(rate, CONFIRM_TIMES)
            if self.knee.is_confirmed:
                self.knee.rate = rate
                return
            self.knee.failed = rate
            # A rate that is reported has been tried, if only for a short step.
            self.knee.rate = max((one for one in self._held if one < rate), default=0.0)
            rate *= 1 - self._resolution

    def _holds(self, rate: float) -> bool:
        """Whether a rate holds in one of two tries: other work on the machine may make the first
        one fail, which would end the ramp far below what the service can do."""
        knee = self.knee
        if any(self._has_steps() and self._try(rate, 1.0) for _ in range(2)):
            self._held.append(rate)
            knee.rate = max(knee.rate, rate)
            return True
        knee.failed = rate if knee.failed is None else min(rate, knee.failed)
        return False

    def _try(self, rate: float, times: float) -> bool:
        holds = self._probe(rate, times)
        self.knee.steps += 1
        return holds

    def _has_steps(self) -> bool:
        return self.knee.steps < MOST_STEPS - MOST_CONFIRMATIONS


MOST_SECONDS = 86_400.0
MOST_VISITS = 500_000
"""In one run: each is kept in memory until it is judged."""
RECOVERY_S = 5.0
"""Time after a spike to work off what has gathered; it has no latency objective."""


class Shape(StrEnum):
    """The shapes of `sosie loadtest SHAPE`."""

    SMOKE = "smoke"
    STEADY = "steady"
    SPIKE = "spike"
    KNEE = "knee"
    SOAK = "soak"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProfile:
    """Rate over time: `rate` in arrivals a second; a spike has `peak` for `peak_s` in its middle.

    A knee starts at `rate` and ends at `most_rate`; each step takes `seconds`.
    """

    rate: float
    seconds: float
    process: ArrivalProcess = ArrivalProcess.POISSON
    peak: float = 0.0
    peak_s: float = 0.0
    most_rate: float = 0.0
    resolution: float = 0.04


DEFAULT_PROFILES: Mapping[Shape, LoadProfile] = MappingProxyType(
    {
        Shape.SMOKE: LoadProfile(rate=5, seconds=8, process=ArrivalProcess.CONSTANT),
        Shape.STEADY: LoadProfile(rate=20, seconds=60),
        Shape.SPIKE: LoadProfile(rate=15, seconds=40, peak=120, peak_s=10),
        Shape.KNEE: LoadProfile(
            rate=10, seconds=10, process=ArrivalProcess.CONSTANT, most_rate=2_000
        ),
        Shape.SOAK: LoadProfile(rate=15, seconds=600),
    }
)


def list_phases(shape: Shape, profile: LoadProfile) -> tuple[LoadPhase, ...]:
    """The phases of a run, or of one step of a knee at the profile's rate."""
    phases: tuple[LoadPhase, ...]
    if shape is Shape.SPIKE:
        half = profile.seconds / 2
        recovery = min(RECOVERY_S, half / 2)
        phases = (
            LoadPhase("before", half, profile.rate),
            LoadPhase("spike", profile.peak_s, profile.peak, is_judged=False),
            LoadPhase("recovery", recovery, profile.rate, is_judged=False),
            LoadPhase("after", half - recovery, profile.rate),
        )
    else:
        phases = (LoadPhase(shape.value, profile.seconds, profile.rate),)
    require_bounded(phases)
    return phases


def require_runnable(shape: Shape, profile: LoadProfile) -> None:
    """`LoadTestRefused` if a run, or the longest and fastest step of a knee, is too much."""
    list_phases(shape, profile)
    if shape is Shape.KNEE:
        if profile.rate > profile.most_rate:
            raise LoadTestRefused("a knee starts at --rate, which must not be above --most-rate")
        longest_s = profile.seconds * CONFIRM_TIMES
        list_phases(shape, replace(profile, rate=profile.most_rate, seconds=longest_s))


def require_bounded(phases: tuple[LoadPhase, ...]) -> None:
    """`LoadTestRefused` for more than a day, or more visits than can be kept in memory."""
    seconds = sum(one.seconds for one in phases)
    visits = sum(one.seconds * one.rate for one in phases)
    if not 0 < seconds <= MOST_SECONDS or any(one.rate < 0 for one in phases):
        raise LoadTestRefused(f"give a time above 0 and at most {MOST_SECONDS:.0f} s")
    if not 1 <= visits <= MOST_VISITS:
        raise LoadTestRefused(
            f"{visits:.0f} visits: a run has 1 to {MOST_VISITS}; give another rate or time"
        )
