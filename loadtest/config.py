"""The options of `sosie loadtest`, the shapes of a load with the search for the knee, and the types
of steps and results."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
import typer

from loadtest.criteria import JudgedVisit, LoadRun, Objective, RunVerdict
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Keys, ServiceAddress, read_keys, read_target
from loadtest.participants import LoadParticipants, ParticipantCounts
from loadtest.schedule import DEFAULT_MIX, ArrivalProcess, LoadPhase, Mix, Traffic, read_mix
from schema import frozen
from serving.cli.inputs import option, require_place

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
    """The highest rate that held, 0 if none, and the lowest one above it that failed, None if the
    highest allowed held. `trouble` says what ended the search early."""

    rate: float = 0.0
    failed: float | None = None
    steps: int = 0
    is_confirmed: bool = False
    trouble: str = ""


def find_knee(probe: Probe, first: float, most: float, resolution: float) -> Knee:
    """The highest rate that holds: a coarse ramp, bisection until both rates differ by `resolution`
    of the lower, and a longer step to confirm, in at most `MOST_STEPS`.

    A `LoadTestRefused` by the probe ends the search; it is raised if it came in the first step.
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
        """Tries the rate found, or a lower one, for longer and once: a short step, or the better of
        two, may hold by luck. Other work on the machine costs no more than the resolution here."""
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


@frozen(kw_only=True)
class LoadProfile:
    """Rate over time, in arrivals a second: a spike has `peak` for `peak_s` in its middle; a knee
    goes from `rate` to `most_rate`, in steps of `seconds`."""

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


MOST_NEWCOMERS = 800
"""Prepared before a load; if there are fewer than enrollments, holders enroll again instead."""
MOST_HOLDERS, LEAST_HOLDERS = 48, 4
VISITS_A_HOLDER = 40
MOST_RACERS, LEAST_RACERS = 24, 2
OUTSIDERS = 4


@frozen(kw_only=True)
class LoadTestOptions:
    """A test as its options ask for it, `given`, with what is read from them. Without a `target` it
    is a local service."""

    given: "LoadOptions"
    shape: Shape
    profile: LoadProfile
    mix: Mix
    objective: Objective
    target: ServiceAddress | None = None
    keys: Keys | None = field(default=None, repr=False)


@frozen
class LoadStep:
    """One run at one rate, and its verdict; a warm-up is judged, but not for its rate."""

    rate: float
    phases: tuple[LoadPhase, ...]
    run: LoadRun
    judged: tuple[JudgedVisit, ...]
    verdict: RunVerdict
    is_warm: bool = False


@frozen(kw_only=True)
class LoadTestResult:
    """The result of a load test: a knee has many steps, every other shape one."""

    options: LoadTestOptions
    url: str
    version: str
    model_digest: str
    dataset: str
    participants: LoadParticipants
    steps: tuple[LoadStep, ...]
    knee: Knee | None
    begun: datetime
    seconds: float
    left_enrolled: int
    """People who stay enrolled: there was no key to erase them, or they were to be kept."""

    @property
    def wrong(self) -> tuple[JudgedVisit, ...]:
        return tuple(one for step in self.steps for one in step.verdict.wrong)

    @property
    def measured(self) -> tuple[LoadStep, ...]:
        return tuple(step for step in self.steps if not step.is_warm)

    @property
    def is_passed(self) -> bool:
        """A knee passes if it was confirmed and no decision of any step was wrong."""
        if self.knee is not None:
            return not self.wrong and self.knee.is_confirmed
        return all(step.verdict.is_passed for step in self.steps)


def choose_counts(options: LoadTestOptions, phases: Sequence[LoadPhase]) -> ParticipantCounts:
    """The number of people that the plan can use, within limits."""
    visits = sum(one.seconds * one.rate for one in phases)
    share = options.mix.get(Traffic.ENROLL, 0.0)
    enrolling = MOST_NEWCOMERS * bool(share) if options.shape is Shape.KNEE else visits * share
    holders = int(np.clip(visits / VISITS_A_HOLDER, LEAST_HOLDERS, MOST_HOLDERS))
    return ParticipantCounts(
        holders=holders,
        newcomers=min(MOST_NEWCOMERS, round(enrolling)),
        racers=int(np.clip(enrolling / 50, LEAST_RACERS, MOST_RACERS)) if share else 0,
        outsiders=OUTSIDERS if Traffic.SEARCH in options.mix else 0,
    )


KEPT_UP = 0.97
"""At a knee; with less, work accumulates and a longer step would fail."""
DRIFT = 2.0
_USUAL = Objective()


def _number(name: str, is_good: Callable[[float], bool]) -> Callable[[str | float], float]:
    def read(text: str | float) -> float:
        with suppress(ValueError):
            if is_good(value := float(text)):
                return value
        raise typer.BadParameter(f"{text} is no {name}")

    return read


_positive = _number("number above 0", lambda value: 0 < value < math.inf)
_share = _number("share from 0 and below 1", lambda value: 0 <= value < 1)
_fraction = _number("share above 0 and below 1", lambda value: 0 < value < 1)


@frozen(kw_only=True)
class LoadOptions:
    """The options of the command; of numbers that are not given the shape has its own."""

    url: str | None = option("A running service; without it a local one is started.", "URL")
    allow_remote: bool = option(
        "Allow a service on another machine.", None, "--allow-remote", default=False
    )
    keys: str | None = option(
        "JSON with the keys enroll, fraud and (to clean up) erase; - reads standard input.",
        "FILE",
        show_default="SOSIE_LOADTEST_KEY, _FRAUD_KEY, _ERASE_KEY",
    )
    outlet: str | None = option("Outlet to enroll for with a carrier's key.", "CODE")
    keep: bool = option("Do not erase the people enrolled.", None, "--keep", default=False)
    references: int = option("Synthetic references in the local service.", "N", default=0, min=0)
    folder: Path | None = option("Where to put the local service's home.", "DIR")
    faces: Path | None = option("Photographs, one folder per person.", "DIR")
    rate: float | None = option(
        "Arrivals per second; of a knee the first step.", "N", parser=_positive
    )
    seconds: float | None = option(
        "Length of the run, or of each step of a knee.", "S", parser=_positive
    )
    peak: float | None = option("Arrivals per second in a spike.", "N", parser=_positive)
    peak_s: float | None = option("Length of the spike.", "S", parser=_positive)
    most_rate: float | None = option("Highest rate of a knee.", "N", parser=_positive)
    resolution: float | None = option("Resolution of a knee.", "SHARE", parser=_fraction)
    process: ArrivalProcess | None = option("Spacing of arrivals.", None, "--arrivals")
    seed: int = option("Of arrivals and of the choice of people.", default=0, min=0)
    in_flight: int = option("Most requests at once.", "N", default=256, min=1)
    timeout_s: float = option("For an answer.", "S", default=10.0, parser=_positive)
    traffic: Traffic | None = option("Only this kind.", None, "--class")
    mix: str | None = option("Such as enroll=40,match=60.", "SHARES")
    p99_ms: float = option(
        "Objective, for each kind of traffic.", "MS", default=_USUAL.p99_ms, parser=_positive
    )
    max_errors: float = option("Objective.", "SHARE", default=_USUAL.most_errors, parser=_share)
    html: Path | None = option("Write Locust's report to one file.", "FILE")
    as_json: bool = option("Print one JSON document.", None, "--json", default=False)
    debug: bool = option("Show the traceback of an error.", None, "--debug", default=False)


def read_options(shape: Shape, given: LoadOptions) -> LoadTestOptions:
    """Checks and completes the options; `LoadTestRefused` with one line for anything wrong."""
    mix = DEFAULT_MIX if given.mix is None else read_mix(given.mix)
    if given.traffic is not None:
        if given.mix is not None:
            raise LoadTestRefused("--class is a mix of one kind: give it or --mix")
        mix = {given.traffic: 1.0}
    options = LoadTestOptions(
        given=given,
        shape=shape,
        profile=_read_profile(shape, given),
        mix=mix,
        objective=Objective(
            p99_ms=given.p99_ms,
            most_errors=given.max_errors,
            kept_up=KEPT_UP if shape is Shape.KNEE else 0.0,
            drift=DRIFT if shape is Shape.SOAK else 0.0,
        ),
    )
    _require_used(given)
    if given.url is not None:
        target = read_target(given.url, allows_remote=given.allow_remote)
        options = replace(options, target=target, keys=read_keys(given.keys))
    profile = options.profile
    list_phases(shape, profile)
    if shape is Shape.KNEE:
        if profile.rate > profile.most_rate:
            raise LoadTestRefused("a knee starts at --rate, which must not be above --most-rate")
        # Its longest and fastest step must not be too much either.
        longest_s = profile.seconds * CONFIRM_TIMES
        list_phases(shape, replace(profile, rate=profile.most_rate, seconds=longest_s))
    # Before the load, which may take minutes.
    require_place(given.html)
    if given.folder is not None and not given.folder.is_dir():
        raise LoadTestRefused(f"--folder {given.folder} is not a folder: name one that is there")
    return options


def _read_profile(shape: Shape, given: LoadOptions) -> LoadProfile:
    named = {one.name: getattr(given, one.name) for one in fields(LoadProfile)}
    chosen = {name: value for name, value in named.items() if value is not None}
    for only_shape, own in (
        (Shape.SPIKE, ("peak", "peak_s")),
        (Shape.KNEE, ("most_rate", "resolution")),
    ):
        for name in chosen.keys() & own if shape is not only_shape else ():
            raise LoadTestRefused(f"--{name.replace('_', '-')} is for the shape {only_shape}")
    return replace(DEFAULT_PROFILES[shape], **chosen)


def _require_used(given: LoadOptions) -> None:
    """`LoadTestRefused` for an option that would have no effect."""
    names, which, other = ["keys", "outlet", "allow_remote", "keep"], "a running", "give its --url"
    if given.url is not None:
        names, which, other = ["references", "folder"], "the local", "leave out --url"
    for name in names:
        if getattr(given, name):
            said = f"is for {which} service: {other}, or leave it out"
            raise LoadTestRefused(f"--{name.replace('_', '-')} {said}")
