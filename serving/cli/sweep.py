"""Faces that hold several identities: `sweep` finds them, `sweep cancel` ends one on its way."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import typer

from engine.errors import RegistryError, RequestError, SweepBusy, WriterBusy
from engine.registry.writer import ChangeRunner
from engine.retention.job import DirectRunner
from engine.sweeps.estimate import SweepOrder
from schema import frozen
from schema.sweeps import SweepRecord, SweepScope, SweepState
from serving.api import serializers
from serving.cli.inputs import argument, option, require_place, writing
from serving.cli.output import (
    Answer,
    Call,
    Cell,
    Facts,
    Listing,
    apps,
    columns,
    command,
    done,
    escape,
    make_command,
    show_example,
)
from serving.deployment.deployment import Deployment
from serving.operator_client import find_address
from serving.sweeps import sweep_views
from serving.sweeps.manager import SweepManager
from serving.sweeps.sweep_views import SweepViews, plan_sweep
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
    found = SweepViews.of(call.deployment).list(top)
    items = tuple(map(serializers.sweep_report, found))
    return Answer({"sweeps": items}, Listing(found, SWEEP_COLUMNS, "Nothing was swept yet."))


SWEEP_COLUMNS: dict[str, Cell] = {
    "sweep": "id",
    "state": "state",
    "of": lambda one: sweep_views.SCOPES[one.terms.scope],
    "threshold": lambda one: f"{one.terms.threshold:.4f}",
    "begun": "started_at",
    "compared": lambda one: f"{one.progress.share:.0%}" if one.progress.comparisons_total else "-",
    "pairs": lambda one: f"{(one.summary or {}).get('pairs', one.progress.pairs):,}",
    "groups": lambda one: f"{one.summary['groups']:,}" if one.summary else "-",
}


@command("sweep show")
def show_sweep(call: Call, sweep_id: str = SWEEP_ID) -> Answer:
    """Show one sweep: how far it is, what it found, where its files are."""
    reader = SweepViews.of(call.deployment)
    record, files = reader.status(sweep_id), list_files(reader, sweep_id)
    answer = {"sweep": serializers.sweep_report(record), "files": files}
    return Answer(answer, _tell_sweep(record), *map(_name_file, files))


@command("sweep groups")
def list_groups(
    call: Call,
    sweep_id: str = SWEEP_ID,
    top: int = option(TOP, default=100, min=1, max=MOST_GROUPS),
    after: int = option("Leave out so many, the riskiest.", default=0, min=0),
) -> Answer:
    """List what a sweep found, the riskiest first; whose they are is in its files and cases."""
    page = SweepViews.of(call.deployment).groups(sweep_id, after, top)
    return Answer(page, _list_groups(page, after), f"{len(page.groups)} of {page.total} groups.")


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
    require_place(file)
    runner = DirectRunner(call.deployment.writer) if faces else None
    shown = write_report(call, sweep_id, file, runner)
    parts = _name_file(str(file)), NO_FACES if shown == 0 else ""
    return Answer({"report": str(file), "faces": shown}, *parts)


def write_report(
    call: Call, sweep_id: str, target: Path, runner: ChangeRunner | None
) -> int | None:
    """Issues a report; with `runner`, by which it is audited, one with faces: how many."""
    with writing(target, "a report"):
        return sweep_views.issue_report(call.deployment, sweep_id, target, call.actor, runner)


def _tell_result(reader: SweepViews, record: SweepRecord, top: int, shown: int | None) -> Answer:
    """The findings of a sweep that has just ended; `shown` as `write_report` returned it."""
    page, files = reader.groups(record.id, 0, top), list_files(reader, record.id)
    answer = {"sweep": serializers.sweep_report(record), "groups": page.groups}
    return Answer(
        {**answer, "total": page.total, "files": files, "faces": shown},
        _list_groups(page, 0),
        _tell_sweep(record),
        *map(_name_file, files),
        NO_FACES if shown == 0 else "",
    )


def _tell_sweep(record: SweepRecord) -> Facts:
    return Facts(f"Sweep [bold]{record.id}[/]", sweep_views.sweep_facts(record))


def _list_groups(page: GroupPage, after: int) -> Listing:
    places = count(after + 1)
    shown: dict[str, Cell] = {
        "": lambda _: next(places),
        "kind": lambda one: one.kind.replace("_", " "),
        **columns("identities lines"),
        "fraud in use": lambda one: one.fraud_lines or "-",
        **columns("carriers outlets"),
        "weakest": lambda one: "-" if one.weakest_score is None else f"{one.weakest_score:.4f}",
        "cut links": "severed_links",
        "risk": lambda one: f"{one.risk:.0f}",
    }
    return Listing(page.groups, shown)


def list_files(reader: SweepViews, sweep_id: str) -> list[str]:
    return [str(path) for path in reader.folder(sweep_id).files()]


def _name_file(path: str) -> str:
    return f"  {escape(path)}"


LOOK_EVERY_S = 0.2
_MILLION = 1_000_000


@frozen
class SweepOptions:
    """The terms of a sweep, and what is shown of it."""

    threshold: float | None = option(
        "The lowest score of a pair; from review or the proposal on.", min=-1, max=1
    )
    fmr: float | None = option("The false match rate that chooses it instead.")
    new: bool = option("Only pairs with a face that no sweep has covered yet.")
    plan: bool = option("Say what it would take and bring, and stop there.")
    unsupported: bool = option(
        "Take a threshold of which the calibration can't say what to expect."
    )
    budget: int | None = option(
        "So many groups at most, the most suspicious beyond their score.", min=1, max=10_000
    )
    resume: str | None = option("Go on with a sweep that was stopped.", "ID")
    report: Path | None = option("Also write the HTML report there.", "FILE")
    faces: bool = FACES_FLAG
    top: int = option(TOP, default=20, min=1, max=MOST_GROUPS)

    def read(self) -> SweepOrder:
        """Reads the request; `RequestError` where options contradict one another."""
        request = SweepOrder(
            threshold=self.threshold,
            fmr=self.fmr,
            scope=SweepScope.NEW if self.new else SweepScope.ALL,
            is_unsupported_allowed=self.unsupported,
            budget=self.budget,
        )
        is_asked = self.plan or self.new or self.unsupported or self.budget is not None
        if self.resume is not None and (is_asked or not request.is_open):
            raise RequestError("a sweep goes on with its own terms: give --resume ID alone")
        if self.faces and self.report is None:
            raise RequestError("faces go into a file of yours alone: name it with --report FILE")
        require_place(self.report)
        return request


@apps["sweep"].callback(invoke_without_command=True, epilog=show_example("sweep"))
@make_command
def sweep(call: Call, context: typer.Context, chosen: SweepOptions) -> Answer | None:
    """Find the faces in the whole gallery that hold several identities.

    Compares every reference with every other one, and says before it starts what to expect.
    Without a threshold it takes the lowest one that keeps false pairs few at this size. Where
    none does, give a --budget of cases: groups rank by score, outlets, times, names, birth dates,
    passport numbers and disputes. Ctrl-C pauses it; `--resume` goes on where it was.
    """
    if context.invoked_subcommand is not None:
        return None
    request = chosen.read()
    if chosen.plan:
        return _show_plan(call.deployment, request)
    with _open_manager(call.deployment) as manager:
        began = (
            _resume(call, manager, chosen.resume)
            if chosen.resume
            else _begin(call, manager, request)
        )
        done, shown = _follow(call, manager, began.id), None
        if chosen.report is not None:
            runner = call.deployment.registrar if chosen.faces else None
            shown = write_report(call, done.id, chosen.report, runner)
        return _tell_result(SweepViews.of(call.deployment), done, chosen.top, shown)


@command("sweep cancel")
def cancel_sweep(call: Call, sweep_id: str = SWEEP_ID) -> Answer:
    """End a sweep that was stopped on its way, and remove what it has found."""
    with _open_manager(call.deployment) as manager:
        record = manager.cancel(sweep_id, call.actor)
    answer = {"sweep": serializers.sweep_report(record)}
    return done("Cancelled", record.id, answer)


@contextmanager
def _open_manager(deployment: Deployment) -> Iterator[SweepManager]:
    try:
        manager = SweepManager(deployment)
    except WriterBusy as busy:
        url = find_address(deployment.home, deployment.settings.serve)
        raise WriterBusy(f"{busy}: as POST {url}/v1/sweeps with a key of role fraud") from None
    with closing(manager):
        yield manager


def _show_plan(deployment: Deployment, request: SweepOrder) -> Answer:
    expectation = plan_sweep(deployment, request)
    facts = Facts("A sweep of this gallery:", sweep_views.expectation_facts(expectation))
    return Answer({"expectation": serializers.sweep_expectation(expectation)}, facts)


def _begin(call: Call, manager: SweepManager, request: SweepOrder) -> SweepRecord:
    left = manager.states.find_alive()
    if left is not None:
        # With the lease in hand: nobody is at work on it.
        raise SweepBusy(
            f"sweep {left.id} was stopped on its way: go on with --resume {left.id}, or end it "
            f"with `sosie sweep cancel {left.id}`"
        )
    if not call.as_json:
        Facts("This sweep:", sweep_views.expectation_facts(manager.plan(request))).print()
    return manager.start(request, call.actor)


def _resume(call: Call, manager: SweepManager, sweep_id: str) -> SweepRecord:
    record = manager.status(sweep_id)
    if record.state in {SweepState.QUEUED, SweepState.RUNNING}:
        # Its process ended without saying so in the registry.
        manager.pause(sweep_id, call.actor)
    return manager.resume(sweep_id, call.actor)


def _follow(call: Call, manager: SweepManager, sweep_id: str) -> SweepRecord:
    """The sweep when it is done; an interrupt pauses it."""
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
