"""Queues by formula: servers that each have a line, and one that takes whatever has gathered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

# Distributions of a time on a grid, added up stage by stage.

GRID = 4096
JITTERS = 9
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """Masses float64[GRID] at multiples of `step_s`; the last one is of everything from there on.

    Stages are taken as independent of each other.
    """

    step_s: float
    masses: NDArray[np.float64]

    @classmethod
    def of(cls, seconds: NDArray[np.float64], weights: NDArray[np.float64], step_s: float) -> Self:
        """Moments with their weights, which need not add up to one."""
        places = np.minimum(np.rint(seconds / step_s), GRID - 1).astype(np.int64)
        masses = np.bincount(places.ravel(), weights.ravel(), GRID)
        return cls(step_s, masses / masses.sum())

    @classmethod
    def constant(cls, seconds: float, step_s: float) -> Self:
        return cls.of(np.array([seconds]), np.ones(1), step_s)

    def plus(self, other: Times) -> Times:
        """The sum of two independent times."""
        assert self.step_s == other.step_s
        size = 2 * GRID
        spectrum = np.fft.rfft(self.masses, size) * np.fft.rfft(other.masses, size)
        summed = np.fft.irfft(spectrum, size)
        masses = summed[:GRID].clip(0)
        masses[-1] += summed[GRID:].sum()
        return Times(self.step_s, masses / masses.sum())

    def jittered(self, spread: float) -> Times:
        """Each time a log-normal factor of mean 1 longer or shorter."""
        if spread <= 0:
            return self
        factors = jitters(spread)
        seconds = np.outer(factors, np.arange(GRID) * self.step_s)
        weights = np.tile(self.masses, (JITTERS, 1))
        # What lay beyond the grid stays there.
        seconds[:, -1] = GRID * self.step_s
        return Times.of(seconds, weights, self.step_s)

    def quantile(self, share: float) -> float:
        """In seconds; infinite where it lies beyond the grid."""
        place = int(np.searchsorted(np.cumsum(self.masses), share - 1e-12))
        return math.inf if place >= GRID - 1 else place * self.step_s


def jitters(spread: float) -> NDArray[np.float64]:
    """Equally likely factors, float64[JITTERS], of mean 1."""
    shares = (np.arange(JITTERS) + 0.5) / JITTERS
    factors = np.exp(spread * np.array([_NORMAL.inv_cdf(share) for share in shares.tolist()]))
    return np.asarray(factors / factors.mean(), np.float64)


def slowest_of(count: int, spread: float) -> float:
    """How many times as long as one the slowest of so many takes: the median of the greatest."""
    if count <= 1:
        return 1.0
    return math.exp(spread * _NORMAL.inv_cdf(0.5 ** (1 / count)))


MOMENTS = 16
"""Of a batch's time at which somebody may come, in the sum over all of them."""
_MOMENTS = (np.arange(MOMENTS) + 0.5) / MOMENTS
_SHARE = 1e-7
_SPARE_STATES = 40
_SETTLED, _MOST_STEPS = 1e-9, 5_000


def erlang_c(servers: int, load: float) -> float:
    """The share of those who find all of so many servers at work, of `load` of them (Erlang)."""
    if load >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


def slowdown(cores: int, load: float) -> float:
    """How many times as long work takes where `load` cores' work shares so many (M/M/c-PS)."""
    return math.inf if load >= cores else 1 + erlang_c(cores, load) / (cores - load)


def join_shortest(
    servers: int,
    load: float,
    rate: float,
    batch_s: Callable[[float], float],
    most: int,
    step_s: float,
    regularity: float = 1.0,
) -> Times | None:
    """Wait and service at servers that each take all of their own line, up to `most` at once;
    whoever comes joins the shortest. None where they never catch up.

    Who finds a free one is served alone. Who finds none, as often as Erlang's C says, waits for
    what is left of a service, then is served with whom else came. `rate` is of arrivals at all
    servers; `regularity` 1 for Poisson arrivals, less for regular ones (Allen and Cunneen: the
    mean of the squared coefficients of variation, of arrivals and service), of whom as many fewer
    wait and find company.
    """
    if load >= servers:
        return None
    alone_s = batch_s(1)
    waits = erlang_c(servers, load) * regularity
    gathered = rate / servers * alone_s * regularity
    count = _count_states(gathered, most, 0.0)
    company = _poisson(np.array([gathered]), count)[0]
    together_s = np.array([batch_s(float(min(one + 1, most))) for one in range(count)])
    waited_s = alone_s * _MOMENTS[:, None] + together_s
    seconds = np.append(waited_s.ravel(), alone_s)
    weights = np.append(np.tile(company, MOMENTS) * waits / MOMENTS, 1 - waits)
    return Times.of(seconds, weights, step_s)


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """A queue whose one server takes all that has gathered, up to a batch.

    `latency` is from arrival to the end of one's batch; `left` is what is left of a batch for
    whoever looks in at any moment, 0 while it idles; `batch` the mean size, `busy` the share of
    time.
    """

    latency: Times
    left: Times
    batch: float
    busy: float


def serve_batches(
    rate: float,
    batch_s: Callable[[float], float],
    most: int,
    step_s: float,
    gather_s: float = 0.0,
) -> Batches | None:
    """Such a queue with Poisson arrivals, by its embedded Markov chain; None where it never
    catches up.

    `batch_s` is the time of a batch of so many, at most `most`; after one of several `gather_s`
    passes before the next. States of the chain are how many wait when a batch ends.
    """
    work_s = np.array([batch_s(float(size)) for size in range(1, most + 1)])
    utilisation = rate * float(work_s[-1]) / most
    if utilisation >= 1:
        return None
    if rate <= 0:
        lone, none = Times.constant(float(work_s[0]), step_s), Times.constant(0.0, step_s)
        return Batches(lone, none, batch=1.0, busy=0.0)
    states = _count_states(rate * (float(work_s[-1]) + gather_s), most, utilisation)
    waiting = np.arange(states)
    sizes = np.clip(waiting, 1, most)
    left = np.maximum(waiting - sizes, 0)
    cycle_s = work_s[sizes - 1] + np.where(sizes > 1, gather_s, 0.0)
    arrivals = _poisson(rate * cycle_s, states)
    stationary = _find_stationary(arrivals, left)
    spent, idle = stationary * cycle_s, float(stationary[0]) / rate
    seconds, weights = _list_latencies(spent, left, cycle_s, work_s, arrivals)
    return Batches(
        latency=Times.of(np.append(seconds, work_s[0]), np.append(weights, idle), step_s),
        left=Times.of(
            np.append(np.outer(cycle_s, _MOMENTS).ravel(), 0.0),
            np.append(np.repeat(spent / MOMENTS, MOMENTS), idle),
            step_s,
        ),
        batch=float(stationary @ sizes),
        busy=float(stationary @ work_s[sizes - 1]) / (float(spent.sum()) + idle),
    )


def _count_states(arrivals: float, most: int, utilisation: float) -> int:
    """As many as may matter: those that come in a batch's time, and some full batches more where
    it is busy."""
    spread = arrivals + 8 * math.sqrt(arrivals) + _SPARE_STATES
    backlog = most * utilisation / (1 - utilisation) if utilisation > 0.5 else 0.0
    return int(spread + min(backlog, 3 * most)) + 1


def _poisson(means: NDArray[np.float64], states: int) -> NDArray[np.float64]:
    """float64[len(means), states]: how likely so many come; the last is of more, too."""
    counts = np.arange(states)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, states)))])
    logs = counts * np.log(np.maximum(means, 1e-300))[:, None] - means[:, None] - factorials
    masses = np.exp(logs)
    masses[:, -1] += np.maximum(1 - masses.sum(axis=1), 0.0)
    return np.asarray(masses / masses.sum(axis=1, keepdims=True), np.float64)


def _find_stationary(arrivals: NDArray[np.float64], left: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64[states]: how often so many wait when a batch ends; `left` were left behind by it."""
    states = len(left)
    moves = np.zeros((states, states))
    for state, behind in enumerate(left.tolist()):
        moves[state, behind:] = arrivals[state, : states - behind]
        moves[state, -1] += arrivals[state, states - behind :].sum()
    found = np.full(states, 1 / states)
    for _ in range(_MOST_STEPS):
        before, found = found, found @ moves
        if np.abs(found - before).sum() < _SETTLED:
            break
    return np.asarray(found / found.sum(), np.float64)


def _list_latencies(
    spent: NDArray[np.float64],
    left: NDArray[np.int64],
    cycle_s: NDArray[np.float64],
    work_s: NDArray[np.float64],
    arrivals: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Latencies of those who come during a batch, and their weights: flat arrays.

    The next batch has those left behind, the newcomer, and whoever else came in the same time.
    """
    most = len(work_s)
    seconds, weights = [], []
    for state in np.flatnonzero(spent > _SHARE * spent.sum()).tolist():
        others = np.flatnonzero(arrivals[state] > _SHARE)
        size = np.minimum(left[state] + 1 + others, most)
        before = np.rint(left[state] + np.outer(_MOMENTS, others))
        rest_s = cycle_s[state] * (1 - _MOMENTS)
        total_s = rest_s[:, None] + work_s[size - 1] + (before // most) * work_s[-1]
        seconds.append(total_s.ravel())
        weights.append(np.tile(arrivals[state, others], MOMENTS) * (spent[state] / MOMENTS))
    return np.concatenate(seconds), np.concatenate(weights)
