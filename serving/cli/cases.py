"""Cases of the fraud team: `cases` lists them, `case` shows one and takes its steps."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cases.case import Actor, Outcome
from serving.cli.inputs import HomeOption, name_actor, open_deployment
from serving.cli.output import (
    REGISTRY,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_facts,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from serving.wire.cases import CaseFile


MAX_NOTE_BYTES = 64 * 1024
ME = "me"

CaseId = Annotated[str, typer.Argument(metavar="ID", help="The case's id.")]
OutcomeOption = Annotated[Outcome, typer.Option(help="What was found.")]
LinesOption = Annotated[
    list[str] | None,
    typer.Option("--close-line", metavar="LINE", help="A line to close, by its id; repeat it."),
]
SeenOption = Annotated[
    str | None,
    typer.Option(
        "--seen-at",
        metavar="MOMENT",
        help="The case's updated_at, as shown; refused where the case has changed since.",
    ),
]


def assign_case(
    case_id: CaseId,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="ACTOR", help="As histories name people.", show_default=ME),
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Give it back to the queue.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a case to a person, or back to the queue."""
    if back and to is not None:
        raise typer.BadParameter("give --to or --back, not both")
    assignee = None if back else name_person(to or ME)
    _step(home, as_json, case_id, "assign", assignee)


def note_case(
    case_id: CaseId,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The remark; - reads standard input.")
    ],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a remark to the history of a case; it is sealed in the registry."""
    remark = sys.stdin.read(MAX_NOTE_BYTES).strip() if text == "-" else text
    _step(home, as_json, case_id, "note", remark)


def propose_outcome(
    case_id: CaseId,
    outcome: OutcomeOption,
    close_line: LinesOption = None,
    seen_at: SeenOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Propose an outcome, and the lines to be closed by it, for another person to decide."""
    seen = _read_seen_at(seen_at)
    _step(home, as_json, case_id, "propose", outcome, tuple(close_line or ()), seen_at=seen)


def withdraw_proposal(case_id: CaseId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Take the proposal back."""
    _step(home, as_json, case_id, "withdraw")


def close_case(
    case_id: CaseId,
    outcome: OutcomeOption,
    close_line: LinesOption = None,
    seen_at: SeenOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Close a case.

    Fraud, twins, a mistake, and the closing of lines take two people: another must have proposed
    the same. Fraud puts the faces on the watch-list; twins and mistakes are exceptions for later
    sweeps; after an unfounded dispute its lines are active again.
    """
    seen = _read_seen_at(seen_at)
    _step(home, as_json, case_id, "close", outcome, tuple(close_line or ()), seen_at=seen)


def name_person(name: str | None) -> str | None:
    """An actor as histories name people."""
    return name_actor() if name == ME else name


def _read_seen_at(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment: datetime | None = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter("--seen-at is no moment with its zone: take it from case show")
    return moment


def _step(
    home: Path | None, as_json: bool, case_id: str, name: str, *given: object, **more: object
) -> None:
    """Takes the step of this name in `engine.cases.steps`."""
    from engine.cases import steps
    from serving.api import serializers

    account = name_actor()
    actor = Actor(account, account.removeprefix("cli:"))
    with open_deployment(home) as deployment:
        of = (deployment.registrar, deployment.store, case_id)
        case = getattr(steps, name)(*of, *given, actor, **more)
    found = "" if case.outcome is None else f", {case.outcome.value}"
    whose = "" if case.assignee is None else f", {escape(case.assignee)}'s"
    text = f"[green]{case.state.value.capitalize()}[/]: case {case.id}{found}{whose}."
    print_answer(serializers.case(case), text, as_json=as_json)


MOST_CASES = 10_000
ANY, STANDING = "all", "alive"
STATES = (STANDING, ANY, "open", "assigned", "proposed", "closed", "merged")


def register(app: typer.Typer) -> None:
    app.command("cases", rich_help_panel=REGISTRY)(list_cases)
    commands = {
        "show": show_case,
        "assign": assign_case,
        "note": note_case,
        "propose": propose_outcome,
        "withdraw": withdraw_proposal,
        "close": close_case,
    }
    add_group(app, "case", "Show a case, and take its steps.", REGISTRY, **commands)


def _require_state(name: str) -> str:
    if name not in STATES:
        raise typer.BadParameter(f"{name} is none of {', '.join(STATES)}")
    return name


def list_cases(
    state: Annotated[
        str, typer.Option(callback=_require_state, help=f"One of {', '.join(STATES)}.")
    ] = STANDING,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    assignee: Annotated[
        str | None, typer.Option(metavar="ACTOR", help=f"Only this person's; {ME}: yours.")
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, max=MOST_CASES, help="How many to list at most.")
    ] = 100,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on below this case.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List cases, the newest first: those that are not decided, if nothing else is asked."""
    from engine.registry.records import ALIVE, CaseState
    from serving.api import serializers
    from serving.wire.cases import CasePage

    wanted = None if state == ANY else ALIVE if state == STANDING else CaseState(state)
    with open_deployment(home) as deployment:
        cases = deployment.store.cases.newest(
            state=wanted, kind=kind, assignee=name_person(assignee), limit=top, after=after
        )
    following = cases[-1].id if len(cases) == top else None
    if as_json:
        print_json(CasePage(tuple(map(serializers.case, cases)), following))
        return
    if not cases:
        print_line("No case is open." if state == STANDING else "No such case.")
        return
    rows = [
        [
            case.id,
            escape(case.kind),
            case.state.value,
            escape(case.assignee or "-"),
            case.line_id or case.enrollment_id or "-",
            "-" if case.score is None else f"{case.score:.4f}",
            case.opened_at.isoformat(timespec="seconds"),
        ]
        for case in cases
    ]
    columns = ("case", "kind", "state", "assignee", "line or enrollment", "score", "opened at")
    print_table(None, columns, rows)
    if following is not None:
        print_line(f"[dim]Next: --after {following}[/]")


def show_case(case_id: CaseId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show a case with its documents, their lines in use, and its history; audited.

    Numbers show their last digits.
    """
    from engine.registry.records import AuditEntry, Changes
    from serving.api import serializers

    with open_deployment(home) as deployment:
        store, writer = deployment.store, deployment.writer
        case = serializers.case_file(store, case_id)
        detail = {"documents": list(case.document_ids)}
        entry = AuditEntry(name_actor(), "case.read", case.case_id, detail)
        writer.commit(Changes(sequence=writer.sequence, audit=(entry,)))
    print_answer(case, lambda: _print_case(case), as_json=as_json)


def _print_case(case: CaseFile) -> None:
    from serving.wire.fields import plain

    listed_below = ("case_id", "document_ids", "documents", "notes", "merged")
    facts = {
        name.replace("_", " "): str(value)
        for name, value in plain(case).items()
        if value not in (None, []) and name not in listed_below
    }
    print_facts(f"[bold]{escape(case.kind)}[/]  case {case.case_id}", facts)
    rows = []
    for document in case.documents:
        what = [document.document_id, "suspect" if document.is_suspect else ""]
        rows += [
            [
                *what,
                line.line_id,
                line.number or "-",
                line.status,
                escape(f"{line.carrier} {line.outlet}"),
            ]
            for line in document.lines
        ] or [[*what, "none in use", "", "", ""]]
    if rows:
        print_table(None, ("document", "", "line", "number", "status", "where"), rows)
    history = [
        [note.at.isoformat(timespec="seconds"), escape(note.actor), note.kind, escape(note.text)]
        for note in case.notes
    ]
    if history:
        print_table(None, ("at", "who", "what", ""), history)
