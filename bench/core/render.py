"""A report for people: its tables in Markdown, and who measured it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core.machine import Machine
from bench.core.reports import (
    LEFT_OUT,
    Check,
    Direction,
    Figure,
    Goal,
    Report,
    Result,
    Setup,
    load_goals,
)
from engine.formatting import fixed, number, percent, size, write_table

TEMPLATES = Path(__file__).parents[1] / "docs" / "templates"
MARKS = {True: "✓", False: "**✗**", None: "–"}  # noqa: RUF001 - a dash for what was not measured

_UNITS = {"share": "%", "1/s": "/s", "of 1": "", "absolute": "", "of the best": "% of the best"}
"""Units as they are written, where not as they are; shares read better as percent."""


def render(template: str, **given: Any) -> str:
    """A page from one of the templates; a name that it misses is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"fixed": fixed, "number": number, "percent": percent}
    environment.globals |= {
        "result_table": tabulate_result,
        "promise_table": tabulate_promises,
        "machine": describe_machine,
        "software": describe_software,
        "setup_line": describe_setup,
    }
    return environment.get_template(template).render(**given)


def tabulate_result(result: Result) -> str:
    """A table in Markdown, of the columns that its figures have something for."""
    # As what each row is so many times as good.
    base = next((one.name for one in result.figures if one.ratio == 1), "a row of another table")
    texts = {
        "": [figure.name for figure in result.figures],
        " ": [_write_figure(figure) for figure in result.figures],
        "low to high": [_write_spread(figure) for figure in result.figures],
        f"times as good as {base}": [
            "" if figure.ratio is None else f"{figure.ratio:.2f}" for figure in result.figures
        ],
    }
    kept = {name: cells for name, cells in texts.items() if not name.strip() or any(cells)}
    return write_table([name.strip() for name in kept], zip(*kept.values(), strict=True))


def tabulate_promises(reports: Mapping[str, Report]) -> str:
    """A row for each goal that a report was held against."""
    rows = [
        (suite, goal.description, write_measured(check, goal), write_goal(goal), MARKS[check.holds])
        for suite, check, goal in list_promises(reports)
    ]
    return write_table(["suite", "promise", "measured", "goal", ""], rows)


def count_promises(reports: Mapping[str, Report]) -> tuple[int, int]:
    """Those kept, and those measured."""
    held = [check.holds for _, check, _ in list_promises(reports) if check.holds is not None]
    return sum(held), len(held)


def list_promises(reports: Mapping[str, Report]) -> Iterator[tuple[str, Check, Goal]]:
    """Every check of the reports that is still among the goals, with the name of its report; not
    what one report skipped and another of the suite measured."""
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    measured = {
        (report.suite or name, check.name)
        for name, report in reports.items()
        for check in report.checks
        if check.skipped is None
    }
    for name, report in reports.items():
        for check in report.checks:
            key = report.suite or name, check.name
            goal = goals.get(key)
            is_told = check.skipped is None or key not in measured
            # What a report of one part left out is told by that of the suite.
            if goal is not None and is_told and not (check.skipped or "").startswith(LEFT_OUT):
                # As it was on the machine of the run.
                yield name, check, replace(goal, goal=check.goal)


def write_value(value: float, unit: str) -> str:
    """A figure as people read it: shares in percent, `/s` for what is counted in a second."""
    scaled, called = _scale(value, unit)
    return f"{number(scaled)} {called}".rstrip()


def write_goal(goal: Goal) -> str:
    """`≥ 85 %`; in the unit of what is measured."""
    sign = "≥" if goal.direction is Direction.AT_LEAST else "≤"
    scaled, called = _scale(goal.goal, goal.unit)
    return f"{sign} {number(scaled)}{' %' if called.startswith('%') else ''}"


def write_measured(check: Check, goal: Goal) -> str:
    """What was measured of a goal: its value, `never`, or why there is none."""
    if check.value is not None:
        return write_value(check.value, goal.unit)
    return "never" if check.holds is False else f"skipped: {check.skipped}"


def describe_setup(setup: Setup) -> str:
    """All of it in one line."""
    parts = []
    for key, value in setup.items():
        is_count = isinstance(value, int) and not isinstance(value, bool)
        parts.append(f"{key.replace('_', ' ')}: {value:,}" if is_count else f"{key}: {value}")
    return " · ".join(parts)


def describe_machine(machine: Machine) -> str:
    """Processor, memory and what was measured of both, in one line."""
    measured = [size(machine.memory_bytes)]
    if machine.read_gb_per_s is not None:
        measured.append(f"reads {machine.read_gb_per_s} GB/s on all cores")
    if machine.int8_gops is not None:
        measured.append(f"int8 product {machine.int8_gops:,.0f} GOPS")
    if machine.float_gflops is not None:
        measured.append(f"float32 product {machine.float_gflops:,.0f} Gflop/s")
    return (
        f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)}), {', '.join(measured)}"
    )


def describe_software(machine: Machine) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    return f"{machine.system}, Python {machine.python}, {packages}"


def _write_figure(figure: Figure) -> str:
    if figure.value is None:
        return f"skipped: {figure.skipped}"
    return write_value(figure.value, figure.unit)


def _write_spread(figure: Figure) -> str:
    """Its quartiles; nothing where it was measured once."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (_scale(one, figure.unit)[0] for one in (figure.low, figure.high))
    return f"{number(low)} to {number(high)}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Value and unit as they are written."""
    called = _UNITS.get(unit, unit)
    return (value * 100 if called.startswith("%") else value), called
