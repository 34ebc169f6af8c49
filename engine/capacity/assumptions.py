"""What a plan takes for granted, in words: printed with it, numbered."""

from __future__ import annotations

import math

from engine.capacity.figures import ASSUMED, Figures, Origin, Quantity
from engine.capacity.model import (
    GATHER_S,
    MOST_BANDWIDTH_BYTES_S,
    PAIR_SPREAD,
    PROBES_AT_ONCE,
    WHILE_MERGING,
    Costs,
    Demand,
    Layout,
    Node,
)


def list_assumptions(
    layout: Layout | None,
    demand: Demand,
    costs: Costs,
    figures: Figures,
    node: Node,
    most_ongoing: int,
) -> tuple[str, ...]:
    """In the order of the way of a request; what nobody has measured comes last.

    `most_ongoing` enrollments are with an ingress at once, as a simulation has it; 0: no bound.
    """
    said = [
        "People come independently of each other (Poisson), at the rate of the busiest hour. "
        "Everybody brings photographs as large as those that were measured.",
        f"{_describe_machine(figures)} A node's core does as much as one of these, and "
        f"{node.cores} of them as much more: photographs and scans share no lock.",
        f"A node reads {node.bandwidth_bytes_s / 1e9:,.0f} GB/s of memory, "
        f"{_describe_bandwidth(figures, node)}; a scan is as fast as that allows.",
        "The time of photographs spreads by a factor of "
        f"{1 + PAIR_SPREAD:.1f}; an ingress takes up to eight pairs at once, and "
        f"{_describe_bound(most_ongoing)}.",
        f"One writer decides up to {costs.batch} at once; after a batch of several it waits "
        f"{GATHER_S * 1e3:.0f} ms for more. Decisions cost what they do however many false "
        "candidates there are.",
    ]
    said += _describe_places(layout, costs)
    if demand.searches:
        said.append(
            f"A search brings one photograph, up to {PROBES_AT_ONCE} share a scan, and each is "
            "audited durably before it is answered. Scans of both kinds slow each other."
        )
    said += [
        "The gallery is exact8. Memory is counted at its peak: the largest merge makes the new "
        f"segment beside the old ones, {WHILE_MERGING:g} times what is there at rest. "
        f"{node.memory_share:.0%} of a node's memory may be taken.",
        "Disk: one enrollment for each face, and those to come at the busiest rate all day.",
        "False candidates: each face matches a stranger at the rate that the calibration measured "
        "on its people, independently of the others; relatives and look-alikes bring more. A day's "
        "are of the busiest rate all day.",
        "One node to spare takes any role (Ray places it); while a shard is rebuilt every search "
        "and decision is refused (503), since a part of an answer would be a silent miss.",
    ]
    return (*said, *_list_assumed(figures))


def _describe_machine(figures: Figures) -> str:
    """Whose figures they are; not all reports need be of one machine."""
    machine = figures.machine
    known = (figures[one] for one in Quantity)
    others = any(x.origin is Origin.REPORTED and machine.cpu not in x.source for x in known)
    if others:
        return f"Most figures are of {machine}, some of other machines: the table says which."
    return f"Figures are of {machine}."


def _describe_bound(most_ongoing: int) -> str:
    if not most_ongoing:
        return "however many enrollments come, none is told to come again"
    are = "enrollment is" if most_ongoing == 1 else "enrollments are"
    return f"{most_ongoing} {are} with it at most: more are told to come again"


def _describe_bandwidth(figures: Figures, node: Node) -> str:
    """Where it is from: `assume_node` takes what is not given from the scans."""
    read = figures.kind.dim / figures.value(Quantity.SCAN_ALONE)
    if math.isclose(node.bandwidth_bytes_s, read * node.cores):
        return f"{read / 1e9:.0f} a core as the scans did"
    if node.bandwidth_bytes_s == MOST_BANDWIDTH_BYTES_S:
        return "the most that is assumed of any (--node-gb-s says what yours does)"
    return "as given"


def _describe_places(layout: Layout | None, costs: Costs) -> list[str]:
    """Of one machine, or of nodes and what is between them."""
    if layout is not None and layout.is_one_machine:
        return [
            "All on one machine: ingresses, writer and scans share its cores in equal parts; the "
            "load balancer and the monitoring are elsewhere."
        ]
    return [
        "PostgreSQL commits a batch as fast as SQLite did on the disk that was measured; its two "
        "nodes (synchronous replica) and the load balancer are not counted.",
        "A shard has a node of its own and all its cores; a search is as long as the slowest "
        f"shard's, whose times spread by a factor of {1 + costs.scan_spread:.2f}.",
        "Between nodes a call is as fast as between processes, where it was measured there.",
    ]


def _list_assumed(figures: Figures) -> list[str]:
    return [
        f"Not measured: {ASSUMED[one].label}, taken as {show_value(figures.value(one), one)} "
        f"({figures[one].source})."
        for one in figures.list_assumed()
    ]


def show_value(value: float, quantity: Quantity) -> str:
    """A figure with a unit that people read."""
    unit = ASSUMED[quantity].unit
    if unit == "bytes":
        return f"{value / 1e6:,.0f} MB" if value >= 1e6 else f"{value:,.0f} bytes"
    if unit not in ("s", "core-s"):
        return f"{value:.2g} {unit}"
    of_a_core = " of a core" if unit == "core-s" else ""
    for factor, name in ((1e3, "ms"), (1e6, "us"), (1e9, "ns")):
        if value * factor >= 0.1 or factor == 1e9:
            return f"{value * factor:.3g} {name}{of_a_core}"
    raise AssertionError("nanoseconds are the last")
