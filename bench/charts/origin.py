"""Where the figures of a picture come from: whose machine, of what sizes, with which seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.report import Report, Setup

_KEPT = ("rows", "queries", "people", "pairs", "batch", "threads", "seed")


def name_machines(reports: Mapping[str, Report], suites: Iterable[str]) -> str:
    """A line a machine, with the suites that were measured on it."""
    owners: dict[str, list[str]] = {}
    for suite in dict.fromkeys(suites):
        if suite in reports:
            machine = reports[suite].machine
            owners.setdefault(f"{machine.cpu}, {machine.cores} cores", []).append(suite)
    return "\n".join(f"{', '.join(names)}: {machine}" for machine, names in owners.items())


def name_sizes(setup: Setup) -> str:
    """References and dimensions, then whatever else sizes it, and the seed."""
    parts = []
    if "references" in setup:
        dim = f" x {setup['dim']}" if "dim" in setup else " references"
        parts.append(f"{setup['references']:,}{dim}")
    elif "dim" in setup:
        parts.append(f"{setup['dim']} dimensions")
    known = ((name, setup[name]) for name in _KEPT if name in setup)
    counted = (f"{name} {value:,}" for name, value in known if isinstance(value, int))
    return ", ".join((*parts, *counted))


def name_seeds(reports: Mapping[str, Report]) -> str:
    """The seed of all results that have one."""
    seeds = {
        result.setup["seed"]
        for report in reports.values()
        for result in report.results
        if "seed" in result.setup
    }
    return f"seed {', '.join(str(one) for one in sorted(seeds))}" if seeds else "no seed"
