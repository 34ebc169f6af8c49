"""Lines and restrictions: `lines`, `line close`, `watch`, `block`, `unblock`, `blocked`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.inputs import (
    Details,
    DocumentOption,
    HomeOption,
    LiveOption,
    MsisdnOption,
    NumberOption,
    TypeOption,
    list_frames,
    name_actor,
    open_deployment,
    read_details,
    require_probe,
    require_words,
    sample_photographs,
)
from serving.cli.line_life import check_rules, report_event, show_line
from serving.cli.output import (
    REGISTRY,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_line,
    print_list,
    print_table,
)

if TYPE_CHECKING:
    from serving.wire.lines import HolderLines


def register(app: typer.Typer) -> None:
    app.command("lines", rich_help_panel=REGISTRY)(list_lines)
    commands = {"close": close_line, "report": report_event, "show": show_line}
    summary = "Close a line, report or show what happened to it, check rules."
    add_group(app, "line", summary, REGISTRY, **commands, rules=check_rules)


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
    from engine.matching.checks.picture import FaceVector, fuse_frames
    from engine.matching.holders import read_lines
    from serving.api import serializers

    frames = list_frames(live)
    details = read_details(document, type=document_type, number=document_number)
    target = details.known_document()
    with open_deployment(home) as deployment:
        samples = sample_photographs(deployment, frames)
        sample = fuse_frames(samples, deployment.thresholds.one_person)
        probe = FaceVector(require_probe(sample, frames[0]), sample.length)
        registrar = deployment.registrar
        found = read_lines(
            deployment.store,
            registrar.gallery,
            target,
            probe.vector,
            deployment.thresholds.of(probe.comparison).same_document,
            actor=name_actor(),
            audit=registrar.audit,
        )
    answer = serializers.holder_lines(found, is_masked=not reveal)
    show = partial(_print_lines, answer)
    print_answer(answer, show, as_json=as_json, is_no=not found.is_holder)


def close_line(
    msisdn: MsisdnOption = None,
    document: DocumentOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Close the line that a number is on: the number may be given to another person."""
    from engine.matching.lines import close_line as close
    from serving.wire.lines import ClosedLine

    number = read_details(document, msisdn=msisdn).require("msisdn", "--msisdn")
    with open_deployment(home) as deployment:
        line_id = close(deployment.registrar, deployment.store, number, name_actor())
    text = f"[green]Closed[/] the line {line_id}."
    print_answer(ClosedLine(line_id, "closed"), text, as_json=as_json)


def _print_lines(found: HolderLines) -> None:
    shown = "no score" if found.score is None else f"score {found.score:.4f}"
    if not found.is_holder:
        print_line(f"[red]Not the holder's face[/]: {shown}, threshold {found.threshold:.4f}.")
        return
    rows = [
        [
            line.number or "-",
            line.status,
            escape(line.carrier),
            escape(line.outlet),
            line.opened_at.date().isoformat(),
        ]
        for line in found.lines
    ]
    print_table(None, ("number", "status", "carrier", "outlet", "opened"), rows)


MAX_REASON_LENGTH = 200


def register_restrictions(app: typer.Typer) -> None:
    commands = {"add": watch_face, "list": list_watched, "remove": remove_watched}
    add_group(app, "watch", "Maintain the watch-list.", REGISTRY, **commands)
    app.command("block", rich_help_panel=REGISTRY)(block_document)
    app.command("unblock", rich_help_panel=REGISTRY)(unblock_document)
    app.command("blocked", rich_help_panel=REGISTRY)(list_blocked)


def watch_face(
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    reason: Annotated[str, typer.Option(help="Why: shown to those who review a hit.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put a face on the watch-list: an enrollment that meets it goes to review."""
    from engine.matching.holders import watch_face as watch

    require_words(reason, "a reason", MAX_REASON_LENGTH)
    with open_deployment(home) as deployment:
        (sample,) = sample_photographs(deployment, [image])
        probe = require_probe(sample, image)
        entry = watch(deployment.registrar, probe, reason, name_actor(), sample.second)
    text = f"[green]Watching[/] this face, entry {entry}."
    print_answer({"watch_id": entry}, text, as_json=as_json)


def list_watched(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the watch-list's entries."""
    from serving.wire.fields import of_record
    from serving.wire.oversight import WatchedEntry

    with open_deployment(home) as deployment:
        entries = [
            of_record(
                WatchedEntry,
                entry,
                watch_id=entry.id,
                has_face=entry.template is not None,
                has_document=entry.document_lookup is not None,
            )
            for entry in deployment.store.watchlist()
        ]
    rows = [
        [str(entry.watch_id), entry.added_at.date().isoformat(), escape(entry.reason)]
        for entry in entries
    ]
    columns, empty = ("entry", "added", "reason"), "The watch-list is empty."
    print_list("entries", entries, columns, rows, as_json=as_json, empty=empty)


def remove_watched(
    entry: Annotated[int, typer.Argument(metavar="ID", min=1, help="As `watch list` shows it.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take an entry off the watch-list; its template is deleted."""
    from engine.matching.lines import unwatch

    with open_deployment(home) as deployment:
        unwatch(deployment.registrar, deployment.store, entry, name_actor())
    text = f"[green]Removed[/] entry {entry} from the watch-list."
    print_answer({"watch_id": entry, "is_watched": False}, text, as_json=as_json)


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
    _set_block(home, as_json, details, block, is_blocked=True)


def unblock_document(
    document_type: TypeOption = None,
    document_number: NumberOption = None,
    document: DocumentOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Lift the block of a document."""
    from engine.matching.lines import unblock_document as unblock

    details = read_details(document, type=document_type, number=document_number)
    _set_block(home, as_json, details, unblock, is_blocked=False)


def _set_block(
    home: Path | None,
    as_json: bool,
    details: Details,
    change: Callable[..., str],
    *,
    is_blocked: bool,
) -> None:
    target = details.known_document()
    with open_deployment(home) as deployment:
        document_id = change(deployment.registrar, deployment.store, target, name_actor())
    text = f"[green]{'Blocked' if is_blocked else 'Unblocked'}[/] the document {document_id}."
    print_answer({"document_id": document_id, "is_blocked": is_blocked}, text, as_json=as_json)


def list_blocked(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the blocked documents."""
    from serving.wire.fields import of_record
    from serving.wire.oversight import BlockedDocument

    with open_deployment(home) as deployment:
        blocked = [
            of_record(BlockedDocument, one, document_id=one.id, type=one.kind)
            for one in deployment.store.blocked_documents()
            if one.blocked_at is not None
        ]
    rows = [
        [one.document_id, one.type, one.blocked_at.isoformat(), "erased" if one.is_erased else ""]
        for one in blocked
    ]
    columns, empty = ("document", "type", "blocked at", ""), "No document is blocked."
    print_list("documents", blocked, columns, rows, as_json=as_json, empty=empty)
