"""Deletion of data whose retention period is over: `retention show`, `retention run`."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import RequestError
from serving.cli.inputs import (
    CertificateOption,
    HomeOption,
    name_actor,
    open_deployment,
    require_place,
    save_certificate,
)
from serving.cli.output import (
    DEPLOYMENT,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_facts,
    print_json,
    print_line,
    print_table,
    show_progress,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.registry.retention import Kind
    from engine.retention.job import RetentionCertificate
    from serving.deployment.deployment import Deployment

NAMES = {
    "attempts": "rejected attempts",
    "reviews": "attempts that went to review",
    "documents": "documents of such attempts alone",
    "lines": "numbers of closed lines",
    "answers": "stored answers",
    "crops": "aligned faces",
    "liveness": "results of liveness checks",
    "exceptions": "exceptions that were decided",
    "guardians": "guardians of who is grown up",
    "events": "events",
    "line_events": "what happened to lines",
}


def register(app: typer.Typer) -> None:
    summary = "Delete data whose retention period is over, or show what is due."
    commands = {"show": show_due, "run": run_now, "confirm-clock": confirm_clock}
    add_group(app, "retention", summary, DEPLOYMENT, **commands)


def show_due(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show how long each kind of data is kept, and how much is due now.

    Changes nothing, and runs beside a writer.
    """
    with open_deployment(home) as deployment:
        _show(deployment, as_json)


def run_now(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what is due, as `show` does.")
    ] = False,
    certificate: CertificateOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete data whose retention period is over, and do what is due of lines by their rules.

    It cannot be undone. It may be interrupted at any point: the next run goes on. A running
    service does this itself, daily; steps of lines within seconds.
    """
    from serving.jobs.periodic import ClockWatch

    if certificate is not None:
        require_place(certificate)
    with open_deployment(home) as deployment:
        if dry_run:
            _show(deployment, as_json)
            return
        watch = ClockWatch.of(deployment)
        made = _run(deployment, watch.check(), is_shown=not as_json)
        erased = deployment.finish_erasures(name_actor(), watch.check)
        if erased and not as_json:
            print_line(f"[green]Erased[/]: {len(erased)} documents that waited for cases.")
    _print_result(made, certificate, as_json)


def confirm_clock(
    day: Annotated[
        str, typer.Argument(metavar="DAY", help="Today's date (UTC), not read from this machine.")
    ],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put on record that this machine's clock is right, also while a service runs.

    Retention deletes nothing where nothing was recorded for more than 7 days, or where the clock
    was set: after a long pause of the whole service that is no fault.
    """
    from engine.registry.records import utc_now
    from engine.retention import clock

    try:
        today = date.fromisoformat(day)
    except ValueError:
        raise RequestError("the day is no date: write it as 2026-01-31") from None
    with open_deployment(home) as deployment:
        clock.confirm_clock(deployment.store, today, utc_now(), name_actor())
    print_answer({"today": day}, "[green]Confirmed[/]: the clock is right.", as_json=as_json)


def _run(deployment: Deployment, now: datetime, *, is_shown: bool) -> RetentionCertificate:
    from engine.lifecycle.reverification import carry_out
    from engine.retention.job import DirectRunner, preview, run_retention
    from serving.deployment.deployment import read_schedule
    from serving.jobs.retention import retire_sweeps

    schedule = read_schedule(deployment.settings.retention)
    runner = DirectRunner(deployment.writer)
    lines = (runner, deployment.store, deployment.line_rules)
    steps = sum(iter(lambda: carry_out(*lines, now=now), 0))
    if steps and is_shown:
        print_line(f"[green]Done[/]: {steps:,} steps of lines that were due.")
    due = preview(deployment.store, schedule, now)
    done, total = 0, sum(one.rows for one in due.values())
    with show_progress("leaving", is_shown=is_shown) as report:

        def count(_: Kind, rows: int) -> None:
            nonlocal done
            done += rows
            report(done, max(done, total))

        made = run_retention(runner, schedule, name_actor(), now=now, report=count)
    retire_sweeps(deployment, runner, name_actor(), now)
    return made


def _print_result(made: RetentionCertificate, target: Path | None, as_json: bool) -> None:
    from serving.jobs.retention import write_certificate

    values = write_certificate(made)
    if as_json:
        print_json(values)
    else:
        print_line("[green]Left[/]: " + (_list(made.left) or "nothing") + ".")
        if held := _list(made.held):
            print_line(f"Held by open cases: {held}.")
        facts = {name: str(values[name]) for name in ("job_id", "ran_at", "audit_number")}
        print_facts("Certificate:", {**facts, "audit_hash": made.audit_hash})
    if target is not None:
        fallback = f"the certificate is entry {made.audit_number} of the audit chain"
        save_certificate(target, values, "done", fallback)


def _show(deployment: Deployment, as_json: bool) -> None:
    from engine.registry.records import utc_now
    from engine.registry.retention import Kind
    from engine.retention.clock import find_clock_fault
    from engine.retention.job import preview
    from serving.deployment.deployment import read_schedule

    now = utc_now()
    fault = find_clock_fault(deployment.store, now)
    schedule = read_schedule(deployment.settings.retention)
    until = schedule.until(now)
    due = preview(deployment.store, schedule, now)
    crops = deployment.settings.crops
    step_at = deployment.store.life.next_step_at()
    answer = {
        "until": {kind.value: moment.isoformat() for kind, moment in until.items()},
        "due": {kind.value: one.rows for kind, one in due.items()},
        "held": {kind.value: one.held for kind, one in due.items()},
        "crops": {"keep": crops.keep, "days": crops.days, "hold_days": crops.hold_days},
        "daily_at": deployment.settings.retention.daily_at or None,
        "line_step_at": None if step_at is None else step_at.isoformat(),
        "clock_fault": fault,
    }
    rows = []
    for kind, period in schedule.periods.items():
        days = crops.days if kind is Kind.CROPS else None if period is None else period.days
        found = due.get(kind)
        rows.append(
            [
                NAMES[kind.value],
                "for good" if days is None else f"{days} days",
                "-" if found is None else f"{found.rows:,}",
                "-" if found is None else f"{found.held:,}",
            ]
        )
    columns = ("what", "kept", "due", "held by cases")

    def show() -> None:
        print_table(None, columns, rows)
        if step_at is not None and step_at <= now:
            print_line(f"Steps of lines are due since {step_at.isoformat(timespec='minutes')}.")
        if fault is not None:
            print_line(f"[red]Refused[/]: {escape(fault)}.")

    print_answer(answer, show, as_json=as_json)


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rows:,} {NAMES[kind]}" for kind, rows in counts.items() if rows)
