"""The command: runs a load test, shows its progress, and prints or writes its result, which as JSON
has no name, no number, no face and no key."""

import inspect
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import typer
from hdrh.histogram import HdrHistogram
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.config import (
    LoadOptions,
    LoadStep,
    LoadTestOptions,
    LoadTestResult,
    Shape,
    read_options,
)
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
from loadtest.errors import LoadTestRefused
from loadtest.exchange import ReportProgress
from loadtest.schedule import Kind
from serving.cli.output import Cell, Listing, RootGroup, escape, print_fault, print_json, print_line
from serving.errors import ExitCode, describe

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
Document = Mapping[str, Any]


def print_summary(summary: Document) -> None:
    """Prints the document for people."""
    asked, people = summary["asked"], summary["cast"]
    print_line(
        f"[bold]{summary['shape']}[/] · {escape(summary['url'])} · "
        f"sosie {escape(summary['version'])} · {asked['arrivals']} arrivals, seed {asked['seed']}"
    )
    print_line(
        f"people from {escape(people['photographs'])}: {people['residents']} enrolled before, "
        f"{people['newcomers']} newcomers, {people['racers']} racers"
    )
    measured = [step for step in summary["steps"] if not step["warm_up"]]
    if summary["knee"] is not None:
        _list_steps(measured).print()
    for step in measured[-1:]:
        _print_step(step)
    rows = [
        (kind, *(_mark(correctness, counted[correctness]) for correctness in Correctness))
        for kind, counted in sum_decisions(summary).items()
    ]
    Listing(rows, ("decisions", *Correctness)).print()
    _print_wrong(summary["wrong"])
    _print_end(summary)


def _list_steps(steps: Sequence[Document]) -> Listing:
    def tell(step: Document) -> str:
        failed = ", ".join(one["name"] for one in step["criteria"] if not one["met"])
        return f"[red]no: {escape(failed)}[/]" if failed else "[green]yes[/]"

    columns: dict[str, Cell] = {
        "rate": lambda one: f"{one['rate']:.1f}/s",
        "achieved": lambda one: f"{one['achieved_per_second']:.1f}/s",
        "p50 ms": lambda one: write_ms(one["latency"]["all"]["ms"].get("p50"), 0),
        "p99 ms": lambda one: write_ms(one["latency"]["all"]["ms"].get("p99"), 0),
        "refused": lambda one: one["refused"],
        "passed": tell,
    }
    return Listing(steps, columns)


def _print_step(step: Document) -> None:
    print_line(
        f"{step['visits']} visits in {step['seconds']:g} s: {step['offered_per_second']:.1f} "
        f"offered per second, {step['achieved_per_second']:.1f} achieved; the generator took "
        f"{step['generator']['cores']:.2f} cores"
    )
    rows = [
        (name, str(found["count"]), *(write_ms(found["ms"].get(one)) for one in SHOWN_PERCENTILES))
        for name, found in step["latency"].items()
        if name != "all"
    ]
    Listing(rows, ("latency, ms", "visits", *SHOWN_PERCENTILES[:-1], "max")).print()
    for one in step["criteria"]:
        mark = "[green]passed[/]" if one["met"] else "[red]failed[/]"
        said = escape(f"{one['name']}: {one['measured']} (objective {one['objective']})")
        print_line(f"  {mark}  {said}")
    if step["failures"]:
        listed = ", ".join(f"{what} ({times})" for what, times in step["failures"].items())
        print_line(f"  not answered: {escape(listed)}")
    for warning in step["warnings"]:
        _note(warning)


def _mark(correctness: Correctness, count: int) -> str:
    return f"[red]{count}[/]" if count and correctness is Correctness.WRONG else str(count)


def _print_wrong(wrong: Sequence[Document]) -> None:
    for one in wrong[:MOST_WRONG]:
        said = (
            f"#{one['number']} {one['kind']}: expected {one['expected']}, "
            f"answered {one['answered']} (key {one['idempotency_key'] or 'none'})"
        )
        print_line(f"  [red]wrong[/]  {escape(said)}")
    if len(wrong) > MOST_WRONG:
        print_line(f"  and {len(wrong) - MOST_WRONG} more: --json lists all")


def _print_end(summary: Document) -> None:
    left, knee = summary["cast"]["left_enrolled"], summary["knee"]
    if left:
        _note(
            f"up to {left} people stay enrolled: give an erase key (--keys) and the test erases "
            "them; whoever is in an open case is erased when that is closed, or 30 days later"
        )
    if knee is not None:
        is_last = knee["lowest_rate_that_failed"] is None
        beyond = " or more: the highest rate tried passed" if is_last else ""
        sure = "" if knee["confirmed"] else "; not confirmed by a longer step"
        if knee["ended_early"]:
            _note(f"ended early: {knee['ended_early']}")
        found = f"{knee['rate']:.1f} arrivals per second" if knee["rate"] else "none found"
        print_line(f"Knee: [bold]{found}[/]{beyond}{sure}")
    print_line("[green]Passed.[/]" if summary["passed"] else "[red]Failed.[/]")


def _note(text: str) -> None:
    print_line(f"  [yellow]note[/]  {escape(text)}")


app = typer.Typer(
    cls=RootGroup,
    add_completion=False,
    rich_markup_mode=None,
    help="Sends planned requests to a service and checks every answer.",
    epilog="Exit codes: 0 passed, 1 failed, 2 bad input, 3 internal error, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _make_command(shape: Shape) -> Callable[..., None]:
    def run(**given: Any) -> None:
        """Sends planned requests to a service and checks every answer."""
        _run(read_options(shape, LoadOptions(**given)))

    run.__signature__ = inspect.signature(LoadOptions, eval_str=True)  # type: ignore[attr-defined]
    return run


for one in Shape:
    app.command(one.value)(_make_command(one))


def _run(options: LoadTestOptions) -> None:
    # Locust uses the root logger, which would be set up to write to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    # Imports Locust, which replaces sockets and threads of the whole process.
    from loadtest.load import run_load_test

    try:
        with show_progress(is_shown=not options.given.as_json) as report:
            result = run_load_test(options, report)
    except KeyboardInterrupt:
        # Click would write an empty line.
        raise typer.Abort from None
    raise typer.Exit(report_result(result))


def report_result(result: LoadTestResult) -> int:
    """Prints the result, then writes the page, and returns the exit code.

    The result comes first, so that a page that cannot be written loses nothing.
    """
    summary, given = summarize(result), result.options.given
    if given.as_json:
        print_json(summary)
    else:
        print_summary(summary)
    sys.stdout.flush()
    code = ExitCode.FINE if result.is_passed else ExitCode.NEGATIVE
    if given.html is None:
        return code
    try:
        given.html.write_text(write_page(result), encoding="utf-8")
    except OSError as error:
        # On standard error even with --json: the document has been written already.
        fault = describe(LoadTestRefused(f"{given.html} cannot be written: {error.strerror}"))
        print_fault(fault, as_json=False)
        return code or fault.exit_code
    if not given.as_json:
        print_line(f"Report: {escape(str(given.html))}")
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
    profile, given = options.profile, options.given
    return {
        "rate": profile.rate,
        "step_or_run_s": profile.seconds,
        "peak": profile.peak or None,
        "peak_s": profile.peak_s or None,
        "most_rate": profile.most_rate or None,
        "arrivals": profile.process.value,
        "in_flight": given.in_flight,
        "timeout_s": given.timeout_s,
        "mix": {traffic.value: round(share, 4) for traffic, share in options.mix.items()},
        "references": given.references,
        "seed": given.seed,
        "p99_ms": given.p99_ms,
        "max_errors": given.max_errors,
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
