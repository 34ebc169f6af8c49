"""Reports as Markdown: what the templates of pages are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.core.render import (
    describe_machine,
    describe_setup,
    describe_software,
    write_noise,
    write_number,
    write_spread,
)
from bench.core.reports import Check, Direction, Figure, Goal, Report, Result, load_goals
from engine.accuracy.writing import write_table

_SHARES = frozenset({"share", "FNMR"})
"""Units of shares that read better as percent."""
_WORDS = {
    "1/s": "/s",
    "of 1": "",
    "absolute": "",
    "share of pairs": "% of pairs",
    "of pairs together": "% of pairs together",
    "of the best": "% of the best",
    "largest absolute difference": "at most",
    "largest difference from cpu": "from cpu at most",
}
"""Units as a page writes them, where not as they are."""

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
        name_base(result): any(one.ratio is not None for one in figures),
    }
    header = ["", "", *[kind for kind, is_there in kinds.items() if is_there]]
    return write_table(header, [_write_figure(one, kinds) for one in figures])


def write_promises(reports: Mapping[str, Report]) -> str:
    """A row for each goal that a report was held against."""
    rows = [
        [
            suite,
            goal.description,
            _write_measured(check, goal),
            write_goal(goal),
            SIGNS[check.holds],
        ]
        for suite, check, goal in _list_promises(reports)
    ]
    return write_table(["suite", "promise", "measured", "goal", ""], rows)


def write_value(value: float, unit: str) -> str:
    """A figure as people read it: shares in percent, `/s` for what is counted in a second."""
    scaled, called = _scale(value, unit)
    gap = "" if called == "" else " "
    return f"{write_number(scaled)}{gap}{called}"


def write_goal(goal: Goal) -> str:
    """`≥ 85 %`; in the unit of what is measured."""
    sign = "≥" if goal.direction is Direction.AT_LEAST else "≤"
    scaled, called = _scale(goal.goal, goal.unit)
    return f"{sign} {write_number(scaled)}{' %' if called.startswith('%') else ''}"


def name_base(result: Result) -> str:
    """The head of the column of ratios: as what each row is so many times as good.

    A base has exactly 1; where none is in the table, it stands in another one of its report.
    """
    bases = [one.name for one in result.figures if one.ratio == 1]
    if len(bases) == 1:
        return f"times as good as {bases[0]}"
    return "times as good as " + ("the 1.00 above" if bases else "a row of another table")


def count_promises(reports: Mapping[str, Report]) -> tuple[int, int]:
    """Those kept, and those measured."""
    held = [check.holds for _, check, _ in _list_promises(reports) if check.holds is not None]
    return sum(held), len(held)


def _list_promises(reports: Mapping[str, Report]) -> Iterator[tuple[str, Check, Goal]]:
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    for suite, report in reports.items():
        for check in report.checks:
            goal = goals.get((report.suite or suite, check.name))
            if goal is not None:
                yield suite, check, goal


def _write_figure(figure: Figure, kinds: Mapping[str, bool]) -> list[str]:
    if figure.value is None:
        value = f"skipped: {figure.skipped}"
    else:
        value = write_value(figure.value, figure.unit)
    texts = (
        write_spread(_scale_spread(figure)),
        write_noise(figure),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
    )
    columns = zip(texts, kinds.values(), strict=True)
    return [figure.name, value, *(text for text, is_there in columns if is_there)]


def _write_measured(check: Check, goal: Goal) -> str:
    if check.value is not None:
        return write_value(check.value, goal.unit)
    return "never" if check.holds is False else f"skipped: {check.skipped}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    """Value and unit as they are written."""
    called = "%" if unit in _SHARES else _WORDS.get(unit, unit)
    return (value * 100 if called.startswith("%") else value), called


def _scale_spread(figure: Figure) -> Figure:
    if figure.low is None or figure.high is None:
        return figure
    low, high = (_scale(one, figure.unit)[0] for one in (figure.low, figure.high))
    return replace(figure, low=low, high=high)
