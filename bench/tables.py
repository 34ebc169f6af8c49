"""A report for people: a table a result, then the promises."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from bench.checks import Direction, Goal
from bench.machine import Machine
from bench.report import Check, Figure, Report, Result, Setup
from serving.cli.output import print_line, print_table

SIGNS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[yellow]skipped[/]"}


def print_report(report: Report, goals: Sequence[Goal]) -> None:
    """Writes the report to standard output."""
    print_line(_describe_machine(report.machine))
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
    has_ratio = any(figure.ratio is not None for figure in result.figures)
    columns = ["figure", "value", *["low to high"] * has_spread, "unit"]
    columns += ["times as good"] * has_ratio
    rows = [
        _describe_figure(figure, has_spread=has_spread, has_ratio=has_ratio)
        for figure in result.figures
    ]
    print_line("")
    print_table(result.name, columns, rows)
    print_line(f"[dim]{escape(_describe_setup(result.setup))}[/]")


def _describe_figure(figure: Figure, *, has_spread: bool, has_ratio: bool) -> list[str]:
    row = [escape(figure.name)]
    row.append("skipped" if figure.skipped else _write(figure.value))
    if has_spread:
        known = figure.low is not None and figure.high is not None
        row.append(f"{_write(figure.low)} to {_write(figure.high)}" if known else "")
    row.append(escape(figure.skipped or figure.unit))
    if has_ratio:
        row.append("" if figure.ratio is None else f"{figure.ratio:.2f}")
    return row


def _describe_check(check: Check, goal: Goal) -> list[str]:
    sign = "≥" if goal.direction is Direction.AT_LEAST else "≤"
    return [
        SIGNS[check.holds],
        check.name,
        _write(check.value),
        f"{sign} {_write(check.goal)}",
        goal.unit,
        escape(check.skipped or goal.description),
    ]


def _describe_setup(setup: Setup) -> str:
    parts = []
    for key, value in setup.items():
        is_count = isinstance(value, int) and not isinstance(value, bool)
        parts.append(f"{key.replace('_', ' ')}: {value:,}" if is_count else f"{key}: {value}")
    return " · ".join(parts)


def _describe_machine(machine: Machine) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    return (
        f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)}), "
        f"{machine.memory_bytes / 2**30:.0f} GiB, copies {machine.copy_gb_per_s} GB/s, "
        f"load {machine.load_at_start}\n"
        f"{machine.system}, Python {machine.python}, {packages}"
    )


def _write(value: float | None) -> str:
    """Four significant digits; large numbers whole."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
