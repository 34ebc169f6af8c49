"""A whole load test: a service, a cast, the load, the judgement, and whom it enrolled erased."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from loadtest.config import Order, Session, Step, choose_parts
from loadtest.criteria import decide
from loadtest.document_numbers import DIGITS, NUMBERS, TAG_LENGTH, Papers
from loadtest.errors import LoadTestRefused
from loadtest.exchange import Exchange
from loadtest.judging import excuse, judge
from loadtest.load import run_load
from loadtest.local_service import start_own
from loadtest.people import Cast, Survey, open_crowd
from loadtest.schedule import Planner, draw_moments, require_playable
from loadtest.service_calls import Access, Report, Serials, open_access
from loadtest.setup import Cleaner, Guests, count_people, prepare
from loadtest.shapes import Knee, Shape, find_knee, lay_out
from loadtest.target import Keys, Target

# Plays an order with a cast: one run, or the many of a knee.

REST_S = 0.5
"""Between two steps of a knee."""
WARM_S, WARM_VISITS = 2.0, 2


@dataclass(slots=True)
class Player:
    """`loading` is for the load, `asking` for questions beside it; `guests` grow."""

    order: Order
    loading: Access
    asking: Access
    cast: Cast
    serials: Serials
    guests: Guests
    report: Report
    _planner: Planner = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.order.seed)
        self._planner = Planner(self.cast, self.serials, rng)

    def play(self, steps: list[Step]) -> Knee | None:
        """Adds each step to `steps` as soon as it is judged."""
        course = self.order.course
        if self.order.shape is not Shape.KNEE:
            steps.append(self._run(course.rate, course.seconds))
            return None
        warm_s = min(course.seconds, max(WARM_S, WARM_VISITS / course.rate))
        steps.append(self._run(course.rate, warm_s, is_warm=True))

        def probe(rate: float, times: float) -> bool:
            time.sleep(REST_S)
            steps.append(self._run(rate, course.seconds * times))
            return steps[-1].verdict.is_passed

        return find_knee(probe, course.rate, course.most_rate, course.resolution)

    def _run(self, rate: float, seconds: float, *, is_warm: bool = False) -> Step:
        order = self.order
        stretches = lay_out(order.shape, replace(order.course, rate=rate, seconds=seconds))
        moments = draw_moments(stretches, order.course.process, self._planner.rng)
        visits = self._planner.write(moments, order.mix)
        if not is_warm:
            require_playable(visits, order.mix)
        length_s = sum(one.seconds for one in stretches)
        self.cast.require_fresh(length_s + order.timeout_s)
        run = run_load(self.loading, visits, length_s, order.pace, self.guests, self.report)
        survey = Survey(self.asking.exchange, self.asking.keys.fraud)
        is_own = order.target is None
        judged = tuple(excuse(judge(run.outcomes), self.cast, survey, is_own=is_own))
        verdict = decide(run, judged, stretches, order.objective)
        return Step(rate, stretches, run, judged, verdict, is_warm)


PREPARING_CONNECTIONS = 8
PREPARING_TIMEOUT_S = 30.0
OK = 200


def hold(order: Order, report: Report) -> Session:
    """Runs it all; `LoadTestRefused` where it cannot be run."""
    with _reach(order, report) as (target, keys, outlet), ExitStack() as stack:
        asking = Exchange(target, PREPARING_CONNECTIONS, PREPARING_TIMEOUT_S)
        loading = Exchange(target, order.pace.in_flight, order.timeout_s)
        stack.callback(asking.close)
        stack.callback(loading.close)
        return _hold(order, asking, loading, keys, outlet, report)


def _hold(
    order: Order,
    asking: Exchange,
    loading: Exchange,
    keys: Keys,
    outlet: str | None,
    report: Report,
) -> Session:
    begun, start = datetime.now(UTC), time.perf_counter()
    told = _greet(asking)
    access = open_access(asking, keys, outlet, begun.isoformat())
    serials = Serials(_make_papers(begun))
    wanted = choose_parts(order, lay_out(order.shape, order.course))
    crowd = open_crowd(order.faces, *count_people(wanted), order.seed)
    guests = Guests()
    steps: list[Step] = []
    with _cleaned(order, access, guests, report):
        cast = prepare(access, crowd, wanted, serials, guests, report)
        loaded = replace(access, exchange=loading)
        player = Player(order, loaded, access, cast, serials, guests, report)
        knee = player.play(steps)
    return Session(
        order=order,
        url=asking.target.url,
        version=str(told["version"]),
        model_digest=str(told["model_digest"]),
        crowd=crowd.source,
        cast=cast,
        steps=tuple(steps),
        knee=knee,
        begun=begun,
        seconds=time.perf_counter() - start,
        left_enrolled=guests.count if order.target is not None else 0,
    )


@contextmanager
def _cleaned(order: Order, access: Access, guests: Guests, report: Report) -> Iterator[None]:
    """Erases the guests at the end, after an interrupt too, and then says who is left."""
    is_told = False
    try:
        try:
            yield
        finally:
            # A service of one's own goes with all that is in it.
            if order.target is not None:
                Cleaner(access, guests, report).clean(keeps=order.keeps)
        is_told = True
    finally:
        if not is_told and order.target is not None and guests.count:
            sys.stderr.write(
                f"sosie: up to {guests.count} people stay enrolled: an operator erases them\n"
            )


def _greet(exchange: Exchange) -> Mapping[str, Any]:
    """Version and model; at once `LoadTestRefused` where no service of ours answers."""
    reply = exchange.ask("GET", "/version")
    if reply.status != OK or not isinstance(reply.value, Mapping):
        raise LoadTestRefused(f"no service answers at {exchange.target.url}: is it running?")
    return reply.value


@contextmanager
def _reach(order: Order, report: Report) -> Iterator[tuple[Target, Keys, str | None]]:
    """The service that was named, or one of one's own."""
    if order.target is not None:
        assert order.keys is not None, "whoever names a service brings keys"
        yield order.target, order.keys, order.outlet
        return
    report("starting a service", 0, 0)
    with start_own(order.disk, order.references, order.seed) as own:
        yield own.target, own.keys, None


def _make_papers(begun: datetime) -> Papers:
    """A tag of this run's own: a gallery may have met other runs."""
    tag = "".join(secrets.choice(DIGITS) for _ in range(TAG_LENGTH))
    return Papers(tag, secrets.randbelow(NUMBERS), begun.year)
