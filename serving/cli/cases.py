"""What people have to look into: `cases`."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.inputs import HomeOption, open_deployment
from serving.cli.output import JsonFlag, escape, print_json, print_line, print_table
from serving.cli.panels import REGISTRY

MOST_CASES = 10_000


def register(app: typer.Typer) -> None:
    app.command("cases", rich_help_panel=REGISTRY)(list_cases)


def list_cases(
    top: Annotated[
        int, typer.Option(min=1, max=MOST_CASES, help="How many to list at most.")
    ] = 100,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the open cases, the newest first."""
    with open_deployment(home) as deployment:
        cases = deployment.store.cases(limit=top)
    if as_json:
        print_json(
            {
                "cases": [
                    {
                        "case_id": case.id,
                        "kind": case.kind,
                        "state": case.state.value,
                        "enrollment_id": case.enrollment_id,
                        "line_id": case.line_id,
                        "document_ids": list(case.document_ids),
                        "score": case.score,
                        "opened_at": case.opened_at.isoformat(),
                    }
                    for case in cases
                ]
            }
        )
        return
    if not cases:
        print_line("No case is open.")
        return
    rows = [
        [
            case.id,
            escape(case.kind),
            case.line_id or case.enrollment_id or "-",
            "-" if case.score is None else f"{case.score:.4f}",
            case.opened_at.isoformat(timespec="seconds"),
        ]
        for case in cases
    ]
    print_table(None, ("case", "kind", "line or enrollment", "score", "opened at"), rows)
