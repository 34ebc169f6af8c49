"""The command: runs a load test, shows its progress, and prints or writes its result, which as JSON
has no name, no number, no face and no key."""

import logging
import math
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.config import LoadStep, LoadTestOptions, LoadTestResult, read_options
from loadtest.criteria import (
    Correctness,
    JudgedVisit,
    count_correctness,
    count_good,
    divide_by_traffic,
    is_failed,
    measure,
    read_ms,
    write_ms,
)
from loadtest.errors import INTERNAL, Exit, LoadTestRefused, refuse, write_json
from loadtest.exchange import ReportProgress
from loadtest.schedule import Kind

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
    if not console.is_terminal:
        console.width = max(console.width, LEAST_WIDTH)
    return console


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


PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
FORMAT = 3


def summarize(result: LoadTestResult) -> dict[str, Any]:
    """The JSON document: options, participants, and all that was measured and decided."""
    participants, knee = result.participants, result.knee
    return {
        "format": FORMAT,
        "passed": result.is_passed,
        "shape": result.options.shape.value,
        "url": result.url,
        "version": result.version,
        "model_digest": result.model_digest,
        "begun": result.begun.isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 3),
        "asked": _describe_options(result),
        "cast": {
            "photographs": result.dataset,
            "residents": len(participants.holders),
            "newcomers": len(participants.newcomers),
            "racers": len(participants.racers),
            "outsiders": len(participants.outsiders),
            "had_references": participants.had_references,
            "dropped": dict(participants.dropped),
            "left_enrolled": result.left_enrolled,
        },
        "knee": knee
        and {
            "rate": knee.rate,
            "lowest_rate_that_failed": knee.failed,
            "confirmed": knee.is_confirmed,
            "steps": knee.steps,
            "ended_early": knee.trouble or None,
        },
        "steps": [_describe_step(step) for step in result.steps],
        "wrong": [_describe_wrong(one) for one in result.wrong],
    }


def sum_decisions(summary: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Right, wrong and other answers of all steps together, for each kind of visit."""
    added: dict[str, Counter[str]] = {kind.value: Counter() for kind in Kind}
    for step in summary["steps"]:
        for kind, counted in step["decisions"].items():
            added[kind].update(counted)
    return {kind: counted for kind, counted in added.items() if counted.total()}


def _describe_wrong(one: JudgedVisit) -> dict[str, Any]:
    """A wrong answer; its key finds the record at `GET /v1/enrollments?idempotency_key=`."""
    visit, answer = one.outcome.visit, one.outcome.answer
    return {
        "number": visit.number,
        "partner": visit.partner,
        "kind": visit.kind.value,
        "due_s": round(visit.due_s, 3),
        "expected": one.expected,
        "answered": answer.describe(),
        "idempotency_key": visit.call.idempotency_key,
    }


def _describe_options(result: LoadTestResult) -> dict[str, Any]:
    options = result.options
    profile, objective, pace = options.profile, options.objective, options.pace
    return {
        "rate": profile.rate,
        "step_or_run_s": profile.seconds,
        "peak": profile.peak or None,
        "peak_s": profile.peak_s or None,
        "most_rate": profile.most_rate or None,
        "arrivals": profile.process.value,
        "in_flight": pace.in_flight,
        "timeout_s": pace.timeout_s,
        "mix": {traffic.value: round(share, 4) for traffic, share in options.mix.items()},
        "references": options.references,
        "seed": options.seed,
        "p99_ms": objective.p99_ms,
        "max_errors": objective.most_errors,
    }


def _describe_step(step: LoadStep) -> dict[str, Any]:
    run = step.run
    outcomes = run.outcomes
    failures = Counter(one.answer.describe() for one in outcomes if is_failed(one))
    return {
        "rate": step.rate,
        "warm_up": step.is_warm,
        "passed": step.verdict.is_passed,
        "seconds": run.seconds,
        "visits": len(outcomes),
        "offered_per_second": round(len(outcomes) / run.seconds, 3),
        "achieved_per_second": round(count_good(run) / run.seconds, 3),
        "refused": sum(one.answer.is_refusal for one in outcomes),
        "failures": dict(failures.most_common()),
        "generator": {
            "cores": round(run.generator_share, 3),
            "late_ms_p99": None if math.isnan(run.late_ms) else round(run.late_ms, 3),
        },
        "latency": {
            name: _describe_latencies(measure(mine))
            for name, mine in ({"all": outcomes} | divide_by_traffic(outcomes)).items()
        },
        "decisions": {
            kind.value: {correctness.value: counted[correctness] for correctness in Correctness}
            for kind, counted in count_correctness(step.judged).items()
        },
        "criteria": [asdict(one) for one in step.verdict.criteria],
        "warnings": list(step.verdict.warnings),
    }


def _describe_latencies(found: HdrHistogram) -> dict[str, Any]:
    """Milliseconds by percentile, and the histogram in HdrHistogram's encoding (V2, us)."""
    count = found.get_total_count()
    encoded = found.encode().decode() if count else ""
    shares = PERCENTILES if count else ()
    measured = {f"p{share:g}": round(read_ms(found, share), 3) for share in shares}
    return {"count": count, "ms": measured, "histogram": encoded}


def write_page(result: LoadTestResult) -> str:
    """Locust's report of the last step that held, else of the last."""
    held = [one for one in result.measured if one.verdict.is_passed]
    return (held or list(result.measured))[-1].run.page
