"""Telephone lines: `lines` shows a holder's to the holder's face, `line close` ends one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.inputs import (
    DocumentOption,
    HomeOption,
    LiveOption,
    NumberOption,
    TypeOption,
    name_actor,
    open_deployment,
    read_details,
    require_probe,
    sample_photographs,
)
from serving.cli.output import (
    JsonFlag,
    escape,
    exit_negative,
    print_json,
    print_line,
    print_table,
)
from serving.cli.panels import REGISTRY
from serving.masking import mask_number

if TYPE_CHECKING:
    from engine.matching.holders import HolderLines


def register(app: typer.Typer) -> None:
    app.command("lines", rich_help_panel=REGISTRY)(list_lines)
    line = typer.Typer(help="Close a line.", no_args_is_help=True)
    line.command("close")(close_line)
    app.add_typer(line, name="line", rich_help_panel=REGISTRY)


def list_lines(
    live: LiveOption,
    document_type: TypeOption = None,
    document_number: NumberOption = None,
    document: DocumentOption = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the numbers whole, not their last digits.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the numbers under a document, to its holder's face.

    Exit code 1 where the face is not the holder's.
    """
    from engine.matching.holders import read_lines
    from engine.matching.scribe import Scribe

    details = read_details(document, type=document_type, number=document_number)
    target = details.known_document()
    with open_deployment(home) as deployment:
        probe = require_probe(sample_photographs(deployment, [live])[0], live)
        registrar = deployment.registrar
        found = read_lines(
            deployment.store,
            registrar.gallery,
            target,
            probe,
            deployment.thresholds.same_document,
            actor=name_actor(),
            audit=Scribe(registrar).keep,
        )
    if as_json:
        print_json(_write_lines(found, reveal))
    else:
        _print_lines(found, reveal)
    if not found.is_holder:
        raise exit_negative()


def close_line(
    msisdn: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="The telephone number, as +<country><number>."),
    ] = None,
    document: DocumentOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Close the line that a number is on: the number may be given to somebody else."""
    from engine.matching.operations import close_line as close

    number = read_details(document, msisdn=msisdn).require("msisdn", "--msisdn")
    with open_deployment(home) as deployment:
        line_id = close(deployment.registrar, deployment.store, number, name_actor())
    if as_json:
        print_json({"line_id": line_id, "status": "closed"})
    else:
        print_line(f"[green]Closed[/] the line {line_id}.")


def _write_lines(found: HolderLines, reveal: bool) -> dict[str, Any]:
    return {
        "is_holder": found.is_holder,
        "score": found.score,
        "threshold": found.threshold,
        "lines": [
            {
                "line_id": line.id,
                "msisdn": _number_of(found, line.id, reveal),
                "carrier": line.carrier,
                "outlet": line.outlet,
                "status": line.status.value,
                "opened_at": line.opened_at.isoformat(),
                "closed_at": line.closed_at.isoformat() if line.closed_at else None,
            }
            for line in found.lines
        ],
    }


def _print_lines(found: HolderLines, reveal: bool) -> None:
    shown = "no score" if found.score is None else f"score {found.score:.4f}"
    if not found.is_holder:
        print_line(f"[red]Not the holder's face[/]: {shown}, threshold {found.threshold:.4f}.")
        return
    rows = [
        [
            _number_of(found, line.id, reveal) or "-",
            line.status.value,
            escape(line.carrier),
            escape(line.outlet),
            line.opened_at.date().isoformat(),
        ]
        for line in found.lines
    ]
    print_table(None, ("number", "status", "carrier", "outlet", "opened"), rows)


def _number_of(found: HolderLines, line_id: str, reveal: bool) -> str | None:
    number = found.numbers.get(line_id)
    return number if number is None or reveal else mask_number(number)
