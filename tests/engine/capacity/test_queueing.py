"""Queues by formula, held against known results and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.capacity.queueing import erlang_c, join_shortest, serve_batches, slowdown

STEP = 1e-4


@pytest.mark.parametrize(
    ("servers", "load", "share"), [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (3, 2.0, 4 / 9), (4, 0.0, 0.0)]
)
def test_erlangs_c_is_what_the_tables_say(servers: int, load: float, share: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(share)


def test_cores_that_are_asked_for_more_than_there_is_never_end() -> None:
    assert erlang_c(2, 2.0) == 1
    assert slowdown(2, 2.0) == math.inf
    assert slowdown(8, 0.1) == pytest.approx(1, abs=1e-6)
    # One core, half of it taken: processor sharing makes everything take twice as long.
    assert slowdown(1, 0.5) == pytest.approx(2)


def test_alone_nobody_waits() -> None:
    queue = serve_batches(1e-6, lambda size: 0.005 + 0.001 * size, 32, STEP)
    assert queue is not None
    assert queue.latency.quantile(0.99) == pytest.approx(0.006, abs=STEP)
    assert queue.batch == pytest.approx(1, abs=1e-3)
    served = join_shortest(4, 1e-6, 1e-6, lambda size: 0.02 * size, 8, STEP)
    assert served is not None
    assert served.quantile(0.99) == pytest.approx(0.02, abs=STEP)


def test_who_comes_regularly_waits_more_seldom_and_with_fewer_others() -> None:
    tails = []
    for regularity in (0.0, 0.1, 1.0):
        served = join_shortest(2, 1.4, 35.0, lambda size: 0.04 * size, 8, STEP, regularity)
        assert served is not None
        tails.append(served.quantile(0.99))
    even, almost, poisson = tails
    assert even == pytest.approx(0.04, abs=STEP)
    assert 0.04 < almost < 0.08 < poisson, "one's own service, and what is left of another"


@pytest.mark.parametrize(("rate", "most"), [(60.0, 32), (400.0, 32), (700.0, 32), (150.0, 4)])
def test_a_server_of_batches_is_what_playing_it_gives(rate: float, most: int) -> None:
    """Played here without the simulation's events: a queue, a clock, one server."""

    def batch_s(size: float) -> float:
        return 0.01 + 0.0006 * size

    queue = serve_batches(rate, batch_s, most, STEP)
    assert queue is not None
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(1 / rate, 60_000))
    now, place, took, sizes = 0.0, 0, [], []
    while place < len(arrivals):
        now = max(now, float(arrivals[place]))
        end = min(int(np.searchsorted(arrivals, now, side="right")), place + most)
        now += batch_s(end - place)
        took.append(now - arrivals[place:end])
        sizes.append(end - place)
        place = end
    played = np.concatenate(took)
    assert queue.batch == pytest.approx(np.mean(sizes), rel=0.03)
    assert queue.latency.quantile(0.5) == pytest.approx(np.quantile(played, 0.5), rel=0.05)
    assert queue.latency.quantile(0.99) == pytest.approx(np.quantile(played, 0.99), rel=0.08)


def test_what_never_catches_up_has_no_latency() -> None:
    assert serve_batches(1001.0, lambda size: 0.001 * size, 32, STEP) is None
    assert join_shortest(2, 2.0, 100.0, lambda size: 0.02 * size, 8, STEP) is None


def test_more_arrivals_are_never_answered_sooner() -> None:
    medians = []
    for rate in (1.0, 20.0, 100.0, 300.0, 600.0):
        queue = serve_batches(rate, lambda size: 0.01 + 0.001 * size, 32, STEP, 0.015)
        assert queue is not None
        medians.append(queue.latency.quantile(0.9))
    assert medians == sorted(medians)
