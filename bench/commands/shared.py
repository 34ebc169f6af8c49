"""What every suite's command has in common: its options, how it runs, what it prints."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.checks import TARGETS, Goal, Measured, check_goals, load_goals
from bench.machine import look, stamp
from bench.report import Report, Result, Setup
from serving.cli.output import JsonFlag, exit_negative, print_json

Suite = Callable[[], tuple[tuple[Result, ...], dict[str, Measured]]]

Dim = Annotated[int, typer.Option(min=8, max=4096, help="Dimensions of a face.")]
Graph = Annotated[bool, typer.Option(help="Build hnswlib's graph too, which takes minutes.")]
Faces = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Photographs in LFW's layout, a folder a person."),
]
Folder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="On the disk to measure; /var/tmp if none.")
]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options that all suites share; `debug` is read by whoever prints an error."""

    as_json: JsonFlag = False
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes: to try it, not to measure.")
    ] = False
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0
    targets: Annotated[
        Path, typer.Option(metavar="FILE", help="Goals other than the project's.")
    ] = TARGETS
    stamp: Annotated[
        bool, typer.Option(help="Measure what the machine can read and multiply, in 3 s.")
    ] = True
    debug: DebugFlag = False

    def sizes(self, quick: Mapping[str, Any], **given: Any) -> dict[str, Any]:
        """The quick sizes if they were asked for, and over them what was given."""
        return (dict(quick) if self.quick else {}) | keep_given(**given)


def keep_given(**options: Any) -> dict[str, Any]:
    """Those that are not None: what was not given keeps its default."""
    return {name: value for name, value in options.items() if value is not None}


def add_suite(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Registers `command(chosen, ...)` with its own options and then the shared ones."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(Chosen, eval_str=True).parameters.values())
    names = [field.name for field in fields(Chosen)]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        chosen = Chosen(**{name: options.pop(name) for name in names})
        command(chosen, **options)

    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (shared[0], *own, *shared[1:])
    ]
    # What typer reads: the wrapper takes whatever these name.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    app.command(name)(run)


def run_suite(chosen: Chosen, name: str, suite: Suite) -> None:
    """Measures, prints, and ends with 1 where a goal is missed."""
    # Goals first: a misspelt file must not cost a run.
    goals = [goal for goal in load_goals(chosen.targets) if goal.suite == name]
    machine = stamp() if chosen.stamp else look()
    results, measured = suite()
    usual: Setup = {"seed": chosen.seed, "threads": machine.cores}
    told = tuple(_complete(result, usual) for result in results)
    report = Report(machine, told, check_goals(goals, name, measured), name)
    show_report(report, goals, as_json=chosen.as_json)


def _complete(result: Result, usual: Setup) -> Result:
    """With seed and threads: what says nothing of them has those of the run, and all cores."""
    return replace(result, setup=result.setup | usual | result.setup)


def show_report(report: Report, goals: Sequence[Goal], *, as_json: bool) -> None:
    """Prints a report; ends with 1 where a goal is missed."""
    if as_json:
        print_json(report.to_dict())
    else:
        from bench.tables import print_report

        print_report(report, goals)
    if not report.holds:
        raise exit_negative()
