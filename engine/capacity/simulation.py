"""Discrete-event simulation (SimPy) of the service's queues: the latencies of a layout."""

import math
from collections.abc import Generator, Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
from simpy import Environment, Event, Resource, Timeout

from engine.capacity import EXTRACTING_THREADS
from engine.capacity.model import (
    PAIRS_AT_ONCE,
    PROBES_AT_ONCE,
    SEARCH_PAIRS,
    Costs,
    Demand,
    MachineLayout,
)
from indexes.base import Doubles, Ints
from schema import frozen

WARM_SHARE = 0.1
"""Share of the requests, at the beginning, that are not counted."""
_EQUAL = 1e-9
_MOST_MOVES = 2**40

Steps = Generator[Event, Any, None]
"""A process of SimPy."""


@frozen(kw_only=True)
class Trial:
    """Load of a simulation: Poisson arrivals."""

    requests: int = 20_000
    seed: int = 0
    max_ongoing: int = 0
    """Enrollments at once for each ingress, of which more are refused (429); 0: no limit."""


@frozen(eq=False)
class SimulatedRun:
    """Latencies in seconds since a request was due, float64[n].

    `*_inner_s`: only the part behind the ingress. `rate`: answers per second; `refused`: share of
    enrollments refused; `ingress`: share of time that the ingress cores were busy.
    """

    enroll_s: Doubles
    search_s: Doubles
    enroll_inner_s: Doubles
    search_inner_s: Doubles
    rate: float
    refused: float
    ingress: float


def quantile(times_s: Doubles, share: float) -> float:
    """The quantile; NaN without times."""
    return float(np.quantile(times_s, share)) if len(times_s) else math.nan


def simulate(layout: MachineLayout, demand: Demand, costs: Costs, trial: Trial) -> SimulatedRun:
    """Simulate a layout under a demand; the same seed gives the same run."""
    return _Service(layout, demand, costs, trial).run()


class Cores:
    """Cores shared equally by tasks of one or more threads (processor sharing).

    All threads run equally fast, at full speed while there is a core for each. So one progress
    counter serves all: a task ends when the counter has grown by the task's seconds.
    """

    def __init__(self, env: Environment, cores: int) -> None:
        self._env = env
        self._cores = cores
        self._threads = 0
        self._progress = 0.0
        self._updated = 0.0
        self._tasks: list[tuple[float, int, int, Event]] = []
        self._numbers = count()
        self._next: Timeout | None = None
        self.busy_s = 0.0
        """Core-seconds so far."""

    def work(self, seconds: float, threads: int = 1) -> Event:
        """Event when each of the threads has had `seconds` of a core."""
        self._advance()
        done = self._env.event()
        heappush(self._tasks, (self._progress + seconds, next(self._numbers), threads, done))
        self._threads += threads
        self._await_next()
        return done

    def _speed(self) -> float:
        return min(1.0, self._cores / self._threads)

    def _advance(self) -> None:
        passed = self._env.now - self._updated
        self._updated = self._env.now
        if self._threads:
            self._progress += passed * self._speed()
        self.busy_s += passed * min(self._threads, self._cores)

    def _await_next(self) -> None:
        left = max(self._tasks[0][0] - self._progress, 0.0)
        self._next = self._env.timeout(left / self._speed())
        self._next.callbacks.append(self._end)

    def _end(self, event: Event) -> None:
        if event is not self._next:
            return  # another task has arrived since, and a new timeout is set
        self._advance()
        while self._tasks and self._tasks[0][0] <= self._progress + _EQUAL:
            _, _, threads, done = heappop(self._tasks)
            self._threads -= threads
            done.succeed()
        if self._tasks:
            self._await_next()


def _draw_factors(rng: np.random.Generator, spread: float) -> Iterator[float]:
    """Log-normal factors of mean 1."""
    while True:
        yield from np.exp(rng.normal(-(spread**2) / 2, spread, 4096))[::-1].tolist()


class _Queue:
    """Queue of requests for a worker; each is an event that the worker triggers."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._arrival: Event | None = None
        self.waiting: list[tuple[float, Event]] = []

    def put(self, size: float = 1.0) -> Event:
        done = self._env.event()
        self.waiting.append((size, done))
        self.wake()
        return done

    def wake(self) -> None:
        if self._arrival is not None:
            self._arrival.succeed()
            self._arrival = None

    def arrival(self) -> Event:
        """Event of the next `put` or `wake`."""
        if self._arrival is None:
            self._arrival = self._env.event()
        return self._arrival

    def take(self, limit: float) -> list[tuple[float, Event]]:
        """Remove requests from the head, up to a total size of `limit`."""
        size, stop = 0.0, 0
        while stop < len(self.waiting) and size + self.waiting[stop][0] <= limit:
            size += self.waiting[stop][0]
            stop += 1
        taken, self.waiting = self.waiting[:stop], self.waiting[stop:]
        return taken


class _Service:
    """Processes of a layout: ingresses, the writer, and the thread of the searches."""

    def __init__(self, layout: MachineLayout, demand: Demand, costs: Costs, trial: Trial) -> None:
        self._layout, self._demand, self._costs, self._trial = layout, demand, costs, trial
        self._rng = np.random.default_rng(trial.seed)
        self._env = env = Environment()
        self._front = Cores(env, layout.ingress_cores)
        self._registrar = self._front if layout.is_one_machine else Cores(env, layout.node.cores)
        self._scanning = Cores(env, layout.node.cores) if layout.shards else self._registrar
        spreads = (costs.pair_spread, costs.decision_spread, costs.scan_spread)
        self._pairs, self._steps, self._passes = (_draw_factors(self._rng, one) for one in spreads)
        self._ingresses = [_Queue(env) for _ in range(layout.ingress_cores)]
        # Enrollments and searches in progress at each ingress that is sent them; ties go to the one
        # that has had as many longest.
        cores, ends = layout.node.cores, range(layout.ingress_cores)
        enrolling = -(-cores // EXTRACTING_THREADS)
        self._enrolling_at = [place for place in ends if place % cores < enrolling]
        self._loads = (np.arange(len(self._enrolling_at)), np.arange(layout.ingress_cores))
        self._moves = count(layout.ingress_cores)
        self._searches = _Queue(env)
        self._enrollments = _Queue(env)
        self._audits: list[tuple[float, Event]] = []
        self._max_ongoing = trial.max_ongoing * layout.ingress_cores or math.inf
        self._came = self._refused = self._enrolling = 0
        self._answers: list[tuple[float, float, float, bool]] = []
        self._is_over = env.event()

    def run(self) -> SimulatedRun:
        env, demand = self._env, self._demand
        for ingress in self._ingresses:
            env.process(self._extract(ingress))
        env.process(self._write())
        env.process(self._search())
        for rate, is_search in ((demand.enrollments, False), (demand.searches, True)):
            if rate > 0:
                env.process(self._arrive(rate, is_search=is_search))
        env.run(until=self._is_over)
        return self._summarize()

    def _arrive(self, rate: float, *, is_search: bool) -> Steps:
        while True:
            yield self._env.timeout(float(self._rng.exponential(1 / rate)))
            self._came += not is_search
            if not is_search and self._enrolling >= self._max_ongoing:
                self._refused += 1
                self._end_when_enough()
            else:
                self._env.process(self._serve(is_search=is_search))

    def _serve(self, *, is_search: bool) -> Steps:
        """One request, from when it is due to its answer."""
        env, costs = self._env, self._costs
        due = env.now
        self._enrolling += not is_search
        load = self._loads[is_search]
        place = int(load.argmin())
        self._move(load, place, 1)
        ingress = self._ingresses[place if is_search else self._enrolling_at[place]]
        yield self._front.work(costs.http_s * next(self._pairs))
        yield ingress.put(SEARCH_PAIRS if is_search else 1.0)
        yield env.timeout(costs.hop_s / 2)
        asked = env.now
        yield (self._searches if is_search else self._enrollments).put()
        yield env.timeout(costs.hop_s / 2)
        self._move(load, place, -1)
        self._enrolling -= not is_search
        self._answers.append((due, asked, env.now, is_search))
        self._end_when_enough()

    def _move(self, load: Ints, place: int, step: int) -> None:
        ongoing = int(load[place]) // _MOST_MOVES + step
        load[place] = ongoing * _MOST_MOVES + next(self._moves)

    def _end_when_enough(self) -> None:
        if len(self._answers) + self._refused == self._trial.requests:
            self._is_over.succeed()

    def _extract(self, queue: _Queue) -> Steps:
        """An ingress: its threads share all queued pairs, on shared cores; the next batch begins as
        soon as one of them is free."""
        env, node = self._env, self._layout.node
        threads = Resource(env, min(EXTRACTING_THREADS, node.cores))
        while True:
            if not queue.waiting:
                yield queue.arrival()
            with threads.request() as free:
                yield free
            batch = queue.take(PAIRS_AT_ONCE)
            seconds, shares = self._costs.extraction_s(sum(size for size, _ in batch), node)
            chunks = [env.process(self._extract_chunk(threads, seconds)) for _ in range(shares)]
            env.process(_end_after(env.all_of(chunks), batch))
            # They ask for their threads before the next batch does.
            yield env.timeout(0)

    def _extract_chunk(self, threads: Resource, seconds: float) -> Steps:
        with threads.request() as free:
            yield free
            yield self._front.work(seconds * next(self._pairs))

    def _search(self) -> Steps:
        """The thread that scans for all queued searches together; they are audited afterwards."""
        while True:
            if not self._searches.waiting:
                yield self._searches.arrival()
            batch = self._searches.take(PROBES_AT_ONCE)
            yield from self._scan(len(batch))
            self._audits += batch
            self._enrollments.wake()

    def _write(self) -> Steps:
        """The registrar's thread: batches of queued enrollments alternate with audit entries."""
        queue, costs = self._enrollments, self._costs
        was_audit = False
        while True:
            if not queue.waiting and not self._audits:
                yield queue.arrival()
            was_audit = bool(self._audits) and not (was_audit and queue.waiting)
            if was_audit:
                batch, self._audits = self._audits, []
                yield self._registrar.work(costs.decision(0) * next(self._steps))
            else:
                batch = queue.take(costs.batch)
                yield self._registrar.work(costs.decision(len(batch)) * next(self._steps))
                yield from self._scan(len(batch))
            _end(batch)

    def _scan(self, probes: int) -> Steps:
        """One pass over the gallery with all cores of a machine, or of the slowest shard.

        The maximum of many log-normal times varies less than each: its median is taken.
        """
        node, layout, costs = self._layout.node, self._layout, self._costs
        references = layout.references_per_scanner(self._demand.faces)
        factor = costs.slowest_of(layout.shards) if layout.shards else next(self._passes)
        seconds = costs.scan_s(references, probes, node) * factor
        yield self._scanning.work(seconds, threads=node.cores)
        if layout.shards:
            yield self._env.timeout(costs.fan_out_s)

    def _summarize(self) -> SimulatedRun:
        # Some requests are answered at the very time of the end.
        counted = self._trial.requests - self._refused
        kept = np.array(self._answers[int(counted * WARM_SHARE) : counted])
        assert len(kept), "a run has answers"
        due, asked, answered, searches = *kept.T[:3], kept[:, 3] > 0
        seconds = answered[-1] - answered[0]
        return SimulatedRun(
            enroll_s=(answered - due)[~searches],
            search_s=(answered - due)[searches],
            enroll_inner_s=(answered - asked)[~searches],
            search_inner_s=(answered - asked)[searches],
            rate=float((len(kept) - 1) / seconds) if seconds > 0 else math.nan,
            refused=self._refused / self._came if self._came else 0.0,
            ingress=self._front.busy_s / (self._env.now * self._layout.ingress_cores),
        )


def _end_after(done: Event, batch: list[tuple[float, Event]]) -> Steps:
    yield done
    _end(batch)


def _end(batch: list[tuple[float, Event]]) -> None:
    for _, done in batch:
        done.succeed()
