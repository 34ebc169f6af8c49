"""What an operator keeps: carriers, outlets, the watch-list, blocked documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.errors import RequestError
from serving.cli.inputs import (
    DocumentOption,
    HomeOption,
    NumberOption,
    TypeOption,
    name_actor,
    open_deployment,
    read_details,
    require_probe,
    sample_photographs,
)
from serving.cli.output import JsonFlag, escape, print_json, print_line
from serving.cli.panels import DEPLOYMENT, REGISTRY

Code = Annotated[str, typer.Argument(metavar="CODE")]

MAX_CODE_LENGTH = 64
MAX_REASON_LENGTH = 200


def register(app: typer.Typer) -> None:
    carriers = typer.Typer(help="Add a carrier.", no_args_is_help=True)
    carriers.command("add")(add_carrier)
    outlets = typer.Typer(help="Add an outlet of a carrier, or close one.", no_args_is_help=True)
    outlets.command("add")(add_outlet)
    outlets.command("close")(close_outlet)
    watched = typer.Typer(help="Put faces on the watch-list.", no_args_is_help=True)
    watched.command("add")(watch_face)
    app.add_typer(carriers, name="carrier", rich_help_panel=DEPLOYMENT)
    app.add_typer(outlets, name="outlet", rich_help_panel=DEPLOYMENT)
    app.add_typer(watched, name="watch", rich_help_panel=REGISTRY)
    app.command("block", rich_help_panel=REGISTRY)(block_document)


def add_carrier(
    code: Code,
    name: Annotated[str, typer.Option(help="The carrier's name.")],
    line_limit: Annotated[
        int, typer.Option(min=1, help="Open lines that one holder may have with it.")
    ] = 5,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a carrier."""
    from engine.registry.records import Carrier

    _check_code(code)
    with open_deployment(home) as deployment:
        deployment.store.add_carrier(Carrier(code, name, line_limit), actor=name_actor())
    if as_json:
        print_json({"carrier": code, "name": name, "line_limit": line_limit})
    else:
        print_line(f"[green]Added[/] the carrier {escape(code)}.")


def add_outlet(
    code: Code,
    carrier: Annotated[str, typer.Option(metavar="CODE", help="The carrier it belongs to.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add an outlet of a carrier."""
    _check_code(code)
    with open_deployment(home) as deployment:
        deployment.store.add_outlet(code, carrier, actor=name_actor())
    if as_json:
        print_json({"outlet": code, "carrier": carrier, "is_open": True})
    else:
        print_line(f"[green]Added[/] the outlet {escape(code)} of {escape(carrier)}.")


def close_outlet(code: Code, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Close an outlet: nobody is enrolled there any more."""
    with open_deployment(home) as deployment:
        deployment.store.close_outlet(code, actor=name_actor())
    if as_json:
        print_json({"outlet": code, "is_open": False})
    else:
        print_line(f"[green]Closed[/] the outlet {escape(code)}.")


def watch_face(
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    reason: Annotated[str, typer.Option(help="Why: shown to whoever reviews a hit.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put a face on the watch-list: an enrollment that meets it goes to review."""
    from engine.matching.holders import watch_face as watch

    if not reason.strip() or len(reason) > MAX_REASON_LENGTH:
        raise RequestError(f"the reason must have 1 to {MAX_REASON_LENGTH} characters")
    with open_deployment(home) as deployment:
        probe = require_probe(sample_photographs(deployment, [image])[0], image)
        entry = watch(deployment.registrar, probe, reason, name_actor())
    if as_json:
        print_json({"watch_id": entry})
    else:
        print_line(f"[green]Watching[/] this face, entry {entry}.")


def block_document(
    document_type: TypeOption = None,
    document_number: NumberOption = None,
    document: DocumentOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Block a document: every attempt under it is refused."""
    from engine.matching.holders import block_document as block

    details = read_details(document, type=document_type, number=document_number)
    with open_deployment(home) as deployment:
        document_id = block(
            deployment.registrar, deployment.store, details.known_document(), name_actor()
        )
    if as_json:
        print_json({"document_id": document_id, "status": "blocked"})
    else:
        print_line(f"[green]Blocked[/] the document {document_id}.")


def _check_code(code: str) -> None:
    if not code.isprintable() or not 1 <= len(code.strip()) == len(code) <= MAX_CODE_LENGTH:
        raise RequestError(
            f"a code has 1 to {MAX_CODE_LENGTH} printable characters, with no space around them"
        )
