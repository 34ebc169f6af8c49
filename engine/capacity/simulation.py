"""A layout under its demand, played event by event: what the formula is held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.capacity.costs import SEARCH_PAIRS, Costs
from engine.capacity.demand import Demand
from engine.capacity.events import Clock, Cores
from engine.capacity.layout import Layout
from engine.capacity.service import Dice, Ingress, Scans, Searcher, Visit, Writer

ENROLLMENTS_ONGOING = 5
"""At once for each ingress, as `[serve] enrollments_ongoing` has it; more are refused (429)."""
WARM_SHARE = 0.1
"""Of the requests, at the beginning, which are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """So many requests, Poisson arrivals or evenly spaced ones; or, with `connections`, a closed
    loop of enrollments in which each sends again when it is answered, and none is refused."""

    requests: int = 20_000
    seed: int = 0
    is_even: bool = False
    connections: int = 0
    most_ongoing: int = ENROLLMENTS_ONGOING
    """Enrollments with each ingress at once where arrivals are open; 0: no bound."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Latencies in seconds, from the moment a request was due: float64[n].

    `rate` of answers a second; `refused` the share of the enrollments that found the service full;
    `ingress` the share of time that the ingresses' cores worked; `batch` decisions a transaction.
    """

    enroll_s: NDArray[np.float64]
    search_s: NDArray[np.float64]
    rate: float
    refused: float
    ingress: float
    batch: float

    def quantile(self, share: float) -> float:
        """Of enrollments, in seconds; NaN where none was answered."""
        return float(np.quantile(self.enroll_s, share)) if len(self.enroll_s) else math.nan


def simulate(layout: Layout, demand: Demand, costs: Costs, trial: Trial | None = None) -> Run:
    """Plays it; the same seed gives the same run."""
    return _Play(layout, demand, costs, trial or Trial()).run()


class _Play:
    def __init__(self, layout: Layout, demand: Demand, costs: Costs, trial: Trial) -> None:
        self._demand, self._costs, self._trial = demand, costs, trial
        self._rng = np.random.default_rng(trial.seed)
        self._clock = clock = Clock()
        self._count, self._front = layout.ingress_cores, Cores(clock, layout.ingress_cores)
        registrar = self._front if layout.is_one_machine else Cores(clock, layout.node.cores)
        scanning = Cores(clock, layout.node.cores) if layout.shards else registrar
        spreads = (costs.pair_spread, costs.decision_spread, costs.scan_spread)
        pairs, steps, passes = (Dice(self._rng, spread) for spread in spreads)
        scans = Scans(clock, scanning, layout, demand.faces, costs, passes)
        self._writer = Writer(clock, registrar, scans, costs, steps)
        self._searcher = Searcher(scans, self._writer)
        self._ingresses = [
            Ingress(self._front, costs, pairs, self._hand_on) for _ in range(self._count)
        ]
        # Which ingresses have so many requests, by how many: whoever comes takes the first of the
        # least. A dict keeps an order that a seed repeats.
        self._lines: list[dict[int, None]] = [dict.fromkeys(range(self._count), None)]
        self._ongoing = [0] * self._count
        # A closed loop bounds itself: whom it refused would never come again.
        bound = 0 if trial.connections else trial.most_ongoing
        self._most = bound * self._count or math.inf
        self._came = self._refused = self._enrolling = 0
        self._done: list[tuple[float, float, bool]] = []

    def run(self) -> Run:
        trial, demand = self._trial, self._demand
        if trial.connections:
            for _ in range(trial.connections):
                self._send(False, self._send_again)
        else:
            self._await_next(demand.enrollments, False)
            self._await_next(demand.searches, True)
        self._clock.run(lambda: len(self._done) + self._refused >= trial.requests)
        return self._tell()

    def _await_next(self, rate: float, is_search: bool) -> None:
        if rate > 0:
            gap_s = 1 / rate if self._trial.is_even else float(self._rng.exponential(1 / rate))
            self._clock.after(gap_s, lambda: self._come(rate, is_search))

    def _come(self, rate: float, is_search: bool) -> None:
        self._await_next(rate, is_search)
        self._send(is_search, self._answer)

    def _send(self, is_search: bool, end: Callable[[Visit], None]) -> None:
        self._came += not is_search
        if not is_search and self._enrolling >= self._most:
            self._refused += 1
            return
        self._enrolling += not is_search
        pairs = SEARCH_PAIRS if is_search else 1.0
        place = next(iter(next(line for line in self._lines if line)))
        self._move(place, 1)
        visit = Visit(self._clock.now, pairs, is_search, self._return_of(end), place)
        self._ingresses[place].take(visit)

    def _return_of(self, end: Callable[[Visit], None]) -> Callable[[Visit], None]:
        """The way back from the registrar, then the end."""
        return lambda visit: self._clock.after(self._costs.hop_s / 2, lambda: end(visit))

    def _hand_on(self, visit: Visit) -> None:
        take = self._searcher.search if visit.is_search else self._writer.enroll
        self._clock.after(self._costs.hop_s / 2, lambda: take(visit))

    def _move(self, place: int, step: int) -> None:
        del self._lines[self._ongoing[place]][place]
        self._ongoing[place] += step
        while len(self._lines) <= self._ongoing[place]:
            self._lines.append({})
        self._lines[self._ongoing[place]][place] = None

    def _answer(self, visit: Visit) -> None:
        self._enrolling -= not visit.is_search
        self._move(visit.ingress, -1)
        self._done.append((visit.due, self._clock.now, visit.is_search))

    def _send_again(self, visit: Visit) -> None:
        self._answer(visit)
        self._send(False, self._send_again)

    def _tell(self) -> Run:
        assert self._done, "a run answers somebody"
        kept = np.array(self._done[int(len(self._done) * WARM_SHARE) :])
        took, searches = kept[:, 1] - kept[:, 0], kept[:, 2] > 0
        seconds = kept[-1, 1] - kept[0, 1]
        return Run(
            enroll_s=took[~searches],
            search_s=took[searches],
            rate=float((len(kept) - 1) / seconds) if seconds > 0 else math.nan,
            refused=self._refused / self._came if self._came else 0.0,
            ingress=self._front.busy_s / (self._clock.now * self._count),
            batch=self._writer.decided / max(self._writer.batches, 1),
        )
