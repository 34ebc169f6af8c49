"""The command: runs a load test, shows its progress, and prints or writes its result."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.config import Invocation, LoadTestResult, Step, read_options
from loadtest.criteria import (
    Latencies,
    count_failures,
    measure,
    measure_rates,
    measure_traffics,
    write_ms,
)
from loadtest.errors import INTERNAL, Exit, LoadTestRefused, refuse, write_json
from loadtest.judging import Correctness
from loadtest.report import describe_wrong, sum_correctness, summarize, write_page
from loadtest.service_calls import ReportProgress

REFRESHES_A_SECOND = 2
"""Few, since the generator needs its core."""


@contextmanager
def show_progress(*, is_shown: bool) -> Iterator[ReportProgress]:
    """A progress bar on standard error, if a terminal; yields `report(what, done, total)`."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns,
        console=console,
        disable=not (is_shown and console.is_terminal),
        transient=True,
        refresh_per_second=REFRESHES_A_SECOND,
    ) as progress:
        task = progress.add_task("load test", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield report


SHOWN_PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
MOST_WRONG = 20
LEAST_WIDTH = 120


def print_result(result: LoadTestResult) -> None:
    """Prints the result on standard output; no cell is cut short if that is no terminal."""
    console = _open_console()
    profile, participants = result.options.profile, result.participants
    console.print(
        f"[bold]{result.options.shape}[/] · {escape(result.url)} · "
        f"sosie {escape(result.version)} · {profile.process} arrivals, seed {result.options.seed}"
    )
    console.print(
        f"people from {escape(result.dataset)}: {len(participants.holders)} enrolled before, "
        f"{len(participants.newcomers)} newcomers, {len(participants.racers)} racers"
    )
    if result.knee is not None:
        _print_steps(console, result)
    for step in result.measured[-1:]:
        _print_step(console, step)
    _print_decisions(console, result)
    _print_wrong(console, result)
    _print_end(console, result)


def print_report(html: Path) -> None:
    """Prints the path of the report."""
    _open_console().print(f"Report: {escape(str(html))}", soft_wrap=True)


def _print_steps(console: Console, result: LoadTestResult) -> None:
    table = Table("rate", "achieved", "p50 ms", "p99 ms", "refused", "passed", header_style="bold")
    for step in result.measured:
        found = measure(step.run.outcomes)
        _, achieved = measure_rates(step.run)
        failed = ", ".join(one.name for one in step.verdict.failures)
        table.add_row(
            f"{step.rate:.1f}/s",
            f"{achieved:.1f}/s",
            write_ms(found.at(50), 0),
            write_ms(found.at(99), 0),
            str(sum(one.answer.is_refusal for one in step.run.outcomes)),
            f"[red]no: {escape(failed)}[/]" if failed else "[green]yes[/]",
        )
    console.print(table)


def _print_step(console: Console, step: Step) -> None:
    run = step.run
    offered, achieved = measure_rates(run)
    console.print(
        f"{len(run.outcomes)} visits in {run.seconds:g} s: {offered:.1f} offered per second, "
        f"{achieved:.1f} achieved; the generator took {run.generator_share:.2f} cores"
    )
    names = [f"p{share:g}" if share < 100 else "max" for share in SHOWN_PERCENTILES]
    table = Table("latency, ms", "visits", *names, header_style="bold")
    for traffic, found in measure_traffics(run.outcomes).items():
        table.add_row(traffic.value, str(found.count), *_list_figures(found))
    console.print(table)
    for one in step.verdict.criteria:
        mark = "[green]passed[/]" if one.is_met else "[red]failed[/]"
        said = escape(f"{one.name}: {one.measured} (objective {one.objective})")
        console.print(f"  {mark}  {said}")
    failures = count_failures(run.outcomes)
    if failures:
        listed = ", ".join(f"{what} ({times})" for what, times in failures.items())
        console.print(f"  not answered: {escape(listed)}")
    for warning in step.verdict.warnings:
        console.print(f"  [yellow]note[/]  {escape(warning)}")


def _print_decisions(console: Console, result: LoadTestResult) -> None:
    table = Table(
        "decisions", *(correctness.value for correctness in Correctness), header_style="bold"
    )
    for kind, counted in sum_correctness(result).items():
        cells = [
            f"[red]{counted[correctness]}[/]"
            if correctness is Correctness.WRONG and counted[correctness]
            else str(counted[correctness])
            for correctness in Correctness
        ]
        table.add_row(kind.value, *cells)
    console.print(table)


def _print_wrong(console: Console, result: LoadTestResult) -> None:
    for one in result.wrong[:MOST_WRONG]:
        wrong = describe_wrong(one)
        said = (
            f"#{wrong['number']} {wrong['kind']}: expected {wrong['expected']}, "
            f"answered {wrong['answered']} (key {wrong['idempotency_key'] or 'none'})"
        )
        console.print(f"  [red]wrong[/]  {escape(said)}")
    if len(result.wrong) > MOST_WRONG:
        console.print(f"  and {len(result.wrong) - MOST_WRONG} more: --json lists all")


def _print_end(console: Console, result: LoadTestResult) -> None:
    if result.left_enrolled:
        console.print(
            f"  [yellow]note[/]  up to {result.left_enrolled} people stay enrolled: give an "
            "erase key (--keys) and the test erases them"
        )
    knee = result.knee
    if knee is not None:
        beyond = "" if knee.failed is not None else " or more: the highest rate tried passed"
        sure = "" if knee.is_confirmed else "; not confirmed by a longer step"
        if knee.trouble:
            console.print(f"  [yellow]note[/]  ended early: {escape(knee.trouble)}")
        found = f"{knee.rate:.1f} arrivals per second" if knee.rate else "none found"
        console.print(f"Knee: [bold]{found}[/]{beyond}{sure}")
    console.print("[green]Passed.[/]" if result.is_passed else "[red]Failed.[/]")


def _list_figures(found: Latencies) -> list[str]:
    return [write_ms(found.at(share)) for share in SHOWN_PERCENTILES]


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


def _run(invocation: Invocation) -> int:
    # Imports Locust, which replaces sockets and threads of the whole process.
    from loadtest.load_run import run_load_test

    with show_progress(is_shown=not invocation.as_json) as report:
        result = run_load_test(invocation.options, report)
    return report_result(result, invocation.html, as_json=invocation.as_json)


def report_result(result: LoadTestResult, html: Path | None, *, as_json: bool) -> int:
    """Prints the result, then writes the page, and returns the exit code.

    The result comes first, so that a page that cannot be written loses nothing.
    """
    summary = summarize(result)
    if as_json:
        write_json(summary)
    else:
        print_result(result)
    sys.stdout.flush()
    code = Exit.PASSED if result.is_passed else Exit.FAILED
    if html is None:
        return code
    try:
        html.write_text(write_page(result, summary), encoding="utf-8")
    except OSError as error:
        # On standard error even with --json: the document has been written already.
        refuse(f"{html} cannot be written: {error.strerror}", as_json=False)
        return code or Exit.REFUSED
    if not as_json:
        print_report(html)
    return code
