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
    LiveOption,
    MsisdnOption,
    NumberOption,
    TypeOption,
    list_frames,
    read_details,
    require_probe,
    require_words,
    sample_photographs,
)
from serving.cli.line_life import check_rules, report_event, show_line
from serving.cli.output import (
    REGISTRY,
    Answer,
    Call,
    Columns,
    add_commands,
    add_group,
    list_answer,
    print_items,
    print_line,
)

if TYPE_CHECKING:
    from serving.wire.lines import HolderLines


def register(app: typer.Typer) -> None:
    add_commands(app, REGISTRY, lines=list_lines)
    commands = {"close": close_line, "report": report_event, "show": show_line}
    summary = "Close a line, report or show what happened to it, check rules."
    add_group(app, "line", summary, REGISTRY, **commands, rules=check_rules)


def list_lines(
    call: Call,
    live: LiveOption,
    document_type: TypeOption = None,
    document_number: NumberOption = None,
    document: DocumentOption = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the numbers whole, not their last digits.")
    ] = False,
) -> Answer:
    """List the numbers under a document, to its holder's face.

    Exit code 1 where the face is not the holder's.
    """
    from engine.matching.checks.picture import FaceVector, fuse_frames
    from engine.matching.holders import read_lines
    from serving.api import serializers

    frames = list_frames(live)
    details = read_details(document, type=document_type, number=document_number)
    target = details.known_document()
    deployment = call.deployment
    thresholds = deployment.thresholds
    samples = sample_photographs(deployment, frames)
    sample = fuse_frames(samples, thresholds.one_person)
    probe = FaceVector(require_probe(sample, frames[0]), sample.length)
    registrar = deployment.registrar
    found = read_lines(
        call.store,
        registrar.gallery,
        target,
        probe.vector,
        thresholds.of(probe.comparison).same_document,
        actor=call.actor,
        audit=registrar.audit,
    )
    answer = serializers.holder_lines(found, is_masked=not reveal)
    return Answer(answer, partial(_print_lines, answer), is_no=not found.is_holder)


def close_line(call: Call, msisdn: MsisdnOption = None, document: DocumentOption = None) -> Answer:
    """Close the line that a number is on: the number may be given to another person."""
    from engine.matching.lines import close_line as close
    from serving.wire.lines import ClosedLine

    number = read_details(document, msisdn=msisdn).require("msisdn", "--msisdn")
    line_id = close(call.deployment.registrar, call.store, number, call.actor)
    return Answer(ClosedLine(line_id, "closed"), f"[green]Closed[/] the line {line_id}.")


def _print_lines(found: HolderLines) -> None:
    shown = "no score" if found.score is None else f"score {found.score:.4f}"
    if not found.is_holder:
        print_line(f"[red]Not the holder's face[/]: {shown}, threshold {found.threshold:.4f}.")
        return
    columns: Columns = {
        "number": lambda line: line.number or "-",
        "status": "status",
        "carrier": "carrier",
        "outlet": "outlet",
        "opened": lambda line: line.opened_at.date(),
    }
    print_items(None, found.lines, columns)


MAX_REASON_LENGTH = 200


def register_restrictions(app: typer.Typer) -> None:
    commands = {"add": watch_face, "list": list_watched, "remove": remove_watched}
    add_group(app, "watch", "Maintain the watch-list.", REGISTRY, **commands)
    blocks = {"block": block_document, "unblock": unblock_document, "blocked": list_blocked}
    add_commands(app, REGISTRY, **blocks)


def watch_face(
    call: Call,
    image: Annotated[Path, typer.Argument(metavar="IMAGE")],
    reason: Annotated[str, typer.Option(help="Why: shown to those who review a hit.")],
) -> Answer:
    """Put a face on the watch-list: an enrollment that meets it goes to review."""
    from engine.matching.holders import watch_face as watch

    require_words(reason, "a reason", MAX_REASON_LENGTH)
    deployment = call.deployment
    (sample,) = sample_photographs(deployment, [image])
    probe = require_probe(sample, image)
    entry = watch(deployment.registrar, probe, reason, call.actor, sample.second)
    return Answer({"watch_id": entry}, f"[green]Watching[/] this face, entry {entry}.")


def list_watched(call: Call) -> Answer:
    """List the watch-list's entries."""
    from serving.wire.fields import of_record
    from serving.wire.oversight import WatchedEntry

    entries = [
        of_record(
            WatchedEntry,
            entry,
            watch_id=entry.id,
            has_face=entry.template is not None,
            has_document=entry.document_lookup is not None,
        )
        for entry in call.store.watchlist()
    ]
    columns: Columns = {
        "entry": "watch_id",
        "added": lambda entry: entry.added_at.date(),
        "reason": "reason",
    }
    return list_answer({"entries": entries}, entries, columns, "The watch-list is empty.")


def remove_watched(
    call: Call,
    entry: Annotated[int, typer.Argument(metavar="ID", min=1, help="As `watch list` shows it.")],
) -> Answer:
    """Take an entry off the watch-list; its template is deleted."""
    from engine.matching.lines import unwatch

    unwatch(call.deployment.registrar, call.store, entry, call.actor)
    text = f"[green]Removed[/] entry {entry} from the watch-list."
    return Answer({"watch_id": entry, "is_watched": False}, text)


def block_document(
    call: Call,
    document_type: TypeOption = None,
    document_number: NumberOption = None,
    document: DocumentOption = None,
) -> Answer:
    """Block a document: every attempt under it is refused."""
    from engine.matching.holders import block_document as block

    details = read_details(document, type=document_type, number=document_number)
    return _set_block(call, details, block, is_blocked=True)


def unblock_document(
    call: Call,
    document_type: TypeOption = None,
    document_number: NumberOption = None,
    document: DocumentOption = None,
) -> Answer:
    """Lift the block of a document."""
    from engine.matching.lines import unblock_document as unblock

    details = read_details(document, type=document_type, number=document_number)
    return _set_block(call, details, unblock, is_blocked=False)


def _set_block(
    call: Call, details: Details, change: Callable[..., str], *, is_blocked: bool
) -> Answer:
    target = details.known_document()
    document_id = change(call.deployment.registrar, call.store, target, call.actor)
    text = f"[green]{'Blocked' if is_blocked else 'Unblocked'}[/] the document {document_id}."
    return Answer({"document_id": document_id, "is_blocked": is_blocked}, text)


def list_blocked(call: Call) -> Answer:
    """List the blocked documents."""
    from serving.wire.fields import of_record
    from serving.wire.oversight import BlockedDocument

    blocked = [
        of_record(BlockedDocument, one, document_id=one.id, type=one.kind)
        for one in call.store.blocked_documents()
        if one.blocked_at is not None
    ]
    columns: Columns = {
        "document": "document_id",
        "type": "type",
        "blocked at": lambda one: one.blocked_at.isoformat(),
        "": lambda one: "erased" if one.is_erased else "",
    }
    return list_answer({"documents": blocked}, blocked, columns, "No document is blocked.")
