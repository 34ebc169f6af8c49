"""What a load test is asked for, and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np

from loadtest.apikeys import Keys
from loadtest.arrivals import Stretch
from loadtest.cast import Cast
from loadtest.casting import Wanted
from loadtest.judging import Judged
from loadtest.knee import Knee
from loadtest.mix import Mix, Traffic
from loadtest.shapes import Course, Shape
from loadtest.tally import Run
from loadtest.target import Target
from loadtest.verdict import Objective, Verdict

MOST_NEWCOMERS = 800
"""Surveyed before a load; where there are fewer than enrollments, subscribers come back instead."""
MOST_RESIDENTS, LEAST_RESIDENTS = 48, 4
VISITS_A_RESIDENT = 40
MOST_RACERS, LEAST_RACERS = 24, 2
OUTSIDERS = 4
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """`in_flight` requests at once at most; a visit waits `patience_s` for its place among them and
    then counts as failed. With `closed_users`, so many users in a closed loop instead."""

    in_flight: int = 256
    patience_s: float = TIMEOUT_S
    closed_users: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was asked for. No `target`: a service of one's own with so many `references`, which
    lies on `disk`. `keeps`: whoever is enrolled stays."""

    shape: Shape
    course: Course
    mix: Mix
    objective: Objective
    pace: Pace
    target: Target | None = None
    keys: Keys | None = field(default=None, repr=False)
    outlet: str | None = None
    faces: Path | None = None
    disk: Path | None = None
    references: int = 0
    seed: int = 0
    timeout_s: float = TIMEOUT_S
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One run at one rate, with its judgement. What warms up is judged, its rate says nothing."""

    rate: float
    stretches: tuple[Stretch, ...]
    run: Run
    judged: tuple[Judged, ...]
    verdict: Verdict
    is_warm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A load test that is over; of a knee all steps, the others have one."""

    order: Order
    url: str
    version: str
    model_digest: str
    crowd: str
    cast: Cast
    steps: tuple[Step, ...]
    knee: Knee | None
    begun: datetime
    seconds: float
    left_enrolled: int
    """People who are still there: no key was given that may erase them, or they were to be kept."""

    @property
    def wrong(self) -> tuple[Judged, ...]:
        return tuple(one for step in self.steps for one in step.verdict.wrong)

    @property
    def measured(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if not step.is_warm)

    @property
    def is_passed(self) -> bool:
        """A knee passes where it was found, and no step has decided wrongly."""
        if self.knee is not None:
            return not self.wrong and self.knee.is_confirmed
        return all(step.verdict.is_passed for step in self.steps)


def choose_parts(order: Order, stretches: Sequence[Stretch]) -> Wanted:
    """How many people the plan can use, within reason."""
    visits = sum(one.seconds * one.rate for one in stretches)
    share = order.mix.get(Traffic.ENROLL, 0.0)
    enrolling = MOST_NEWCOMERS * bool(share) if order.shape is Shape.KNEE else visits * share
    residents = int(np.clip(visits / VISITS_A_RESIDENT, LEAST_RESIDENTS, MOST_RESIDENTS))
    return Wanted(
        residents=residents,
        newcomers=min(MOST_NEWCOMERS, round(enrolling)),
        racers=int(np.clip(enrolling / 50, LEAST_RACERS, MOST_RACERS)) if share else 0,
        outsiders=OUTSIDERS if Traffic.SEARCH in order.mix else 0,
    )
