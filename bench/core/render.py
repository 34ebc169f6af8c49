"""A report for people: a table a result, then the promises."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from bench.core.compare import Pair
from bench.core.machine import Machine
from bench.core.reports import Check, Direction, Figure, Goal, Report, Result, Setup
from serving.cli.output import print_line, print_table

# Numbers, setups and machines in words, the same in a terminal and on a page.

_MINUS = "-"


def write_number(value: float | None) -> str:
    """Four significant digits; large numbers whole; `-` where there is none."""
    if value is None:
        return _MINUS
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def write_spread(figure: Figure) -> str:
    """Its quartiles; nothing where it was measured once."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{write_number(figure.low)} to {write_number(figure.high)}"


def write_noise(figure: Figure) -> str:
    """From block to block, in percent; nothing where there was one."""
    return "" if figure.noise is None else f"{figure.noise:.1%}"


def describe_setup(setup: Setup) -> str:
    """All of it in one line."""
    parts = []
    for key, value in setup.items():
        is_count = isinstance(value, int) and not isinstance(value, bool)
        parts.append(f"{key.replace('_', ' ')}: {value:,}" if is_count else f"{key}: {value}")
    return " · ".join(parts)


def describe_machine(machine: Machine) -> str:
    """Processor, memory and what was measured of both, in one line."""
    measured = [f"copies {machine.copy_gb_per_s} GB/s"]
    if machine.read_gb_per_s is not None:
        measured.append(f"reads {machine.read_gb_per_s} GB/s on all cores")
    if machine.int8_gops is not None:
        measured.append(f"int8 product {machine.int8_gops:,.0f} GOPS")
    return (
        f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)}), "
        f"{machine.memory_bytes / 2**30:.0f} GiB, {', '.join(measured)}"
    )


def describe_software(machine: Machine) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    return f"{machine.system}, Python {machine.python}, {packages}"


SIGNS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]skipped[/]"}


def print_report(report: Report, goals: Sequence[Goal]) -> None:
    """Writes the report to standard output."""
    print_line(f"{describe_machine(report.machine)}, load {report.machine.load_at_start}")
    print_line(describe_software(report.machine))
    for warning in report.machine.warnings:
        print_line(f"[yellow]warning:[/] {warning}")
    for result in report.results:
        _print_result(result)
    known = {goal.name: goal for goal in goals}
    rows = [_describe_check(check, known[check.name]) for check in report.checks]
    print_line("")
    print_table("Promises", ("", "figure", "value", "goal", "unit", "what it is"), rows)


def _print_result(result: Result) -> None:
    has_spread = any(figure.low is not None for figure in result.figures)
    has_noise = any(figure.noise is not None for figure in result.figures)
    has_ratio = any(figure.ratio is not None for figure in result.figures)
    columns = ["figure", "value", *["low to high"] * has_spread, *["noise"] * has_noise, "unit"]
    columns += ["times as good"] * has_ratio
    rows = [
        _describe_figure(figure, has_spread=has_spread, has_noise=has_noise, has_ratio=has_ratio)
        for figure in result.figures
    ]
    print_line("")
    print_table(result.name, columns, rows)
    print_line(f"[dim]{escape(describe_setup(result.setup))}[/]")


def _describe_figure(
    figure: Figure, *, has_spread: bool, has_noise: bool, has_ratio: bool
) -> list[str]:
    row = [escape(figure.name)]
    row.append("skipped" if figure.skipped else write_number(figure.value))
    if has_spread:
        row.append(write_spread(figure))
    if has_noise:
        row.append(write_noise(figure))
    row.append(escape(figure.skipped or figure.unit))
    if has_ratio:
        row.append("" if figure.ratio is None else f"{figure.ratio:.2f}")
    return row


def _describe_check(check: Check, goal: Goal) -> list[str]:
    sign = "≥" if goal.direction is Direction.AT_LEAST else "≤"
    return [
        SIGNS[check.holds],
        check.name,
        write_number(check.value),
        f"{sign} {write_number(check.goal)}",
        goal.unit,
        escape(check.skipped or goal.description),
    ]


def print_pairs(title: str, pairs: Sequence[Pair]) -> None:
    """What became of figures from one run to the next."""
    columns = ("suite", "result", "figure", "", "before", "now", "unit", "change", "allowed")
    rows = [
        [
            pair.suite,
            escape(pair.result),
            escape(pair.figure),
            pair.kind,
            write_number(pair.old),
            write_number(pair.new),
            escape(pair.unit),
            "" if pair.change is None else f"{pair.change:+.1%}",
            "" if pair.limit is None else f"{pair.limit:.0%}",
        ]
        for pair in pairs
    ]
    print_line("")
    print_table(title, columns, rows)
