"""The steps of a case: `case assign`, `note`, `propose`, `withdraw`, `close`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.casework.model import Outcome
from serving.cli.inputs import HomeOption, name_actor, open_deployment
from serving.cli.output import JsonFlag, escape, print_json, print_line

if TYPE_CHECKING:
    from engine.registry.records import CaseRecord
    from serving.compose import Deployment

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


def register_steps(case: typer.Typer) -> None:
    """Adds the steps to the group `case`."""
    case.command("assign")(assign_case)
    case.command("note")(note_case)
    case.command("propose")(propose_outcome)
    case.command("withdraw")(withdraw_proposal)
    case.command("close")(close_case)


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
    from engine.casework.desk import assign

    if back and to is not None:
        raise typer.BadParameter("give --to or --back, not both")
    assignee = None if back else name_person(to or ME)
    _step(
        home,
        as_json,
        lambda opened: assign(opened.registrar, opened.store, case_id, assignee, name_actor()),
    )


def note_case(
    case_id: CaseId,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The remark; - reads standard input.")
    ],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a remark to the history of a case; it is sealed in the registry."""
    from engine.casework.desk import note

    remark = sys.stdin.read(MAX_NOTE_BYTES).strip() if text == "-" else text
    _step(
        home,
        as_json,
        lambda opened: note(opened.registrar, opened.store, case_id, remark, name_actor()),
    )


def propose_outcome(
    case_id: CaseId,
    outcome: OutcomeOption,
    close_line: LinesOption = None,
    seen_at: SeenOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Propose an outcome, with the lines that another person is to close by it."""
    from engine.casework.desk import propose

    lines, seen = tuple(close_line or ()), _read_moment(seen_at)
    _step(
        home,
        as_json,
        lambda opened: propose(
            opened.registrar, opened.store, case_id, outcome, lines, name_actor(), seen
        ),
    )


def withdraw_proposal(case_id: CaseId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Take the proposal back."""
    from engine.casework.desk import withdraw

    _step(
        home,
        as_json,
        lambda opened: withdraw(opened.registrar, opened.store, case_id, name_actor()),
    )


def close_case(
    case_id: CaseId,
    outcome: OutcomeOption,
    close_line: LinesOption = None,
    seen_at: SeenOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Close a case.

    Lines are closed by it only where another account has proposed the same: four eyes. Fraud puts
    the faces on the watch-list; twins and mistakes are exceptions for later sweeps; after an
    unfounded dispute its lines are active again.
    """
    from engine.casework.desk import close

    lines, seen = tuple(close_line or ()), _read_moment(seen_at)
    _step(
        home,
        as_json,
        lambda opened: close(
            opened.registrar, opened.store, case_id, outcome, lines, name_actor(), seen
        ),
    )


def name_person(name: str | None) -> str | None:
    """An actor as histories name people."""
    return name_actor() if name == ME else name


def write_case(case: CaseRecord) -> dict[str, Any]:
    """A case as JSON values."""
    proposal = case.proposal
    return {
        "case_id": case.id,
        "kind": case.kind,
        "origin": case.origin.value,
        "state": case.state.value,
        "assignee": case.assignee,
        "outcome": None if case.outcome is None else case.outcome.value,
        "proposal": None
        if proposal is None
        else {
            "outcome": proposal.outcome.value,
            "close_lines": list(proposal.close_lines),
            "by": proposal.by,
            "at": proposal.at.isoformat(),
        },
        "merged_into": case.merged_into,
        "enrollment_id": case.enrollment_id,
        "line_id": case.line_id,
        "line_ids": list(case.line_ids),
        "document_ids": list(case.document_ids),
        "suspect_ids": list(case.suspect_ids),
        "sweep_id": case.sweep_id,
        "group_key": case.group_key,
        "score": case.score,
        "risk": case.risk,
        "opened_at": case.opened_at.isoformat(),
        "updated_at": case.updated_at.isoformat(),
        "closed_at": case.closed_at.isoformat() if case.closed_at else None,
    }


def _read_moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment: datetime | None = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter("--seen-at is no moment with its zone: take it from case show")
    return moment


def _step(home: Path | None, as_json: bool, take: Callable[[Deployment], CaseRecord]) -> None:
    with open_deployment(home) as deployment:
        case = take(deployment)
    if as_json:
        print_json(write_case(case))
    else:
        found = "" if case.outcome is None else f", {case.outcome.value}"
        whose = "" if case.assignee is None else f", {escape(case.assignee)}'s"
        print_line(f"[green]{case.state.value.capitalize()}[/]: case {case.id}{found}{whose}.")
