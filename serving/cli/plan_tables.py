"""A plan, and a check of one, as tables of at most a hundred columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.capacity.assumptions import show_value
from engine.capacity.figures import ASSUMED, Origin, Quantity
from engine.capacity.planning import TOLERANCE, Outcome

if TYPE_CHECKING:
    from engine.capacity.checking import Check
    from engine.capacity.planning import Plan
    from engine.matching.thresholds import Rate

WIDTH = 100
COLOURS = {Origin.MEASURED: "green", Origin.REPORTED: "cyan", Origin.ASSUMED: "yellow"}
HELD = {
    Outcome.HOLDS: "[green]holds the objectives[/]",
    Outcome.NEAR: "[yellow]is over an objective by less than a fifth[/]",
    Outcome.MISSES: "[red]misses an objective[/]",
}
CHECKED = {True: "green", False: "red", None: "default"}
_UNITS = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"))


def print_plan(plan: Plan) -> None:
    """Everything: machines, times, memory and disk, strangers, figures, assumptions."""
    console = _open()
    demand = plan.demand
    console.print(
        f"[bold]{demand.faces:,} {'face' if demand.faces == 1 else 'faces'}[/]; a second "
        f"{_count(demand.enrollments, 'enrollment')} and "
        f"{_count(demand.searches, 'search')}; a node has {plan.node.cores} cores, "
        f"{plan.node.memory_bytes / 2**30:,.0f} GiB and reads "
        f"{plan.node.bandwidth_bytes_s / 1e9:,.0f} GB/s"
    )
    if plan.shortfall is not None:
        console.print(f"[red]No layout will do[/]: {escape(plan.shortfall)}.")
    else:
        _print_machines(console, plan)
        _print_times(console, plan)
        _print_bytes(console, plan)
    _print_candidates(console, plan)
    _print_figures(console, plan)
    console.print("[bold]Assumptions[/]")
    for number, line in enumerate(plan.assumptions, 1):
        _print_item(console, f"{number}.", line)


def print_check(check: Check) -> None:
    """Measured, simulated and by formula, side by side."""
    console = _open()
    console.print(f"[bold]{escape(check.report)}[/], {escape(check.machine)}")
    for name, value in check.given.items():
        console.print(f"  [dim]given: {escape(name)}[/]  {escape(value)}")
    rows = [
        (
            row.name,
            f"{row.measured:.4g} {row.unit}",
            f"{row.simulated:.4g}",
            f"{row.simulated_ratio:.2f}",
            "" if row.formula is None else f"{row.formula:.4g}",
            "" if row.formula_ratio is None else f"{row.formula_ratio:.2f}",
            f"[{CHECKED[row.holds]}]{row.verdict}[/]",
        )
        for row in check.rows
    ]
    columns = ("", "measured", "simulated", "ratio", "formula", "ratio", "")
    _print_table(console, None, columns, rows)
    for note in check.notes:
        _print_item(console, "-", note)


def _open() -> Console:
    console = Console(highlight=False)
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return Console(highlight=False, width=width)


def _print_machines(console: Console, plan: Plan) -> None:
    layout, expected, memory = plan.layout, plan.expected, plan.memory
    assert layout is not None
    assert expected is not None
    assert memory is not None
    cores = plan.node.cores
    rows: list[tuple[str, str, str, str]] = []
    if layout.is_one_machine:
        busy = f"cores {expected.ingress:.0%}, writer {expected.writer:.0%}"
        rows.append(("all in one", "1", f"{cores:,}", busy))
    else:
        scans = f", scans {expected.scanner:.0%}"
        writing = f"writer {expected.writer:.0%}" + ("" if layout.shards else scans)
        ingress = f"cores {expected.ingress:.0%}"
        count = layout.ingress_nodes
        rows += [
            ("ingresses", f"{count:,}", f"{count * cores:,}", ingress),
            ("registrar", "1", f"{cores:,}", writing),
        ]
        if layout.shards:
            share = f"scans {expected.scanner:.0%}"
            rows.append(("shards", f"{layout.shards:,}", f"{layout.shards * cores:,}", share))
    rows.append(("to spare (N+1)", "1", f"{cores:,}", ""))
    total = layout.nodes + 1
    rows.append(("[bold]in all[/]", f"[bold]{total:,}[/]", f"[bold]{total * cores:,}[/]", ""))
    _print_table(
        console,
        f"Machines: the work of {plan.busy_cores:,.1f} cores; the fullest node holds "
        f"{_size(memory.fullest_node_bytes)}",
        ("", "nodes", "cores", f"of what it can do, at most {plan.demand.ceiling:.0%}"),
        rows,
    )


def _print_times(console: Console, plan: Plan) -> None:
    expected, played, ratios = plan.expected, plan.played, plan.list_ratios()
    assert expected is not None
    rows = []
    for name, latency, seen, goal_s in (
        ("enroll", expected.enroll, played.enroll if played else None, plan.demand.enroll_p99_s),
        ("search", expected.search, played.search if played else None, plan.demand.search_p99_s),
    ):
        if latency is None:
            continue
        rows.append(
            (
                {"enroll": "enrollment", "search": "search"}[name],
                f"{goal_s * 1e3:,.0f} ms",
                f"{latency.p50_s * 1e3:,.0f}, {latency.p99_s * 1e3:,.0f} ms",
                f"{seen.p50_s * 1e3:,.0f}, {seen.p99_s * 1e3:,.0f} ms" if seen else "-",
                _ratios(ratios[f"{name}_p50"], ratios[f"{name}_p99"]) if seen else "-",
            )
        )
    columns = ("p50, p99", "objective, p99", "by formula", "simulated", "formula / simulated")
    _print_table(console, "Answers", columns, rows)
    if played is not None:
        held = HELD[plan.outcome]
        console.print(
            f"  The simulation of {played.requests:,} requests (seed {played.seed}) {held}; it "
            f"refused {played.refused:.2%} of enrollments (429)."
        )


def _print_bytes(console: Console, plan: Plan) -> None:
    memory, disk, layout = plan.memory, plan.disk, plan.layout
    assert memory is not None
    assert disk is not None
    assert layout is not None
    rows = [
        ("memory of the gallery, at rest", _size(memory.gallery_bytes)),
        ("the same while the largest segments merge", _size(memory.gallery_peak_bytes)),
        ("memory of all nodes", _size(memory.total_bytes)),
        ("disk of the store, an enrollment a face", _size(disk.store_bytes)),
        ("what a day at this rate adds", _size(disk.day_bytes)),
        ("disk of a snapshot, the new beside the old", _size(disk.snapshot_bytes)),
        ("a start from the store alone", _time(plan.start_s)),
    ]
    if layout.shards:
        rows[-2] = ("disk of a snapshot", "none: a sharded gallery keeps none")
    _print_table(console, "Memory and disk", ("", ""), rows)


def _print_candidates(console: Console, plan: Plan) -> None:
    found = plan.candidates
    rows = [
        ("strangers a search", _interval(found.expected)),
        ("searches that bring one at least", _share(found.searches_with_any)),
        ("enrollments a day sent to review by them", _interval(found.cases_a_day)),
    ]
    title = f"False candidates at the review threshold {found.threshold:.3f} (FMR {found.fmr})"
    _print_table(console, title, ("", "expected (95 %)"), rows)
    colour = "green" if found.is_supported else "red"
    console.print(f"  [{colour}]{escape(_capital(found.explain()))}.[/]")


def _print_figures(console: Console, plan: Plan) -> None:
    figures = plan.figures
    rows = []
    for one in Quantity:
        figure = figures[one]
        origin = f"[{COLOURS[figure.origin]}]{figure.origin}[/]"
        rows.append(
            (
                ASSUMED[one].label,
                show_value(figure.value, one),
                f"{origin}: {escape(figure.source)}",
            )
        )
    _print_table(console, "Figures, and where they come from", ("", "", "from"), rows)


def _print_table(
    console: Console, title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    if title is not None:
        # A table's own title would be cut to its width.
        console.print(f"[bold]{title}[/]")
    table = Table(*columns, header_style="bold", show_header=any(columns))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_item(console: Console, number: str, text: str) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=4, justify="right")
    grid.add_column()
    grid.add_row(number, escape(text))
    console.print(grid)


def _size(size_bytes: float) -> str:
    for unit, name in _UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.3g} {name}"
    return f"{size_bytes:,.0f} bytes"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _count(number: float, what: str) -> str:
    plural = {"enrollment": "enrollments", "search": "searches"}[what]
    return f"{number:g} {what if number == 1 else plural}"


def _ratios(*ratios: float) -> str:
    """Yellow where formula and simulation are too far apart to be believed both."""
    text = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    is_near = all(abs(ratio - 1) <= TOLERANCE for ratio in ratios)
    return text if is_near else f"[yellow]{text}[/]"


def _share(rate: Rate) -> str:
    if rate.is_bound:
        return f"at most {rate.value:.2%}"
    return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"


def _interval(rate: Rate) -> str:
    """An expected count as people write it: 1,600 (0 to 7,000)."""
    if rate.is_bound:
        return f"at most {_round(rate.value)}"
    return f"{_round(rate.value)} ({_round(rate.low)} to {_round(rate.high)})"


def _round(number: float) -> str:
    """Two digits that count, and no exponent from 1 on."""
    rounded = float(f"{number:.2g}")
    if rounded < 1:
        return f"{rounded:g}"
    return f"{rounded / 1e6:,g} million" if rounded >= 1e6 else f"{rounded:,g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
