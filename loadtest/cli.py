"""Runs what was asked for, and tells what came out of it."""

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

from loadtest.config import Session, Step, Wish, read_options
from loadtest.criteria import (
    Latencies,
    count_failures,
    measure,
    measure_rates,
    measure_traffics,
    write_ms,
)
from loadtest.errors import INTERNAL, Exit, LoadTestRefused, refuse, write_json
from loadtest.judging import Ruling
from loadtest.report import add_rulings, describe_wrong, summarize, write_page
from loadtest.service_calls import Report

# A bar on standard error, where somebody sees it.

REFRESHES_A_SECOND = 2
"""The generator shares its core with nobody that can wait."""


@contextmanager
def show_progress(*, is_shown: bool) -> Iterator[Report]:
    """Yields `report(what, done, total)`."""
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


# What a person at a terminal reads.

SHOWN_PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
MOST_WRONG = 20
LEAST_WIDTH = 120


def print_session(session: Session) -> None:
    """The outcome on standard output; no cell is cut short where that is no terminal."""
    console = _open_console()
    course, cast = session.order.course, session.cast
    console.print(
        f"[bold]{session.order.shape}[/] · {escape(session.url)} · "
        f"sosie {escape(session.version)} · {course.process} arrivals, seed {session.order.seed}"
    )
    console.print(
        f"people of {escape(session.crowd)}: {len(cast.residents)} residents, "
        f"{len(cast.newcomers)} newcomers, {len(cast.racers)} racers"
    )
    if session.knee is not None:
        _print_steps(console, session)
    for step in session.measured[-1:]:
        _print_step(console, step)
    _print_decisions(console, session)
    _print_wrong(console, session)
    _print_end(console, session)


def print_report(html: Path) -> None:
    """Where the page is."""
    _open_console().print(f"Report: {escape(str(html))}", soft_wrap=True)


def _print_steps(console: Console, session: Session) -> None:
    table = Table("rate", "achieved", "p50 ms", "p99 ms", "refused", "held", header_style="bold")
    for step in session.measured:
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
        f"{len(run.outcomes)} visits in {run.seconds:g} s: {offered:.1f} offered a second, "
        f"{achieved:.1f} achieved; the generator took {run.generator_share:.2f} cores"
    )
    names = [f"p{share:g}" if share < 100 else "max" for share in SHOWN_PERCENTILES]
    table = Table("latency, ms", "visits", *names, header_style="bold")
    for traffic, found in measure_traffics(run.outcomes).items():
        table.add_row(traffic.value, str(found.count), *_list_figures(found))
    console.print(table)
    for one in step.verdict.criteria:
        mark = "[green]held[/]" if one.is_met else "[red]not held[/]"
        said = escape(f"{one.name}: {one.measured} (objective {one.objective})")
        console.print(f"  {mark}  {said}")
    failures = count_failures(run.outcomes)
    if failures:
        listed = ", ".join(f"{what} ({times})" for what, times in failures.items())
        console.print(f"  not answered: {escape(listed)}")
    for warning in step.verdict.warnings:
        console.print(f"  [yellow]note[/]  {escape(warning)}")


def _print_decisions(console: Console, session: Session) -> None:
    table = Table("decisions", *(ruling.value for ruling in Ruling), header_style="bold")
    for kind, counted in add_rulings(session).items():
        cells = [
            f"[red]{counted[ruling]}[/]"
            if ruling is Ruling.WRONG and counted[ruling]
            else str(counted[ruling])
            for ruling in Ruling
        ]
        table.add_row(kind.value, *cells)
    console.print(table)


def _print_wrong(console: Console, session: Session) -> None:
    for one in session.wrong[:MOST_WRONG]:
        told = describe_wrong(one)
        said = (
            f"#{told['number']} {told['kind']}: expected {told['expected']}, "
            f"answered {told['answered']} (key {told['idempotency_key'] or 'none'})"
        )
        console.print(f"  [red]wrong[/]  {escape(said)}")
    if len(session.wrong) > MOST_WRONG:
        console.print(f"  and {len(session.wrong) - MOST_WRONG} more: --json lists all")


def _print_end(console: Console, session: Session) -> None:
    if session.left_enrolled:
        console.print(
            f"  [yellow]note[/]  up to {session.left_enrolled} people stay enrolled: a key that "
            "may erase (--keys, erase) takes them out again"
        )
    knee = session.knee
    if knee is not None:
        beyond = "" if knee.failed is not None else " or more: the highest rate tried held"
        sure = "" if knee.is_confirmed else "; no longer step confirmed it"
        if knee.trouble:
            console.print(f"  [yellow]note[/]  ended early: {escape(knee.trouble)}")
        found = f"{knee.rate:.1f} arrivals a second" if knee.rate else "none found"
        console.print(f"Knee: [bold]{found}[/]{beyond}{sure}")
    console.print("[green]Held.[/]" if session.is_passed else "[red]Not held.[/]")


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
    """The exit code."""
    # Locust logs by the root logger, which would be set up to write to standard error.
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


def _run(wish: Wish) -> int:
    # Brings Locust, which replaces sockets and threads of the whole process.
    from loadtest.load_run import hold

    with show_progress(is_shown=not wish.as_json) as report:
        session = hold(wish.order, report)
    return tell(session, wish.html, as_json=wish.as_json)


def tell(session: Session, html: Path | None, *, as_json: bool) -> int:
    """The exit code. What came out is told first: a page that cannot be written loses nothing."""
    summary = summarize(session)
    if as_json:
        write_json(summary)
    else:
        print_session(session)
    sys.stdout.flush()
    code = Exit.HELD if session.is_passed else Exit.FAILED
    if html is None:
        return code
    try:
        html.write_text(write_page(session, summary), encoding="utf-8")
    except OSError as error:
        # On standard error whatever was asked: the document has been written.
        refuse(f"{html} cannot be written: {error.strerror}", as_json=False)
        return code or Exit.REFUSED
    if not as_json:
        print_report(html)
    return code
