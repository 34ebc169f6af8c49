"""Faces and documents that no enrollment passes unseen: `watch`, `block`, `unblock`, `blocked`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.inputs import (
    DocumentOption,
    HomeOption,
    NumberOption,
    TypeOption,
    name_actor,
    open_deployment,
    read_details,
    require_probe,
    require_words,
    sample_photographs,
)
from serving.cli.output import JsonFlag, escape, print_json, print_line, print_table
from serving.cli.panels import REGISTRY

MAX_REASON_LENGTH = 200


def register(app: typer.Typer) -> None:
    watched = typer.Typer(help="Keep the watch-list.", no_args_is_help=True)
    watched.command("add")(watch_face)
    watched.command("list")(list_watched)
    watched.command("remove")(remove_watched)
    app.add_typer(watched, name="watch", rich_help_panel=REGISTRY)
    app.command("block", rich_help_panel=REGISTRY)(block_document)
    app.command("unblock", rich_help_panel=REGISTRY)(unblock_document)
    app.command("blocked", rich_help_panel=REGISTRY)(list_blocked)


def watch_face(
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    reason: Annotated[str, typer.Option(help="Why: shown to whoever reviews a hit.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put a face on the watch-list: an enrollment that meets it goes to review."""
    from engine.matching.holders import watch_face as watch

    require_words(reason, "a reason", MAX_REASON_LENGTH)
    with open_deployment(home) as deployment:
        probe = require_probe(sample_photographs(deployment, [image])[0], image)
        entry = watch(deployment.registrar, probe, reason, name_actor())
    if as_json:
        print_json({"watch_id": entry})
    else:
        print_line(f"[green]Watching[/] this face, entry {entry}.")


def list_watched(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the watch-list's entries."""
    with open_deployment(home) as deployment:
        entries = deployment.store.watchlist()
    if as_json:
        print_json(
            {
                "entries": [
                    {
                        "watch_id": entry.id,
                        "reason": entry.reason,
                        "has_face": entry.template is not None,
                        "has_document": entry.document_lookup is not None,
                        "added_at": entry.added_at.isoformat(),
                    }
                    for entry in entries
                ]
            }
        )
        return
    if not entries:
        print_line("The watch-list is empty.")
        return
    rows = [
        [str(entry.id), entry.added_at.date().isoformat(), escape(entry.reason)]
        for entry in entries
    ]
    print_table(None, ("entry", "added", "reason"), rows)


def remove_watched(
    entry: Annotated[int, typer.Argument(metavar="ID", min=1, help="As `watch list` shows it.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take an entry off the watch-list; its template is deleted."""
    from engine.matching.operations import unwatch

    with open_deployment(home) as deployment:
        unwatch(deployment.registrar, deployment.store, entry, name_actor())
    if as_json:
        print_json({"watch_id": entry, "is_watched": False})
    else:
        print_line(f"[green]Removed[/] entry {entry} from the watch-list.")


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
        print_json({"document_id": document_id, "is_blocked": True})
    else:
        print_line(f"[green]Blocked[/] the document {document_id}.")


def unblock_document(
    document_type: TypeOption = None,
    document_number: NumberOption = None,
    document: DocumentOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Lift the block of a document."""
    from engine.matching.operations import unblock_document as unblock

    details = read_details(document, type=document_type, number=document_number)
    with open_deployment(home) as deployment:
        document_id = unblock(
            deployment.registrar, deployment.store, details.known_document(), name_actor()
        )
    if as_json:
        print_json({"document_id": document_id, "is_blocked": False})
    else:
        print_line(f"[green]Unblocked[/] the document {document_id}.")


def list_blocked(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the blocked documents."""
    with open_deployment(home) as deployment:
        blocked = [
            (document, document.blocked_at.isoformat())
            for document in deployment.store.blocked_documents()
            if document.blocked_at is not None
        ]
    if as_json:
        print_json(
            {
                "documents": [
                    {
                        "document_id": document.id,
                        "type": document.kind,
                        "is_erased": document.is_erased,
                        "blocked_at": since,
                    }
                    for document, since in blocked
                ]
            }
        )
        return
    if not blocked:
        print_line("No document is blocked.")
        return
    rows = [
        [document.id, document.kind, since, "erased" if document.is_erased else ""]
        for document, since in blocked
    ]
    print_table(None, ("document", "type", "blocked at", ""), rows)
