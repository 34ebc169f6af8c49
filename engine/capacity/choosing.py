"""Which layout a demand needs: the smallest that the formula says holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from engine.capacity.costs import SEARCH_PAIRS, Costs, Node
from engine.capacity.demand import Demand
from engine.capacity.expectation import Expected, Latency, expect, expect_front, holds
from engine.capacity.figures import Figures
from engine.capacity.layout import MOST_SHARDS, Layout, Memory

INGRESS_SHARE = 0.5
"""Of an objective is for the way to the registrar's door, where that is enough."""
UNLOADED_TIMES = 2.0
"""Where it is not, so many times what it takes when nobody else is there."""
ROUNDING = 0.998
"""Stages are added on a grid of a thousandth of the objective."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """No layout will do, and why, in one line."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Budget:
    """Of an objective in seconds: until the registrar's door, and inside."""

    ingress_s: float
    inner_s: float


def choose_layout(demand: Demand, costs: Costs, figures: Figures, node: Node) -> Layout | Shortfall:
    """One machine where it will do; else the fewest shards, then the fewest ingress nodes.

    Neither number depends on the other, so that more arrivals never need fewer of either.
    """
    alone = Layout(node=node)
    if _fits(alone, demand, figures) and _holds_whole(alone, demand, costs):
        return alone
    budgets = _split(demand, costs)
    if isinstance(budgets, Shortfall):
        return budgets
    decided = _writers_most(demand, costs)
    if demand.enrollments > decided:
        return Shortfall(
            f"one writer orders all decisions, and at {demand.ceiling:.0%} of its time it makes "
            f"{decided:,.0f} a second without any search: {demand.enrollments:,.0f} need a faster "
            "machine or disk, or larger batches (--batch)"
        )
    fewest, most = _bound_ingresses(demand, costs, node)

    def is_enough(shards: int) -> bool:
        layout = Layout(node=node, ingress_nodes=most, shards=shards)
        return _fits(layout, demand, figures) and _holds_inside(layout, demand, costs, budgets)

    shards = 0 if is_enough(0) else _least(is_enough, 1, MOST_SHARDS)
    if shards is None:
        return _explain_shards(demand, costs, figures, node, budgets)

    def is_served(count: int) -> bool:
        layout = Layout(node=node, ingress_nodes=count, shards=0)
        return _holds_outside(layout, demand, costs, budgets)

    ingress_nodes = _least(is_served, fewest, most)
    if ingress_nodes is None:
        return Shortfall(f"more than {most:,} nodes for photographs alone: allow more time")
    return Layout(node=node, ingress_nodes=ingress_nodes, shards=shards)


def _fits(layout: Layout, demand: Demand, figures: Figures) -> bool:
    memory = Memory.of(layout, demand.faces, figures)
    return memory.fullest_node_bytes <= layout.node.usable_bytes


def _holds_whole(layout: Layout, demand: Demand, costs: Costs) -> bool:
    expected = expect(layout, demand, costs)
    return (
        expected.answers(demand)
        and expected.is_calm(demand.ceiling)
        and holds(expected.enroll, demand.enroll_p99_s * ROUNDING)
        and holds(expected.search, demand.search_p99_s * ROUNDING)
    )


def _list_stages(
    expected: Expected, budgets: tuple[_Budget, _Budget]
) -> list[tuple[Latency, _Budget]]:
    both = ((expected.enroll, budgets[0]), (expected.search, budgets[1]))
    return [(latency, budget) for latency, budget in both if latency is not None]


def _holds_inside(
    layout: Layout, demand: Demand, costs: Costs, budgets: tuple[_Budget, _Budget]
) -> bool:
    """The writer and the scans, whatever the ingresses do."""
    expected = expect(layout, demand, costs)
    if not expected.answers(demand) or max(expected.writer, expected.scanner) > demand.ceiling:
        return False
    return all(
        latency.inner_s <= budget.inner_s for latency, budget in _list_stages(expected, budgets)
    )


def _holds_outside(
    layout: Layout, demand: Demand, costs: Costs, budgets: tuple[_Budget, _Budget]
) -> bool:
    """The ingresses, whatever the gallery."""
    use, enroll_s, search_s = expect_front(layout, demand, costs)
    return (
        use <= demand.ceiling
        and enroll_s <= budgets[0].ingress_s
        and search_s <= budgets[1].ingress_s
    )


def _split(demand: Demand, costs: Costs) -> tuple[_Budget, _Budget] | Shortfall:
    """The objectives' shares, whatever comes: they depend on no load."""
    budgets = []
    for what, rate, objective_s, pairs in (
        ("an enrollment", demand.enrollments, demand.enroll_p99_s, 1.0),
        ("a search", demand.searches, demand.search_p99_s, SEARCH_PAIRS),
    ):
        unloaded_s = costs.enrollment_s(pairs) + costs.hop_s
        ingress_s = max(INGRESS_SHARE * objective_s, UNLOADED_TIMES * unloaded_s)
        if rate and ingress_s >= objective_s:
            return Shortfall(
                f"HTTP and photographs of {what} take {unloaded_s * 1e3:.0f} ms of a core when "
                f"nobody waits: an objective of {objective_s * 1e3:.0f} ms leaves the registrar "
                f"nothing; ask for more than {UNLOADED_TIMES * unloaded_s * 1e3:.0f} ms"
            )
        budgets.append(_Budget(ingress_s * ROUNDING, (objective_s - ingress_s) * ROUNDING))
    return budgets[0], budgets[1]


def _writers_most(demand: Demand, costs: Costs) -> float:
    return demand.ceiling * costs.batch / costs.decision(costs.batch)


def _bound_ingresses(demand: Demand, costs: Costs, node: Node) -> tuple[int, int]:
    """As few as work at the ceiling, and so many that nobody waits at them."""
    enrolling = demand.enrollments * costs.enrollment_s()
    load = (enrolling + demand.searches * costs.enrollment_s(SEARCH_PAIRS)) / node.cores
    return max(math.ceil(load / demand.ceiling), 1), math.ceil(4 * load) + 2


def _least(is_enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number that is enough, given that every greater one is too."""
    if not is_enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def _explain_shards(
    demand: Demand,
    costs: Costs,
    figures: Figures,
    node: Node,
    budgets: tuple[_Budget, _Budget],
) -> Shortfall:
    layout = Layout(
        node=node, ingress_nodes=_bound_ingresses(demand, costs, node)[1], shards=MOST_SHARDS
    )
    memory = Memory.of(layout, demand.faces, figures)
    if memory.fullest_node_bytes > node.usable_bytes:
        return Shortfall(
            f"{demand.faces:,} faces do not fit {MOST_SHARDS} shards of "
            f"{node.usable_bytes / 2**30:,.0f} GiB: a shard would need "
            f"{memory.fullest_node_bytes / 2**30:,.0f} GiB"
        )
    expected = expect(layout, demand, costs)
    if max(expected.writer, expected.scanner) > demand.ceiling:
        return Shortfall(
            f"with {MOST_SHARDS} shards the writer would be busy {expected.writer:.0%} of its time "
            f"and the scans {expected.scanner:.0%}, and {demand.ceiling:.0%} is the ceiling: take "
            "nodes with more cores, or larger batches (--batch)"
        )
    needed = [
        f"{latency.inner_s * 1e3:,.0f} ms of {budget.inner_s * 1e3:,.0f}"
        for latency, budget in _list_stages(expected, budgets)
        if latency.inner_s > budget.inner_s
    ]
    return Shortfall(
        f"with {MOST_SHARDS} shards search and decision take {' and '.join(needed)}: allow more "
        "time, or take nodes with more cores"
    )
