"""The command: runs a load test, shows its progress, and prints or writes its result."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.config import LoadTestOptions, LoadTestResult, read_options
from loadtest.criteria import write_ms
from loadtest.errors import INTERNAL, Exit, LoadTestRefused, refuse, write_json
from loadtest.exchange import ReportProgress
from loadtest.judging import Correctness
from loadtest.load_report import sum_decisions, summarize, write_page

REFRESHES_A_SECOND = 2
"""Few, since the generator needs its core."""


@contextmanager
def show_progress(*, is_shown: bool) -> Iterator[ReportProgress]:
    """A progress bar on standard error, if a terminal; yields `report(what, done, total)`."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not (is_shown and console.is_terminal),
        transient=True,
        refresh_per_second=REFRESHES_A_SECOND,
    ) as progress:
        task = progress.add_task("load test", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield report


SHOWN_PERCENTILES = ("p50", "p90", "p99", "p99.9", "p100")
MOST_WRONG = 20
LEAST_WIDTH = 120
Document = Mapping[str, Any]


def print_summary(summary: Document) -> None:
    """Prints the document for people; no cell is cut short if standard output is no terminal."""
    console, asked, people = _open_console(), summary["asked"], summary["cast"]
    console.print(
        f"[bold]{summary['shape']}[/] · {escape(summary['url'])} · "
        f"sosie {escape(summary['version'])} · {asked['arrivals']} arrivals, seed {asked['seed']}"
    )
    console.print(
        f"people from {escape(people['photographs'])}: {people['residents']} enrolled before, "
        f"{people['newcomers']} newcomers, {people['racers']} racers"
    )
    measured = [step for step in summary["steps"] if not step["warm_up"]]
    if summary["knee"] is not None:
        _print_steps(console, measured)
    for step in measured[-1:]:
        _print_step(console, step)
    _print_decisions(console, summary)
    _print_wrong(console, summary["wrong"])
    _print_end(console, summary)


def _print_steps(console: Console, steps: Sequence[Document]) -> None:
    table = Table("rate", "achieved", "p50 ms", "p99 ms", "refused", "passed", header_style="bold")
    for step in steps:
        failed = ", ".join(one["name"] for one in step["criteria"] if not one["met"])
        table.add_row(
            f"{step['rate']:.1f}/s",
            f"{step['achieved_per_second']:.1f}/s",
            *(write_ms(step["latency"]["all"]["ms"].get(share), 0) for share in ("p50", "p99")),
            str(step["refused"]),
            f"[red]no: {escape(failed)}[/]" if failed else "[green]yes[/]",
        )
    console.print(table)


def _print_step(console: Console, step: Document) -> None:
    console.print(
        f"{step['visits']} visits in {step['seconds']:g} s: {step['offered_per_second']:.1f} "
        f"offered per second, {step['achieved_per_second']:.1f} achieved; the generator took "
        f"{step['generator']['cores']:.2f} cores"
    )
    table = Table("latency, ms", "visits", *SHOWN_PERCENTILES[:-1], "max", header_style="bold")
    for traffic, found in step["latency"].items():
        if traffic != "all":
            figures = (write_ms(found["ms"].get(share)) for share in SHOWN_PERCENTILES)
            table.add_row(traffic, str(found["count"]), *figures)
    console.print(table)
    for one in step["criteria"]:
        mark = "[green]passed[/]" if one["met"] else "[red]failed[/]"
        said = escape(f"{one['name']}: {one['measured']} (objective {one['objective']})")
        console.print(f"  {mark}  {said}")
    if step["failures"]:
        listed = ", ".join(f"{what} ({times})" for what, times in step["failures"].items())
        console.print(f"  not answered: {escape(listed)}")
    for warning in step["warnings"]:
        _note(console, warning)


def _print_decisions(console: Console, summary: Document) -> None:
    table = Table("decisions", *Correctness, header_style="bold")
    for kind, counted in sum_decisions(summary).items():
        cells = {correctness: str(counted[correctness]) for correctness in Correctness}
        if counted[Correctness.WRONG]:
            cells[Correctness.WRONG] = f"[red]{cells[Correctness.WRONG]}[/]"
        table.add_row(kind, *cells.values())
    console.print(table)


def _print_wrong(console: Console, wrong: Sequence[Document]) -> None:
    for one in wrong[:MOST_WRONG]:
        said = (
            f"#{one['number']} {one['kind']}: expected {one['expected']}, "
            f"answered {one['answered']} (key {one['idempotency_key'] or 'none'})"
        )
        console.print(f"  [red]wrong[/]  {escape(said)}")
    if len(wrong) > MOST_WRONG:
        console.print(f"  and {len(wrong) - MOST_WRONG} more: --json lists all")


def _print_end(console: Console, summary: Document) -> None:
    left, knee = summary["cast"]["left_enrolled"], summary["knee"]
    if left:
        _note(
            console,
            f"up to {left} people stay enrolled: give an erase key (--keys) and the test erases "
            "them; whoever is in an open case is erased when that is closed, or 30 days later",
        )
    if knee is not None:
        is_last = knee["lowest_rate_that_failed"] is None
        beyond = " or more: the highest rate tried passed" if is_last else ""
        sure = "" if knee["confirmed"] else "; not confirmed by a longer step"
        if knee["ended_early"]:
            _note(console, f"ended early: {knee['ended_early']}")
        found = f"{knee['rate']:.1f} arrivals per second" if knee["rate"] else "none found"
        console.print(f"Knee: [bold]{found}[/]{beyond}{sure}")
    console.print("[green]Passed.[/]" if summary["passed"] else "[red]Failed.[/]")


def _note(console: Console, text: str) -> None:
    console.print(f"  [yellow]note[/]  {escape(text)}")


def _open_console() -> Console:
    console = Console(highlight=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, width=max(console.width, LEAST_WIDTH))


INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code."""
    # Locust uses the root logger, which would be set up to write to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    as_json = "--json" in arguments
    try:
        return _run(read_options(arguments))
    except LoadTestRefused as refused:
        refuse(str(refused), as_json=as_json)
        return Exit.REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as fault:  # noqa: BLE001 - a fault of this program is no failed test
        traceback.print_exc()
        if as_json:
            message = f"internal error ({type(fault).__name__}): the traceback is on standard error"
            refuse(message, as_json=True, code=INTERNAL)
        return Exit.INTERNAL


def _run(options: LoadTestOptions) -> int:
    # Imports Locust, which replaces sockets and threads of the whole process.
    from loadtest.load import run_load_test

    with show_progress(is_shown=not options.as_json) as report:
        result = run_load_test(options, report)
    return report_result(result)


def report_result(result: LoadTestResult) -> int:
    """Prints the result, then writes the page, and returns the exit code.

    The result comes first, so that a page that cannot be written loses nothing.
    """
    summary, html, as_json = summarize(result), result.options.html, result.options.as_json
    if as_json:
        write_json(summary)
    else:
        print_summary(summary)
    sys.stdout.flush()
    code = Exit.PASSED if result.is_passed else Exit.FAILED
    if html is None:
        return code
    try:
        html.write_text(write_page(result), encoding="utf-8")
    except OSError as error:
        # On standard error even with --json: the document has been written already.
        refuse(f"{html} cannot be written: {error.strerror}", as_json=False)
        return code or Exit.REFUSED
    if not as_json:
        _open_console().print(f"Report: {escape(str(html))}", soft_wrap=True)
    return code
