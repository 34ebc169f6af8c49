"""The assumptions of a plan in words, printed with it."""

from __future__ import annotations

import math

from engine.capacity.figures import Figures, Origin, Quantity
from engine.capacity.model import (
    GATHER_S,
    MAX_BANDWIDTH_BYTES_S,
    PAIR_SPREAD,
    PROBES_AT_ONCE,
    Costs,
    Demand,
    Layout,
    Node,
)
from engine.formatting import duration, plural, size


def list_assumptions(
    layout: Layout | None,
    demand: Demand,
    costs: Costs,
    figures: Figures,
    node: Node,
    max_ongoing: int,
) -> tuple[str, ...]:
    """The assumptions in the order of a request's path; quantities without a measurement last.

    `max_ongoing`: enrollments that an ingress takes at once in the simulation; 0: no limit.
    """
    said = [
        "Requests arrive independently (Poisson), at the rate of the busiest hour. All photographs "
        "are as large as those that were measured.",
        f"{_describe_machine(figures)} A node's core is as fast as one of these, and "
        f"{node.cores} cores scale linearly: photographs and scans share no lock.",
        f"A node reads {node.bandwidth_bytes_s / 1e9:,.0f} GB/s of memory, "
        f"{_describe_bandwidth(figures, node)}; scans are limited by it.",
        "The time of photographs varies by a factor of "
        f"{1 + PAIR_SPREAD:.1f}; an ingress extracts up to eight pairs at once, and "
        f"{_describe_bound(max_ongoing)}.",
        f"One writer decides up to {costs.batch} at once; after a batch of several it waits "
        f"{GATHER_S * 1e3:.0f} ms for more. The cost of a decision does not depend on the number "
        "of false candidates.",
    ]
    said += _describe_places(layout, costs)
    if demand.searches:
        said.append(
            f"A search has one photograph, up to {PROBES_AT_ONCE} searches share a scan, and each "
            "is audited durably before it is answered. Scans of searches and of decisions slow "
            "each other."
        )
    said += [
        "The gallery is exact8. Memory is counted at its peak: the largest merge builds the new "
        f"segment beside the old ones, {figures.value(Quantity.MERGE_PEAK):.3g} times the memory "
        f"at rest for as many as {figures.segment_rows:,} references. At most "
        f"{node.memory_share:.0%} of a node's memory is used.",
        "Disk: one enrollment for each face, and new ones at the busiest rate all day.",
        "False candidates: each face matches a stranger at the rate that the calibration measured "
        "on its people, independently of the others; relatives and look-alikes cause more. Those "
        "of a day assume the busiest rate all day.",
        "An erasure is out of memory at once, and a file that has it is removed; the time is until "
        "its segment is written anew, which grows with the references of one segment. A start from "
        "a snapshot grows with the references of one machine, one from the store with all that is "
        "stored: a store that memory does not hold is read at the rate of its disk, on top of the "
        "time told. Until a gallery is back nothing is decided (503)." + _describe_shards(layout),
        "One spare node takes any role (Ray places it). " + _describe_copies(layout),
    ]
    return (*said, *_list_assumed(figures))


def _describe_machine(figures: Figures) -> str:
    """The machine of the figures; reports may be from several."""
    machine = figures.machine
    known = (figures[one] for one in Quantity)
    others = any(x.origin is Origin.REPORTED and machine.cpu not in x.source for x in known)
    if others:
        return f"Most figures are from {machine}, some from other machines: see the table."
    return f"Figures are from {machine}."


def _describe_bound(max_ongoing: int) -> str:
    if not max_ongoing:
        return "no enrollment is refused, however many arrive"
    return f"accepts at most {plural(max_ongoing, 'enrollment')} at once: more are refused (429)"


def _describe_bandwidth(figures: Figures, node: Node) -> str:
    """The source of the bandwidth: by default `assume_node` derives it from the scans."""
    read = figures.kind.dim / figures.value(Quantity.SCAN_ALONE)
    if math.isclose(node.bandwidth_bytes_s, read * node.cores):
        return f"{read / 1e9:.0f} per core, as in the measured scans"
    if node.bandwidth_bytes_s == MAX_BANDWIDTH_BYTES_S:
        return "the highest that is assumed (set yours with --node-gb-s)"
    return "as given"


def _describe_places(layout: Layout | None, costs: Costs) -> list[str]:
    """Assumptions about one machine, or about nodes and the network between them."""
    if layout is not None and layout.is_one_machine:
        return [
            "All on one machine: ingresses, writer and scans share its cores equally; the load "
            "balancer and the monitoring run elsewhere."
        ]
    return [
        "PostgreSQL commits a batch as fast as SQLite did on the measured disk; its two nodes "
        "(synchronous replica) and the load balancer are not counted.",
        "A shard has a node of its own with all its cores; a search waits for the slowest shard, "
        f"and their times vary by a factor of {1 + costs.scan_spread:.2f}.",
        "A call between nodes is as fast as one between processes, where it was measured.",
    ]


def _describe_shards(layout: Layout | None) -> str:
    if layout is None or not layout.shards:
        return ""
    return (
        " One process reads the whole store for a lost shard, and unseals that part; it was "
        "measured beside the shards, on the same cores. A process that is killed is noticed at "
        "once, a node that falls silent after 10 s, which the times leave out. A shard has a "
        "snapshot, on its node, with [gallery] shard_folder."
    )


def _describe_copies(layout: Layout | None) -> str:
    if layout is not None and layout.shards and layout.copies > 1:
        return (
            "A shard has two copies on two nodes, which search by turns: a lost one is made again "
            "while the other answers, and has to do the work of both, so the scans are counted for "
            "one of them alone. What is erased meanwhile stays in its memory until it is whole."
        )
    return (
        "A shard has one copy; while a lost one is rebuilt, every search and decision is refused "
        "(503), since a partial answer would be a silent miss. With [gallery] shard_copies = 2 "
        "none is, and they need twice the nodes."
    )


def _list_assumed(figures: Figures) -> list[str]:
    return [
        f"Not measured: {one.value.label}, taken as {show_value(figures.value(one), one)} "
        f"({figures[one].source})."
        for one in figures.list_assumed()
    ]


def show_value(value: float, quantity: Quantity) -> str:
    """A figure with a readable unit."""
    unit = quantity.value.unit
    if unit == "bytes":
        return size(value)
    if unit not in ("s", "core-s"):
        return f"{value:.2g} {unit}"
    return duration(value) + (" of a core" if unit == "core-s" else "")
