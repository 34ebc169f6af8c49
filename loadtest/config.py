"""The options of `sosie loadtest`, and the order that they make."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from loadtest.criteria import Objective, Run, Verdict
from loadtest.errors import LoadTestRefused
from loadtest.judging import Judged
from loadtest.people import Cast, Wanted
from loadtest.schedule import USUAL_MIX, Mix, Process, Stretch, Traffic, read_mix
from loadtest.shapes import USUAL, Course, Knee, Shape, require_runnable
from loadtest.target import Keys, Target, read_keys, read_target

# What a load test is asked for, and what comes out of it.

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


KEPT_UP = 0.97
"""At a knee: below, work gathers, and a longer step would not hold."""
DRIFT = 2.0
EXITS = (
    "Exit codes: 0 all held, 1 something did not, 2 bad input, 3 our own fault, 130 interrupted."
)


@dataclass(frozen=True, slots=True)
class Wish:
    """An order, and how its outcome is told."""

    order: Order
    html: Path | None
    as_json: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LoadTestRefused(f"{message}: see `sosie loadtest SHAPE -- --help`")


def read_options(arguments: Sequence[str]) -> Wish:
    """The wish; `LoadTestRefused` in one line for whatever is wrong with it."""
    given = _make_parser().parse_args(arguments)
    shape = Shape(given.shape)
    order = Order(
        shape=shape,
        course=_read_course(shape, given),
        mix=_read_mix(given),
        objective=Objective(
            p99_ms=given.p99_ms,
            most_errors=given.max_errors,
            kept_up=KEPT_UP if shape is Shape.KNEE else 0.0,
            drift=DRIFT if shape is Shape.SOAK else 0.0,
        ),
        pace=Pace(
            in_flight=given.in_flight, patience_s=given.timeout_s, closed_users=given.closed_loop
        ),
        outlet=given.outlet,
        faces=given.faces,
        disk=given.folder,
        references=given.references,
        seed=given.seed,
        timeout_s=given.timeout_s,
        keeps=given.keep,
    )
    _require_used(given)
    if given.url is not None:
        target = read_target(given.url, allows_remote=given.allow_remote)
        order = replace(order, target=target, keys=read_keys(given.keys))
    if given.closed_loop and shape is Shape.KNEE:
        raise LoadTestRefused("a closed loop has no knee: it asks less where the service is slow")
    require_runnable(shape, order.course)
    _require_file(given.html)
    if given.folder is not None and not given.folder.is_dir():
        raise LoadTestRefused(f"--folder {given.folder} is not a folder: name one that is there")
    return Wish(order, given.html, given.json)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sosie loadtest",
        allow_abbrev=False,
        epilog=EXITS,
        description="Loads a service with planned visits, and holds every answer against the plan.",
    )
    parser.add_argument("shape", choices=[shape.value for shape in Shape])
    _add_target(parser)
    _add_load(parser)
    group = parser.add_argument_group("what must hold, and how it is told")
    group.add_argument("--p99-ms", type=_positive, default=Objective().p99_ms, metavar="MS")
    group.add_argument(
        "--max-errors", type=_share, default=Objective().most_errors, metavar="SHARE"
    )
    group.add_argument("--html", type=Path, metavar="FILE", help="a report in one file")
    group.add_argument("--json", action="store_true", help="everything as one JSON document")
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("whom it loads; without --url a service of its own")
    group.add_argument("--url", metavar="URL", help="a service that runs, as http://127.0.0.1:8700")
    group.add_argument("--allow-remote", action="store_true", help="even if it is another machine")
    group.add_argument(
        "--keys",
        metavar="FILE",
        help="JSON with enroll, fraud and, to clean up, erase; - reads standard input; else "
        "SOSIE_LOADTEST_KEY, _FRAUD_KEY, _ERASE_KEY",
    )
    group.add_argument("--outlet", metavar="CODE", help="where a carrier's key enrolls")
    group.add_argument("--keep", action="store_true", help="leave enrolled whom the test enrolled")
    group.add_argument(
        "--references", type=_count, default=0, metavar="N", help="synthetic, in its own service"
    )
    group.add_argument("--folder", type=Path, metavar="DIR", help="where that service's home lies")


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the load; every shape has its own defaults")
    group.add_argument("--faces", type=Path, metavar="DIR", help="photographs, a folder a person")
    group.add_argument(
        "--rate", type=_positive, metavar="N", help="arrivals a second; of a knee the first"
    )
    group.add_argument("--seconds", type=_positive, metavar="S", help="of a knee: of each step")
    group.add_argument("--peak", type=_positive, metavar="N", help="of a spike")
    group.add_argument("--peak-s", type=_positive, metavar="S", help="how long a spike lasts")
    group.add_argument("--most-rate", type=_positive, metavar="N", help="a knee ends there")
    group.add_argument("--resolution", type=_fraction, metavar="SHARE", help="of a knee")
    group.add_argument("--arrivals", choices=[one.value for one in Process], help="how they come")
    traffics = parser.add_argument_group("who comes").add_mutually_exclusive_group()
    traffics.add_argument(
        "--class", dest="traffic", choices=[one.value for one in Traffic], help="this kind alone"
    )
    traffics.add_argument("--mix", metavar="SHARES", help="as enroll=40,match=60")
    group.add_argument("--seed", type=_count, default=0)
    group.add_argument("--in-flight", type=_some, default=Pace().in_flight, metavar="N")
    group.add_argument("--timeout-s", type=_positive, default=TIMEOUT_S, metavar="S")
    group.add_argument(
        "--closed-loop",
        type=_count,
        default=0,
        metavar="USERS",
        help="for comparison: users who wait for answers, whose latency hides what they wait for",
    )


def _read_course(shape: Shape, given: argparse.Namespace) -> Course:
    names = ("rate", "seconds", "peak", "peak_s", "most_rate", "resolution")
    chosen: dict[str, Any] = {
        name: getattr(given, name) for name in names if getattr(given, name) is not None
    }
    if given.arrivals is not None:
        chosen["process"] = Process(given.arrivals)
    of_one = {
        "peak": Shape.SPIKE,
        "peak_s": Shape.SPIKE,
        "most_rate": Shape.KNEE,
        "resolution": Shape.KNEE,
    }
    for name, owner in of_one.items():
        if name in chosen and shape is not owner:
            raise LoadTestRefused(f"--{name.replace('_', '-')} is for the shape {owner}")
    return replace(USUAL[shape], **chosen)


def _read_mix(given: argparse.Namespace) -> Mix:
    if given.traffic is not None:
        return {Traffic(given.traffic): 1.0}
    return USUAL_MIX if given.mix is None else read_mix(given.mix)


def _require_used(given: argparse.Namespace) -> None:
    """Nobody is left to believe that an option did what it did not do."""
    of_own = ("references", "folder")
    of_others = ("keys", "outlet", "allow_remote", "keep")
    for name in of_own if given.url is not None else of_others:
        if getattr(given, name):
            other = "leave out --url" if given.url is not None else "give its --url"
            whose = "the test's own" if given.url is not None else "somebody else's"
            raise LoadTestRefused(
                f"--{name.replace('_', '-')} is for a service of {whose}: {other}, or leave it out"
            )


def _require_file(path: Path | None) -> None:
    """Minutes of load must not end in a file that cannot be written."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise LoadTestRefused(f"{path} cannot be written: name a file in a folder that is there")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError
    return value


def _fraction(text: str) -> float:
    value = _share(text)
    if not value:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _some(text: str) -> int:
    value = _count(text)
    if not value:
        raise ValueError
    return value


# argparse names the function in its own message.
_positive.__name__, _share.__name__, _count.__name__ = "number", "share", "count"
_fraction.__name__, _some.__name__ = "share above 0", "count above 0"
