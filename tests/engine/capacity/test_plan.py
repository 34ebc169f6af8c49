"""A plan is large enough, lists its assumptions, and claims no more than is known."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from engine.capacity.figures import USUAL, MeasuredMachine, PlanFigures, Quantity, VectorKind
from engine.capacity.model import (
    Affine,
    Costs,
    Demand,
    MachineLayout,
    Node,
    Use,
    Waits,
    assume_node,
)
from engine.capacity.planning import (
    MAX_REFUSED,
    CapacityPlan,
    Planning,
    Shortfall,
    Simulated,
    Sizing,
    expect_candidates,
)
from engine.capacity.simulation import Trial, simulate
from engine.errors import RequestError
from tests.engine.curves import make_curve

FIGURES = PlanFigures(MeasuredMachine("Test", 2, 24 << 30), USUAL, {})
COSTS = Costs.of(FIGURES)
NODE = Node(cores=32, memory_bytes=256 << 30, bandwidth_bytes_s=200e9)
CURVE = make_curve([(1e-4, 1e-4)], below=1.0, above=1.0)
FEW = settings(max_examples=5, deadline=None)
SHORT = Trial(requests=2_000)

faces = st.integers(3, 9).flatmap(lambda power: st.integers(10**power, 2 * 10**power))
arrivals = st.floats(0.1, 150)


def choose(demand: Demand) -> tuple[MachineLayout, Simulated]:
    return Planning(demand, COSTS, FIGURES, NODE, SHORT).choose_layout()


def plan_for(
    demand: Demand, node: Node = NODE, trial: Trial = SHORT, copies: int = 1
) -> CapacityPlan:
    candidates = expect_candidates(demand.faces, demand.enrollments, CURVE, 1e-4)
    return Planning(demand, COSTS, FIGURES, node, trial, copies).make_plan(candidates)


def size_for(demand: Demand, **options: Any) -> Sizing:
    sizing = plan_for(demand, **options).sizing
    assert sizing is not None
    return sizing


def test_a_small_gallery_under_high_load_is_not_split() -> None:
    """The writer would be too slow if it had to ask a shard for each batch."""
    demand = Demand(faces=1_000, enrollments=650)
    layout, _ = choose(demand)
    assert (layout.is_one_machine, layout.shards) == (False, 0)
    assert Use.of(replace(layout, shards=1), demand, COSTS).writer > demand.ceiling


@pytest.mark.parametrize("count", [10**6, 4 * 10**8])
def test_more_arrivals_never_need_fewer_machines(count: int) -> None:
    chosen = [
        choose(Demand(faces=count, enrollments=rate, searches=rate / 10))[0]
        for rate in (5, 60, 140)
    ]
    for wanted in ("nodes", "ingress_nodes", "shards"):
        numbers = [getattr(layout, wanted) for layout in chosen]
        assert numbers == sorted(numbers), wanted


@FEW
@given(faces=faces, rate=arrivals, ceiling=st.floats(0.3, 0.9))
def test_nothing_is_busier_than_the_ceiling_and_the_objectives_hold_in_the_simulation(
    faces: int, rate: float, ceiling: float
) -> None:
    demand = Demand(faces=faces, enrollments=rate, searches=rate / 20, ceiling=ceiling)
    try:
        layout, simulated = choose(demand)
    except Shortfall:
        reject()
    use = Use.of(layout, demand, COSTS)
    assert max(use.ingress, use.writer, use.scanner) <= ceiling < 1
    assert simulated.enroll.p50_s <= simulated.enroll.p99_s <= demand.enroll_p99_s
    assert simulated.search is None or simulated.search.p99_s <= demand.search_p99_s


@pytest.mark.parametrize(
    "demand",
    [
        Demand(faces=100_000, enrollments=5, searches=1),
        Demand(faces=1_000_000, enrollments=200, enroll_p99_s=0.3),
        Demand(faces=400_000_000, enrollments=40, searches=2),
    ],
    ids=("small", "busy", "sharded"),
)
def test_what_is_planned_holds_under_another_seed_too(demand: Demand) -> None:
    layout = size_for(demand, trial=Trial(requests=4_000, seed=4)).layout
    trial = Trial(requests=4_000, seed=5)
    assert Simulated.of(simulate(layout, demand, COSTS, trial), trial).holds(demand)


def test_a_gallery_of_a_country_is_sharded_and_each_shard_has_a_snapshot() -> None:
    demand = Demand(faces=1_600_000_000, enrollments=100)
    sizing = size_for(demand)
    layout, disk, memory = sizing.layout, sizing.disk, sizing.memory
    assert layout.shards >= 1_600_000_000 * 722 * 2 / NODE.usable_bytes
    assert disk.snapshot_bytes == pytest.approx(2 * 1.6e9 * 652)
    assert disk.store_bytes == pytest.approx(1.6e9 * (1670 + 3000))
    assert memory.gallery_bytes == pytest.approx(1.6e9 * 722)
    twice = size_for(demand, copies=2)
    assert twice.layout == replace(layout, copies=2)
    assert twice.layout.nodes - layout.nodes == layout.shards
    assert twice.memory.gallery_bytes == 2 * memory.gallery_bytes
    assert twice.memory.gallery_peak_bytes == 2 * memory.gallery_peak_bytes
    assert twice.memory.fullest_node_bytes == memory.fullest_node_bytes
    assert twice.disk.snapshot_bytes == 2 * disk.snapshot_bytes
    assert twice.memory.total_bytes > memory.total_bytes + memory.gallery_peak_bytes
    assert any("two copies" in line for line in plan_for(demand, copies=2).assumptions)
    small = size_for(Demand(faces=1_000_000, enrollments=1), copies=2)
    assert small.memory.gallery_bytes == pytest.approx(1e6 * 722)
    assert small.layout.is_one_machine
    assert small.disk.snapshot_bytes > 0


def test_a_lost_shard_is_built_alone_and_a_registrar_finds_the_others() -> None:
    layout = MachineLayout(node=NODE, ingress_nodes=1, shards=20)
    waits = Waits.of(layout, 10**9, FIGURES)
    assert waits.start_s == pytest.approx(1e9 * (4.1e-6 + 6.7e-6))
    assert waits.lost_shard_s == pytest.approx(1e9 * 4.1e-6 + 5e7 * 6.7e-6)
    assert waits.failover_s == pytest.approx(2.4 + 1e9 * 0.05e-6)
    assert waits.reopen_s == pytest.approx(5e7 * 3e-6)
    assert waits.erasure_s == pytest.approx(5 + 4e6 * (0.5e-6 + 0.94e-6))
    twice = Waits.of(replace(layout, copies=2), 10**9, FIGURES)
    assert twice.lost_shard_s == pytest.approx(2 * (1e9 * 4.1e-6 + 5e7 * 6.7e-6))
    assert replace(twice, lost_shard_s=waits.lost_shard_s) == waits


def test_a_start_of_one_machine_is_that_of_the_whole_service() -> None:
    whole = Waits.of(MachineLayout(node=NODE), 10**6, FIGURES)
    assert (whole.start_s, whole.reopen_s) == pytest.approx((16.6 + 7.7, 16.6 + 3))
    assert whole.failover_s == pytest.approx(3.9 + 3)
    assert whole.lost_shard_s is None


@pytest.mark.parametrize(
    ("demand", "node", "words"),
    [
        (Demand(faces=1_000, enrollments=5_000), NODE, "one writer orders all decisions"),
        (Demand(faces=1_000, enrollments=50, enroll_p99_s=0.03), NODE, "leaves the registrar"),
        (
            Demand(faces=50_000_000_000, enrollments=1),
            replace(NODE, memory_bytes=64 << 30),
            "do not fit 256 shards",
        ),
        (
            Demand(faces=1_600_000_000, enrollments=100),
            replace(NODE, cores=1, bandwidth_bytes_s=10e9),
            "nodes with more cores",
        ),
        (
            Demand(faces=3_000_000_000, enrollments=1, enroll_p99_s=0.11),
            replace(NODE, cores=2, bandwidth_bytes_s=10e9),
            "allow more time",
        ),
    ],
)
def test_a_shortfall_is_explained_in_one_line(demand: Demand, node: Node, words: str) -> None:
    plan = plan_for(demand, node)
    assert plan.sizing is None
    assert words in str(plan.shortfall)
    assert "\n" not in str(plan.shortfall)
    assert json.loads(json.dumps(plan.to_dict()))["feasible"] is False


@pytest.mark.parametrize(
    ("most", "words"),
    [
        (5, "accepts at most 5 enrollments at once"),
        (1, "accepts at most 1 enrollment at once"),
        (0, "no enrollment is refused"),
    ],
)
def test_the_simulated_limit_is_among_the_assumptions(most: int, words: str) -> None:
    trial = Trial(requests=1_000, max_ongoing=most)
    assumptions = plan_for(Demand(faces=1_000, enrollments=1), trial=trial).assumptions
    assert [words in line for line in assumptions].count(True) == 1


def test_where_the_bound_of_an_ingress_would_refuse_enrollments_there_are_more_of_them() -> None:
    demand = Demand(faces=10**7, enrollments=30)
    small = replace(NODE, cores=2, memory_bytes=24 << 30)
    unbound, bound = (
        size_for(demand, node=small, trial=Trial(requests=2_000, max_ongoing=most))
        for most in (0, 2)
    )
    assert bound.layout.ingress_nodes > unbound.layout.ingress_nodes
    assert bound.simulated.refused <= MAX_REFUSED


def test_while_the_writer_waits_for_a_scan_it_takes_no_core_of_its_own() -> None:
    demand = Demand(faces=1_600_000_000, enrollments=100)
    plan = size_for(demand)
    scanning = plan.use.scanner * NODE.cores * plan.layout.shards
    photographing = plan.use.ingress * plan.layout.ingress_cores
    deciding = 100 * COSTS.decision(COSTS.batch) / COSTS.batch
    assert plan.use.busy_cores == pytest.approx(scanning + photographing + deciding)
    assert deciding < plan.use.writer / 3, "most of the writer's time is scans here"


def test_what_is_assumed_of_a_gallery_grows_with_its_vectors() -> None:
    large, half = (
        replace(FIGURES, kind=kind) for kind in (VectorKind(512), VectorKind(128, float_bytes=2))
    )
    # A float, its code and half of that again; 18 bytes whatever the vectors.
    assert FIGURES.value(Quantity.REFERENCE_BYTES) == 128 * 5.5 + 18
    assert large.value(Quantity.REFERENCE_BYTES) == 512 * 5.5 + 18
    assert half.value(Quantity.REFERENCE_BYTES) == 128 * 3.5 + 18
    assert large.value(Quantity.SNAPSHOT_BYTES) == 512 * 5 + 12
    assert large.value(Quantity.ROW_BYTES) == 1670 + 384 * 4
    assert half.value(Quantity.ROW_BYTES) == 1670
    for one in (Quantity.SCAN_ALONE, Quantity.SCAN, Quantity.RESTORE):
        assert large.value(one) == pytest.approx(4 * FIGURES.value(one))
        assert half.value(one) == FIGURES.value(one)
    assert large.value(Quantity.HOP) == FIGURES.value(Quantity.HOP)
    assert "512 floats of 32 bits" in large[Quantity.SNAPSHOT_BYTES].source


@pytest.mark.parametrize(
    "wrong",
    [
        {"faces": 0},
        {"faces": 10**12},
        {"enrollments": -1.0},
        {"enrollments": float("nan")},
        {"enrollments": 0.0},
        {"enroll_p99_s": 0.0},
        {"search_p99_s": float("inf")},
        {"ceiling": 1.0},
    ],
)
def test_a_demand_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError) as caught:
        Demand(**{"faces": 1_000, "enrollments": 1.0, **wrong})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@given(alone=st.floats(1e-9, 1), share=st.floats(1e-9, 1), at=st.integers(2, 256))
def test_a_cost_never_falls_with_more_items(alone: float, share: float, at: int) -> None:
    cost = Affine.through(alone, share, at)
    assert cost.fixed_s >= 0
    assert cost.item_s >= 0
    assert cost(1) >= alone * (1 - 1e-9)
    if at * share >= alone >= share:
        assert cost(1) == pytest.approx(alone)
        assert cost(at) == pytest.approx(at * share)


def test_a_node_reads_as_its_cores_were_seen_to_read_as_far_as_memory_goes() -> None:
    two, many = assume_node(FIGURES), assume_node(FIGURES, cores=64)
    assert two.cores == 2
    assert two.bandwidth_bytes_s == pytest.approx(2 * 128 / 7.2e-9)
    assert many.bandwidth_bytes_s == 200e9
    assert assume_node(FIGURES, bandwidth_bytes_s=1e9).bandwidth_bytes_s == 1e9


STEPS = make_curve(
    [(1e-2, 0.3), (1e-4, 0.45), (1e-6, 0.57)],
    below=2.0,
    above=2.0,
    margin=0.01,
    fnmr=0.01,
    highest_nonmated=0.61,
)


def test_a_search_brings_the_rate_times_the_faces() -> None:
    found = expect_candidates(2_000_000, 10, STEPS, 0.57)
    assert found.expected.value == pytest.approx(2)
    assert (found.expected.low, found.expected.high) == pytest.approx((1, 4))
    assert found.searches_with_any.value == pytest.approx(0.8647, abs=1e-4)
    assert found.cases_a_day.value == pytest.approx(0.8647 * 864_000, rel=1e-3)


def test_a_rate_that_the_data_have_is_said_to_be_supported() -> None:
    found = expect_candidates(100_000, 1, STEPS, 0.57)
    assert found.is_supported
    assert found.wanted_fmr == pytest.approx(1e-6)
    assert "supports" in found.explain()


def test_a_rate_below_the_data_is_not_claimed_and_the_one_needed_is_named() -> None:
    found = expect_candidates(1_600_000_000, 1, STEPS, 0.57)
    assert not found.is_supported
    document = found.explain()
    assert "6.3e-11" in document
    assert "not supported below 1e-06 by 10,000,000 non-mated pairs" in document
    assert found.searches_with_any.value == pytest.approx(1)
    assert json.loads(json.dumps(found.to_dict()))["is_supported"] is False


def test_beyond_the_calibration_there_is_only_a_bound() -> None:
    found = expect_candidates(1_000_000, 1, STEPS, 0.65)
    assert found.expected.is_bound
    assert str(found.expected).startswith("at most ")
