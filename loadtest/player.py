"""Plays an order with a cast: one run, or the many of a knee."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from loadtest.access import Access, Report, Serials
from loadtest.arrivals import draw_moments
from loadtest.cast import Cast
from loadtest.guests import Guests
from loadtest.judging import judge
from loadtest.knee import Knee, find_knee
from loadtest.lookalikes import excuse
from loadtest.openloop import run_load
from loadtest.order import Order, Step
from loadtest.plan import Planner, require_playable
from loadtest.shapes import Shape, lay_out
from loadtest.survey import Survey
from loadtest.verdict import decide

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
