"""A layout under its demand, played event by event: what the formula is held against."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import numpy as np
from numpy.typing import NDArray

from engine.capacity.model import PAIRS_AT_ONCE, PROBES_AT_ONCE, SEARCH_PAIRS, Costs, Demand, Layout
from engine.capacity.queueing import slowest_of

# A clock of events, and cores that tasks share: what a simulation runs on.

Act = Callable[[], None]
_EQUAL = 1e-9


class Clock:
    """Events in order of their time; those of one moment in the order in which they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Act]] = []
        self._numbers = count()

    def after(self, seconds: float, act: Act) -> None:
        heappush(self._due, (self.now + seconds, next(self._numbers), act))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Until nothing is due, or it is over."""
        while self._due and not is_over():
            self.now, _, act = heappop(self._due)
            act()


class Cores:
    """Tasks of one thread or several share so many cores in equal parts (processor sharing).

    A thread runs at full speed while there is a core for each. All run equally fast, so one
    measure of how far a thread has come since the beginning serves them all: a task ends when
    that has grown by its seconds.
    """

    def __init__(self, clock: Clock, cores: int) -> None:
        self._clock = clock
        self._cores = cores
        self._threads = 0
        self._progress = 0.0
        self._looked = 0.0
        self._tasks: list[tuple[float, int, int, Act]] = []
        self._numbers = count()
        self._version = 0
        self.busy_s = 0.0
        """Core-seconds so far."""

    def work(self, seconds: float, act: Act, threads: int = 1) -> None:
        """Then `act`; `seconds` at full speed on each of the threads."""
        self._advance()
        heappush(self._tasks, (self._progress + seconds, next(self._numbers), threads, act))
        self._threads += threads
        self._await_next()

    def _speed(self) -> float:
        return min(1.0, self._cores / self._threads) if self._threads else 1.0

    def _advance(self) -> None:
        passed = self._clock.now - self._looked
        self._looked = self._clock.now
        self._progress += passed * self._speed()
        self.busy_s += passed * min(self._threads, self._cores)

    def _await_next(self) -> None:
        self._version += 1
        if not self._tasks:
            return
        left = max(self._tasks[0][0] - self._progress, 0.0)
        version = self._version
        self._clock.after(left / self._speed(), lambda: self._end(version))

    def _end(self, version: int) -> None:
        if version != self._version:
            return  # another task has come or gone since: it is awaited anew
        self._advance()
        ended = []
        while self._tasks and self._tasks[0][0] <= self._progress + _EQUAL:
            _, _, threads, act = heappop(self._tasks)
            self._threads -= threads
            ended.append(act)
        self._await_next()
        for act in ended:
            act()


# The parts of the service as a simulation has them: what waits where, and who takes it.


@dataclass(slots=True, eq=False)
class Visit:
    """A request on its way; `pairs` of photographs, half a pair for a search."""

    due: float
    pairs: float
    is_search: bool
    end: Callable[[Visit], None]
    ingress: int = 0


@dataclass(slots=True)
class Dice:
    """Log-normal factors of mean 1, drawn by thousands."""

    rng: np.random.Generator
    spread: float
    _left: list[float] = field(default_factory=list)

    def throw(self) -> float:
        if not self._left:
            drawn = self.rng.normal(-(self.spread**2) / 2, self.spread, 4096)
            self._left = np.exp(drawn).tolist()
        return self._left.pop()


class Ingress:
    """One worker that takes whatever pairs have gathered, on cores that it shares."""

    def __init__(
        self, cores: Cores, costs: Costs, dice: Dice, hand_on: Callable[[Visit], None]
    ) -> None:
        self._cores, self._costs, self._dice = cores, costs, dice
        self._hand_on = hand_on
        self._waiting: deque[Visit] = deque()
        self._is_busy = False

    def take(self, visit: Visit) -> None:
        """Its HTTP first, then its photographs in their turn."""
        self._cores.work(self._costs.http_s * self._dice.throw(), lambda: self._queue(visit))

    def _queue(self, visit: Visit) -> None:
        self._waiting.append(visit)
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        batch: list[Visit] = []
        pairs = 0.0
        while self._waiting and pairs + self._waiting[0].pairs <= PAIRS_AT_ONCE:
            batch.append(self._waiting.popleft())
            pairs += batch[-1].pairs
        self._is_busy = bool(batch)
        if batch:
            seconds = self._costs.photographs(pairs) * self._dice.throw()
            self._cores.work(seconds, lambda: self._finish(batch))

    def _finish(self, batch: list[Visit]) -> None:
        for visit in batch:
            self._hand_on(visit)
        self._begin()


class Scans:
    """Passes over the gallery with all cores of a machine; over shards, as long as the slowest.

    Of many log-normal times the greatest varies less than each: its median stands for it.
    """

    def __init__(
        self, clock: Clock, cores: Cores, layout: Layout, faces: int, costs: Costs, dice: Dice
    ) -> None:
        self._clock, self._cores, self._layout = clock, cores, layout
        self._costs, self._dice = costs, dice
        self._references = layout.references_a_scanner(faces)
        self._slowest = slowest_of(layout.shards, costs.scan_spread)

    def scan(self, probes: int, act: Act) -> None:
        """One pass for so many probes, then `act`."""
        node, costs = self._layout.node, self._costs
        seconds = costs.scan_s(self._references, probes, node)
        if not self._layout.shards:
            self._cores.work(seconds * self._dice.throw(), act, threads=node.cores)
            return
        self._cores.work(
            seconds * self._slowest,
            lambda: self._clock.after(costs.fan_out_s, act),
            threads=node.cores,
        )


class Writer:
    """The registrar's thread: a batch of whatever has gathered, by turns with audit entries.

    After a batch of several it waits a moment for more to share the next.
    """

    def __init__(self, clock: Clock, cores: Cores, scans: Scans, costs: Costs, dice: Dice) -> None:
        self._clock, self._cores, self._scans = clock, cores, scans
        self._costs, self._dice = costs, dice
        self._waiting: deque[Visit] = deque()
        self._notes: list[Visit] = []
        self._is_busy = self._is_gathering = False
        self._had_company = self._was_note = False
        self._turn = 0
        self.decided = self.batches = 0

    def enroll(self, visit: Visit) -> None:
        """Decides it in its turn."""
        self._waiting.append(visit)
        if self._is_busy:
            return
        if not self._is_gathering:
            self._look()
        elif len(self._waiting) >= self._costs.batch:
            self._begin()

    def note(self, visit: Visit) -> None:
        """Makes the audit entry of a search durable; all that wait share one transaction."""
        self._notes.append(visit)
        if not self._is_busy:
            self._begin()

    def _look(self) -> None:
        if self._notes or not self._had_company or len(self._waiting) >= self._costs.batch:
            self._begin()
            return
        self._is_gathering = True
        turn = self._turn
        self._clock.after(self._costs.gather_s, lambda: self._end_gathering(turn))

    def _end_gathering(self, turn: int) -> None:
        if self._is_gathering and turn == self._turn:
            self._begin()

    def _begin(self) -> None:
        self._turn += 1
        self._is_gathering, self._is_busy = False, True
        self._was_note = bool(self._notes) and not (self._was_note and self._waiting)
        if self._was_note:
            notes, self._notes = self._notes, []
            seconds = self._costs.decision(0) * self._dice.throw()
            self._cores.work(seconds, lambda: self._finish(notes))
            return
        size = min(len(self._waiting), self._costs.batch)
        batch = [self._waiting.popleft() for _ in range(size)]
        self._had_company = size > 1
        self.decided += size
        self.batches += 1
        seconds = self._costs.decision(size) * self._dice.throw()
        self._cores.work(seconds, lambda: self._scans.scan(size, lambda: self._finish(batch)))

    def _finish(self, done: list[Visit]) -> None:
        self._is_busy = False
        for visit in done:
            visit.end(visit)
        if self._waiting or self._notes:
            self._look()


class Searcher:
    """One thread that scans for all who gathered during the last scan; each is audited then."""

    def __init__(self, scans: Scans, writer: Writer) -> None:
        self._scans, self._writer = scans, writer
        self._waiting: deque[Visit] = deque()
        self._is_busy = False

    def search(self, visit: Visit) -> None:
        """Scans for it in its turn."""
        self._waiting.append(visit)
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        size = min(len(self._waiting), PROBES_AT_ONCE)
        batch = [self._waiting.popleft() for _ in range(size)]
        self._is_busy = bool(batch)
        if batch:
            self._scans.scan(size, lambda: self._finish(batch))

    def _finish(self, batch: list[Visit]) -> None:
        for visit in batch:
            self._writer.note(visit)
        self._begin()


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
