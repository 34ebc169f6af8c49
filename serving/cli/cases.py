"""What people have to look into: `cases` lists it, `case show` shows one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.casework import ME, CaseId, name_person, register_steps, write_case
from serving.cli.inputs import HomeOption, name_actor, open_deployment
from serving.cli.output import (
    JsonFlag,
    escape,
    print_facts,
    print_json,
    print_line,
    print_table,
)
from serving.cli.panels import REGISTRY
from serving.masking import mask_number

if TYPE_CHECKING:
    from engine.casework.model import CaseNote
    from engine.registry.records import CaseRecord, LineRecord

MOST_CASES = 10_000
ANY, STANDING = "all", "alive"
STATES = (STANDING, ANY, "open", "assigned", "proposed", "closed", "merged")


def register(app: typer.Typer) -> None:
    app.command("cases", rich_help_panel=REGISTRY)(list_cases)
    case = typer.Typer(help="Show a case, and take its steps.", no_args_is_help=True)
    case.command("show")(show_case)
    register_steps(case)
    app.add_typer(case, name="case", rich_help_panel=REGISTRY)


def _require_state(name: str) -> str:
    if name not in STATES:
        raise typer.BadParameter(f"{name} is none of {', '.join(STATES)}")
    return name


def list_cases(
    state: Annotated[
        str,
        typer.Option(callback=_require_state, help=f"One of {', '.join(STATES)}."),
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

    wanted = None if state == ANY else ALIVE if state == STANDING else CaseState(state)
    with open_deployment(home) as deployment:
        cases = deployment.store.cases(
            state=wanted, kind=kind, assignee=name_person(assignee), limit=top, after=after
        )
    following = cases[-1].id if len(cases) == top else None
    if as_json:
        print_json({"cases": [write_case(case) for case in cases], "next": following})
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

    with open_deployment(home) as deployment:
        store, writer = deployment.store, deployment.writer
        case = store.case(case_id)
        notes = store.case_notes(case.id)
        lines = store.lines_in_use_of(case.document_ids)
        numbers = store.numbers([line.id for found in lines.values() for line in found])
        entry = AuditEntry(
            name_actor(), "case.read", case.id, {"documents": list(case.document_ids)}
        )
        writer.commit(Changes(sequence=writer.sequence, audit=(entry,)))
    masked = {key: mask_number(number) for key, number in numbers.items()}
    if as_json:
        print_json(
            write_case(case)
            | {
                "documents": [_write_document(key, case, lines[key], masked) for key in lines],
                "notes": [_write_note(note) for note in notes],
            }
        )
    else:
        _print_case(case, lines, masked, notes)


def _write_document(
    document_id: str, case: CaseRecord, lines: list[LineRecord], masked: dict[str, str]
) -> dict[str, Any]:
    return {
        "document_id": document_id,
        "is_suspect": document_id in case.suspect_ids,
        "lines": [
            {
                "line_id": line.id,
                "number": masked.get(line.id),
                "carrier": line.carrier,
                "outlet": line.outlet,
                "status": line.status.value,
                "opened_at": line.opened_at.isoformat(),
            }
            for line in lines
        ],
    }


def _write_note(note: CaseNote) -> dict[str, Any]:
    return {
        "at": note.at.isoformat(),
        "actor": note.actor,
        "kind": note.kind.value,
        "text": note.text,
    }


def _print_case(
    case: CaseRecord,
    lines: dict[str, list[LineRecord]],
    masked: dict[str, str],
    notes: list[CaseNote],
) -> None:
    written = write_case(case)
    facts = {
        name.replace("_", " "): str(value)
        for name, value in written.items()
        if value not in (None, []) and name not in ("case_id", "document_ids", "suspect_ids")
    }
    print_facts(f"[bold]{escape(case.kind)}[/]  case {case.id}", facts)
    rows = []
    for key, found in lines.items():
        what = [key, "suspect" if key in case.suspect_ids else ""]
        rows += [
            [
                *what,
                line.id,
                masked.get(line.id, "-"),
                line.status.value,
                escape(f"{line.carrier} {line.outlet}"),
            ]
            for line in found
        ] or [[*what, "none in use", "", "", ""]]
    if rows:
        print_table(None, ("document", "", "line", "number", "status", "where"), rows)
    history = [
        [
            note.at.isoformat(timespec="seconds"),
            escape(note.actor),
            note.kind.value,
            escape(note.text),
        ]
        for note in notes
    ]
    if history:
        print_table(None, ("at", "who", "what", ""), history)
