"""The simulation keeps the laws that every queue keeps, and its own seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.capacity.costs import Costs, Node
from engine.capacity.demand import Demand
from engine.capacity.layout import Layout
from engine.capacity.simulation import Trial, simulate

SMALL = Trial(requests=4_000, seed=1)


def demand(**changes: float) -> Demand:
    return Demand(**{"faces": 100_000, "enrollments": 50.0, **changes})  # type: ignore[arg-type]


@pytest.fixture
def machine(node: Node) -> Layout:
    return Layout(node=replace(node, cores=4))


def test_a_seed_repeats_its_run(machine: Layout, costs: Costs) -> None:
    one, same = (simulate(machine, demand(), costs, SMALL) for _ in range(2))
    other = simulate(machine, demand(), costs, replace(SMALL, seed=2))
    assert np.array_equal(one.enroll_s, same.enroll_s)
    assert not np.array_equal(one.enroll_s, other.enroll_s)


def test_where_nobody_waits_an_answer_takes_the_sum_of_its_steps(
    machine: Layout, costs: Costs
) -> None:
    steady = replace(costs, pair_spread=0, decision_spread=0, scan_spread=0)
    run = simulate(machine, demand(enrollments=0.01), steady, Trial(requests=50, is_even=True))
    scan_s = costs.scan_s(100_000, 1, machine.node)
    assert run.enroll_s == pytest.approx(0.002 + 0.025 + 0.002 + 0.0045 + scan_s, rel=1e-6)
    run = simulate(
        machine, demand(enrollments=0, searches=0.01), steady, Trial(requests=50, is_even=True)
    )
    # Half a pair of photographs, and an audit entry in place of a decision.
    assert run.search_s == pytest.approx(0.002 + 0.014 + 0.002 + scan_s + 0.004, rel=1e-6)
    assert len(run.enroll_s) == 0


def test_answers_come_as_often_as_people_and_cores_work_for_each_of_them(
    machine: Layout, costs: Costs
) -> None:
    run = simulate(machine, demand(enrollments=60), costs, Trial(requests=12_000))
    assert run.rate == pytest.approx(60, rel=0.05)
    assert run.refused == 0
    lone = 60 * (costs.enrollment_s() + costs.decision(1) + costs.scan_core_s(1e5, 1)) / 4
    # Together they cost less, since a call's own part is shared.
    assert 0.8 * lone < run.ingress <= 1.02 * lone


def test_who_finds_the_service_full_is_refused_and_the_others_are_not_late(
    machine: Layout, costs: Costs
) -> None:
    run = simulate(machine, demand(enrollments=600), costs, Trial(requests=3_000))
    assert run.refused > 0.5
    assert run.rate < 4 / (costs.http_s + costs.photographs.item_s)
    assert run.quantile(0.99) < 1
    unbound = Trial(requests=1_500, most_ongoing=0)
    assert simulate(machine, demand(enrollments=600), costs, unbound).quantile(0.99) > 5


def test_a_closed_loop_is_as_fast_as_the_cores(machine: Layout, costs: Costs) -> None:
    few = simulate(machine, demand(), costs, Trial(requests=2_000, connections=1))
    full = simulate(machine, demand(), costs, Trial(requests=4_000, connections=20))
    # One at a time: the rate is the inverse of its latency.
    assert few.rate == pytest.approx(1 / float(few.enroll_s.mean()), rel=0.01)
    assert 3 * few.rate < full.rate < 4 / (costs.http_s + costs.photographs.item_s)
    assert full.ingress > 0.85


def test_nobody_drops_out_of_a_closed_loop(machine: Layout, costs: Costs) -> None:
    """More connections than the service takes at once: all of them are played (Little's law)."""
    trial = Trial(requests=6_000, connections=60, most_ongoing=5)
    run = simulate(machine, demand(), costs, trial)
    assert run.refused == 0
    assert run.rate * float(run.enroll_s.mean()) == pytest.approx(60, rel=0.02)


def test_the_writer_decides_together_what_comes_together(node: Node, costs: Costs) -> None:
    layout = Layout(node=node, ingress_nodes=8)
    calm = simulate(layout, demand(enrollments=20), costs, SMALL)
    rush = simulate(layout, demand(enrollments=900), costs, SMALL)
    assert calm.batch < 1.3
    assert rush.batch > 8


def test_scans_of_searches_slow_decisions(node: Node, costs: Costs) -> None:
    layout = Layout(node=node, ingress_nodes=2, shards=4)
    large = demand(faces=400_000_000, enrollments=20)
    quiet = simulate(layout, large, costs, SMALL)
    busy = simulate(layout, replace(large, searches=20), costs, SMALL)
    assert busy.quantile(0.5) > 1.1 * quiet.quantile(0.5)
