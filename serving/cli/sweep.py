"""Faces that hold several identities: `sweep` finds them, `sweep cancel` ends one on its way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from engine.errors import (
    NotInstalled,
    RegistryError,
    RequestError,
    SweepBusy,
    WriterBusy,
    advise_extra,
)
from serving.cli.inputs import argument, option, require_place
from serving.cli.output import (
    Answer,
    Call,
    Columns,
    apps,
    command,
    escape,
    list_answer,
    make_command,
    print_facts,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from engine.registry.writer import ChangeRunner
    from engine.sweeps.estimate import SweepRequest
    from schema.sweeps import SweepRecord
    from serving.deployment.deployment import Deployment
    from serving.sweeps.manager import SweepManager
    from serving.sweeps.sweep_views import SweepReader
    from serving.wire.sweeps import GroupPage


NO_FACES = r"No face is kept of these people (\[crops] keep in sosie.toml): the report has none."
MOST_SWEEPS, MOST_GROUPS = 1_000, 10_000

SWEEP_ID = argument("As `sosie sweep list` shows it.", "ID")
TOP = "How many to list at most."
FACES_FLAG = option(
    "With the faces that are kept of its first groups: the file is yours to delete."
)


@command("sweep list")
def list_sweeps(call: Call, top: int = option(TOP, default=20, min=1, max=MOST_SWEEPS)) -> Answer:
    """List the sweeps, the newest first."""
    from serving.api import serializers
    from serving.sweeps.sweep_views import SWEEP_COLUMNS, sweep_row

    found = open_reader(call.deployment).list(top)
    items, rows = list(map(serializers.sweep_report, found)), list(map(sweep_row, found))
    columns: Columns = {name: itemgetter(place) for place, name in enumerate(SWEEP_COLUMNS)}
    return list_answer({"sweeps": items}, rows, columns, "Nothing was swept yet.")


@command("sweep show")
def show_sweep(call: Call, sweep_id: str = SWEEP_ID) -> Answer:
    """Show one sweep: how far it is, what it found, where its files are."""
    from serving.api import serializers

    reader = open_reader(call.deployment)
    record, files = reader.status(sweep_id), list_files(reader, sweep_id)

    def show() -> None:
        _print_sweep(record)
        _print_files(files)

    return Answer({"sweep": serializers.sweep_report(record), "files": files}, show)


@command("sweep groups")
def list_groups(
    call: Call,
    sweep_id: str = SWEEP_ID,
    top: int = option(TOP, default=100, min=1, max=MOST_GROUPS),
    after: int = option("Leave out so many, the riskiest.", default=0, min=0),
) -> Answer:
    """List what a sweep found, the riskiest first; whose they are is in its files and cases."""
    page = open_reader(call.deployment).groups(sweep_id, after, top)

    def show() -> None:
        _print_groups(page, after)
        print_line(f"{len(page.groups)} of {page.total} groups.")

    return Answer(page, show)


@command("sweep report")
def report_sweep(
    call: Call,
    sweep_id: str = SWEEP_ID,
    file: Path = argument("Where the report goes.", "FILE"),
    faces: bool = FACES_FLAG,
) -> Answer:
    """Write the HTML report of a sweep anew, with what people have decided since.

    With --faces the registry must not be open elsewhere: who looks at people is audited.
    """
    from engine.retention.job import DirectRunner

    require_place(file)
    runner = DirectRunner(call.deployment.writer) if faces else None
    shown = write_report(call, sweep_id, file, runner)
    text = f"  {escape(str(file))}" + (f"\n{NO_FACES}" if shown == 0 else "")
    return Answer({"report": str(file), "faces": shown}, text)


def write_report(
    call: Call, sweep_id: str, target: Path, runner: ChangeRunner | None
) -> int | None:
    """Issues a report; with `runner`, by which it is audited, one with faces: how many."""
    from serving.sweeps.sweep_views import issue_report

    try:
        return issue_report(call.deployment, sweep_id, target, call.actor, runner)
    except ModuleNotFoundError as missing:
        raise NotInstalled(
            f"a report is written with {missing.name}, which is not installed here: "
            f"{advise_extra('desk')}"
        ) from None
    except OSError as error:
        raise RegistryError(f"{target} cannot be written: {error.strerror}") from None


def _tell_result(reader: SweepReader, record: SweepRecord, top: int, shown: int | None) -> Answer:
    """The findings of a sweep that has just ended; `shown` as `write_report` returned it."""
    from serving.api import serializers

    page, files = reader.groups(record.id, 0, top), list_files(reader, record.id)
    answer = {"sweep": serializers.sweep_report(record), "groups": page.groups}

    def show() -> None:
        _print_groups(page, 0)
        _print_sweep(record)
        _print_files(files)
        if shown == 0:
            print_line(NO_FACES)

    return Answer({**answer, "total": page.total, "files": files, "faces": shown}, show)


def _print_sweep(record: SweepRecord) -> None:
    from serving.sweeps.sweep_views import sweep_facts

    print_facts(f"Sweep [bold]{record.id}[/]", sweep_facts(record))


def _print_groups(page: GroupPage, after: int) -> None:
    from serving.sweeps.sweep_views import GROUP_COLUMNS, group_cells

    rows = [group_cells(place, group) for place, group in enumerate(page.groups, start=after + 1)]
    if rows:
        print_table(None, GROUP_COLUMNS, rows)


def open_reader(deployment: Deployment) -> SweepReader:
    from serving.sweeps.sweep_views import SweepReader

    return SweepReader(deployment.store, deployment.sweep_folder)


def list_files(reader: SweepReader, sweep_id: str) -> list[str]:
    return [str(path) for path in reader.folder(sweep_id).files()]


def _print_files(files: list[str]) -> None:
    for path in files:
        typer.echo(f"  {path}")


LOOK_EVERY_S = 0.2
_MILLION = 1_000_000


@apps["sweep"].callback(invoke_without_command=True)
@make_command
def sweep(
    call: Call,
    context: typer.Context,
    threshold: float | None = option(
        "The lowest score of a pair; from review or the proposal on.", min=-1, max=1
    ),
    fmr: float | None = option("The false match rate that chooses it instead."),
    new: bool = option("Only pairs with a face that no sweep has covered yet."),
    plan: bool = option("Say what it would take and bring, and stop there."),
    unsupported: bool = option(
        "Take a threshold of which the calibration can't say what to expect."
    ),
    budget: int | None = option(
        "So many groups at most, the most suspicious beyond their score.", min=1, max=10_000
    ),
    resume: str | None = option("Go on with a sweep that was stopped.", "ID"),
    report: Path | None = option("Also write the HTML report there.", "FILE"),
    faces: bool = FACES_FLAG,
    top: int = option(TOP, default=20, min=1, max=MOST_GROUPS),
) -> Answer | None:
    """Find the faces in the whole gallery that hold several identities.

    Compares every reference with every other one, and says before it starts what to expect.
    Without a threshold it takes the lowest one that keeps false pairs few at this size. Where
    none does, give a --budget of cases: groups rank by score, outlets, times, names, birth dates,
    passport numbers and disputes. Ctrl-C pauses it; `--resume` goes on where it was.
    """
    if context.invoked_subcommand is not None:
        return None
    request = _ask(threshold, fmr, budget, new=new, unsupported=unsupported)
    is_asked = plan or new or unsupported or budget is not None or not request.is_open
    if resume is not None and is_asked:
        raise RequestError("a sweep goes on with its own terms: give --resume ID alone")
    if faces and report is None:
        raise RequestError("faces go into a file of yours alone: name it with --report FILE")
    if report is not None:
        require_place(report)
    if plan:
        return _show_plan(call.deployment, request)
    with _open_manager(call.deployment) as manager:
        began = _resume(call, manager, resume) if resume else _begin(call, manager, request)
        done, shown = _follow(call, manager, began.id), None
        if report is not None:
            runner = call.deployment.registrar if faces else None
            shown = write_report(call, done.id, report, runner)
        return _tell_result(open_reader(call.deployment), done, top, shown)


@command("sweep cancel")
def cancel_sweep(call: Call, sweep_id: str = SWEEP_ID) -> Answer:
    """End a sweep that was stopped on its way, and remove what it has found."""
    from serving.api import serializers

    with _open_manager(call.deployment) as manager:
        record = manager.cancel(sweep_id, call.actor)
    answer = {"sweep": serializers.sweep_report(record)}
    return Answer(answer, f"[green]Cancelled[/] {record.id}.")


def _ask(
    threshold: float | None, fmr: float | None, budget: int | None, *, new: bool, unsupported: bool
) -> SweepRequest:
    from engine.sweeps.estimate import SweepRequest
    from schema.sweeps import SweepScope

    return SweepRequest(
        threshold=threshold,
        fmr=fmr,
        scope=SweepScope.NEW if new else SweepScope.ALL,
        is_unsupported_allowed=unsupported,
        budget=budget,
    )


@contextmanager
def _open_manager(deployment: Deployment) -> Iterator[SweepManager]:
    from serving.operator_client import find_address
    from serving.sweeps.manager import SweepManager

    try:
        manager = SweepManager(deployment)
    except WriterBusy as busy:
        url = find_address(deployment.home, deployment.settings.serve)
        raise WriterBusy(f"{busy}: as POST {url}/v1/sweeps with a key of role fraud") from None
    with closing(manager):
        yield manager


def _show_plan(deployment: Deployment, request: SweepRequest) -> Answer:
    from serving.api import serializers
    from serving.sweeps.planning import plan_sweep
    from serving.sweeps.sweep_views import expectation_facts

    expectation = plan_sweep(deployment, request)
    facts = partial(print_facts, "A sweep of this gallery:", expectation_facts(expectation))
    return Answer({"expectation": serializers.sweep_expectation(expectation)}, facts)


def _begin(call: Call, manager: SweepManager, request: SweepRequest) -> SweepRecord:
    from serving.sweeps.sweep_views import expectation_facts

    left = manager.find_alive()
    if left is not None:
        # With the lease in hand: nobody is at work on it.
        raise SweepBusy(
            f"sweep {left.id} was stopped on its way: go on with --resume {left.id}, or end it "
            f"with `sosie sweep cancel {left.id}`"
        )
    if not call.as_json:
        print_facts("This sweep:", expectation_facts(manager.plan(request)))
    return manager.start(request, call.actor)


def _resume(call: Call, manager: SweepManager, sweep_id: str) -> SweepRecord:
    from schema.sweeps import SweepState

    record = manager.status(sweep_id)
    if record.state in {SweepState.QUEUED, SweepState.RUNNING}:
        # Its process ended without saying so in the registry.
        manager.pause(sweep_id, call.actor)
    return manager.resume(sweep_id, call.actor)


def _follow(call: Call, manager: SweepManager, sweep_id: str) -> SweepRecord:
    """The sweep when it is done; an interrupt pauses it."""
    from schema.sweeps import SweepState

    try:
        with call.progress("million comparisons") as show:
            while not manager.wait(LOOK_EVERY_S):
                progress = manager.status(sweep_id).progress
                show(progress.comparisons // _MILLION, progress.comparisons_total // _MILLION)
    except KeyboardInterrupt:
        manager.pause(sweep_id, call.actor)
        typer.echo(f"Paused. Go on with: sosie sweep --resume {sweep_id}", err=True)
        raise
    record = manager.status(sweep_id)
    if record.state is SweepState.PAUSED:
        raise RegistryError(f"sweep {sweep_id} is paused: {record.fault}")
    if record.state is not SweepState.DONE:
        raise RegistryError(f"sweep {sweep_id} is {record.state.value}: {record.fault}")
    return record
