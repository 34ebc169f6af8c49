"""Reports as Markdown: what the templates of pages are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.checks import Direction, Goal, load_goals
from bench.report import Check, Figure, Report, Result
from bench.wording import (
    describe_machine,
    describe_setup,
    describe_software,
    write_noise,
    write_number,
    write_spread,
)

TEMPLATES = Path(__file__).parent / "templates"
SIGNS = {True: "✓", False: "**✗**", None: "–"}  # noqa: RUF001 - a dash for what was not measured


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
    environment.globals |= {
        "result_table": write_result,
        "promise_table": write_promises,
        "machine": describe_machine,
        "software": describe_software,
        "setup": describe_setup,
    }
    return environment.get_template(template).render(**given)


def write_result(result: Result) -> str:
    """A table of its figures, with the columns that they have."""
    figures = result.figures
    kinds = {
        "low to high": any(one.low is not None for one in figures),
        "noise": any(one.noise is not None for one in figures),
        "times as good": any(one.ratio is not None for one in figures),
    }
    header = ["", "", *[kind for kind, is_there in kinds.items() if is_there]]
    return write_table(header, [_write_figure(one, kinds) for one in figures])


def write_promises(reports: Mapping[str, Report]) -> str:
    """A row for each goal that a report was held against."""
    rows = [
        [
            suite,
            goal.description,
            f"{write_number(check.value)} {goal.unit}" if check.value is not None else "",
            f"{'≥' if goal.direction is Direction.AT_LEAST else '≤'} {write_number(check.goal)}",
            SIGNS[check.holds],
        ]
        for suite, check, goal in _list_promises(reports)
    ]
    return write_table(["suite", "promise", "measured", "goal", ""], rows)


def count_promises(reports: Mapping[str, Report]) -> tuple[int, int]:
    """Those kept, and those measured."""
    held = [check.holds for _, check, _ in _list_promises(reports) if check.holds is not None]
    return sum(held), len(held)


def write_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Without a line break at its end; a bar in a cell is written as text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _list_promises(reports: Mapping[str, Report]) -> Iterator[tuple[str, Check, Goal]]:
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    for suite, report in reports.items():
        for check in report.checks:
            goal = goals.get((report.suite or suite, check.name))
            if goal is not None:
                yield suite, check, goal


def _write_figure(figure: Figure, kinds: Mapping[str, bool]) -> list[str]:
    if figure.skipped is not None:
        value = f"skipped: {figure.skipped}"
    else:
        value = f"{write_number(figure.value)} {figure.unit}"
    columns = {
        "low to high": write_spread(figure),
        "noise": write_noise(figure),
        "times as good": "" if figure.ratio is None else f"{figure.ratio:.2f}",
    }
    return [figure.name, value, *(text for kind, text in columns.items() if kinds[kind])]
