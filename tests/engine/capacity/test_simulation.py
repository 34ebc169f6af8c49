"""The simulation obeys the laws of queueing, and repeats by its seed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simpy import Environment

from engine.capacity.model import Demand, MachineLayout
from engine.capacity.simulation import Cores, Trial, quantile, simulate

SMALL = Trial(requests=4_000, seed=1)


def demand(**changes: float) -> Demand:
    return Demand(**{"faces": 100_000, "enrollments": 50.0, **changes})  # type: ignore[arg-type]


@pytest.fixture
def machine(node) -> MachineLayout:
    return MachineLayout(node=replace(node, cores=4))


def test_a_seed_repeats_its_run(machine, costs) -> None:
    one, same = (simulate(machine, demand(), costs, SMALL) for _ in range(2))
    other = simulate(machine, demand(), costs, replace(SMALL, seed=2))
    assert np.array_equal(one.enroll_s, same.enroll_s)
    assert not np.array_equal(one.enroll_s, other.enroll_s)


def test_without_load_a_latency_is_the_sum_of_its_steps(machine, costs) -> None:
    steady = replace(costs, pair_spread=0, decision_spread=0, scan_spread=0)
    run = simulate(machine, demand(enrollments=0.01), steady, Trial(requests=50))
    scan_s = costs.scan_s(100_000, 1, machine.node)
    assert run.enroll_s == pytest.approx(0.002 + 0.025 / 2 + 0.002 + 0.0045 + scan_s, rel=1e-6)
    run = simulate(machine, demand(enrollments=0, searches=0.01), steady, Trial(requests=50))
    # One photograph, which two threads cannot share, and an audit entry in place of a decision.
    assert run.search_s == pytest.approx(0.002 + 0.014 + 0.002 + scan_s + 0.004, rel=1e-6)
    assert len(run.enroll_s) == 0


def test_the_rate_of_answers_is_that_of_arrivals_and_cores_are_busy_accordingly(
    machine, costs
) -> None:
    run = simulate(machine, demand(enrollments=60), costs, Trial(requests=12_000))
    assert run.rate == pytest.approx(60, rel=0.05)
    assert run.refused == 0
    scan_core_s = 1e5 * (costs.stream_s + costs.probe_s)
    lone = 60 * (costs.enrollment_s() + costs.decision(1) + scan_core_s) / 4
    # Together they cost less, since a call's own part is shared.
    assert 0.8 * lone < run.ingress <= 1.02 * lone


def test_overload_is_refused_and_the_others_are_not_late(machine, costs) -> None:
    run = simulate(machine, demand(enrollments=600), costs, Trial(requests=3_000, max_ongoing=8))
    assert run.refused > 0.5
    assert run.rate < 4 / (costs.http_s + costs.photographs.item_s)
    assert quantile(run.enroll_s, 0.99) < 1
    unbound = Trial(requests=1_500)
    assert quantile(simulate(machine, demand(enrollments=600), costs, unbound).enroll_s, 0.99) > 5


def share_cores(cores: int, *tasks: tuple[float, float, int]) -> tuple[list[float], float]:
    """When each task (start, seconds, threads) ends, and the core-seconds of all."""
    env = Environment()
    shared = Cores(env, cores)
    ends = [0.0] * len(tasks)

    def work(place: int, start: float, seconds: float, threads: int) -> Any:
        yield env.timeout(start)
        yield shared.work(seconds, threads)
        ends[place] = env.now

    for place, task in enumerate(tasks):
        env.process(work(place, *task))
    env.run()
    return ends, shared.busy_s


@pytest.mark.parametrize(
    ("cores", "tasks", "ends"),
    [
        # Each has a core of its own.
        (2, [(0, 1, 1), (0.5, 2, 1)], [1, 2.5]),
        # Two on one core take twice as long.
        (1, [(0, 1, 1), (0, 1, 1)], [2, 2]),
        # The second comes when half of the first is done, and both end later for it.
        (1, [(0, 1, 1), (0.5, 1, 1)], [1.5, 2]),
        # Two threads and one on two cores: each thread has two thirds of a core.
        (2, [(0, 1, 2), (0, 1, 1)], [1.5, 1.5]),
    ],
)
def test_threads_share_the_cores_evenly(
    cores: int, tasks: list[tuple[float, float, int]], ends: list[float]
) -> None:
    found, busy = share_cores(cores, *tasks)
    assert found == pytest.approx(ends)
    assert busy == pytest.approx(sum(seconds * threads for _, seconds, threads in tasks))
