"""Lines and restrictions: `lines`, `line close`, `watch`, `block`, `unblock`, `blocked`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.matching.checks.picture import FaceVector, fuse_frames
from engine.matching.holders import block_document as block
from engine.matching.holders import read_lines
from engine.matching.holders import watch_face as watch
from engine.matching.lines import unblock_document as unblock
from engine.matching.lines import unwatch
from serving.api import serializers
from serving.cli import inputs
from serving.cli.inputs import argument, option
from serving.cli.output import Answer, Call, Cell, Listing, columns, command
from serving.wire.fields import of_record
from serving.wire.oversight import BlockedDocument, WatchedEntry


@command("lines")
def list_lines(
    call: Call,
    live: list[Path] = option(inputs.LIVE, "IMAGE", default=...),
    document_type: str | None = inputs.TYPE_OPTION,
    document_number: str | None = inputs.NUMBER_OPTION,
    document: str | None = inputs.DOCUMENT_OPTION,
    reveal: bool = option("Show the numbers whole, not their last digits."),
) -> Answer:
    """List the numbers under a document, to its holder's face.

    Exit code 1 where the face is not the holder's.
    """
    frames = inputs.list_frames(live)
    details = inputs.read_details(document, type=document_type, number=document_number)
    target = details.known_document()
    deployment = call.deployment
    thresholds = deployment.thresholds
    samples = inputs.sample_photographs(deployment, frames)
    sample = fuse_frames(samples, thresholds.one_person)
    probe = FaceVector(inputs.require_probe(sample, frames[0]), sample.length)
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
    if not found.is_holder:
        shown = "no score" if answer.score is None else f"score {answer.score:.4f}"
        text = f"[red]Not the holder's face[/]: {shown}, threshold {answer.threshold:.4f}."
        return Answer(answer, text, is_no=True)
    opened = {"opened": lambda line: line.opened_at.date()}
    return Answer(
        answer, Listing(answer.lines, {**columns("number status carrier outlet"), **opened})
    )


@command("watch add")
def watch_face(
    call: Call,
    image: Path = argument(None, "IMAGE"),
    reason: str = option("Why: shown to those who review a hit.", default=...),
) -> Answer:
    """Put a face on the watch-list: an enrollment that meets it goes to review."""
    inputs.require_words(reason, "a reason", 200)
    deployment = call.deployment
    (sample,) = inputs.sample_photographs(deployment, [image])
    probe = inputs.require_probe(sample, image)
    entry = watch(deployment.registrar, probe, reason, call.actor, sample.second)
    return Answer({"watch_id": entry}, f"[green]Watching[/] this face, entry {entry}.")


@command("watch list")
def list_watched(call: Call) -> Answer:
    """List the watch-list's entries."""
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
    shown: dict[str, Cell] = {
        "entry": lambda entry: entry.watch_id,
        "added": lambda entry: entry.added_at.date(),
        "reason": "reason",
    }
    return Answer({"entries": entries}, Listing(entries, shown, "The watch-list is empty."))


@command("watch remove")
def remove_watched(
    call: Call, entry: int = argument("As `watch list` shows it.", "ID", min=1)
) -> Answer:
    """Take an entry off the watch-list; its template is deleted."""
    unwatch(call.deployment.registrar, call.store, entry, call.actor)
    text = f"[green]Removed[/] entry {entry} from the watch-list."
    return Answer({"watch_id": entry, "is_watched": False}, text)


@command("block")
def block_document(
    call: Call,
    document_type: str | None = inputs.TYPE_OPTION,
    document_number: str | None = inputs.NUMBER_OPTION,
    document: str | None = inputs.DOCUMENT_OPTION,
) -> Answer:
    """Block a document: every attempt under it is refused."""
    details = inputs.read_details(document, type=document_type, number=document_number)
    return _set_block(call, details, block, is_blocked=True)


@command("unblock")
def unblock_document(
    call: Call,
    document_type: str | None = inputs.TYPE_OPTION,
    document_number: str | None = inputs.NUMBER_OPTION,
    document: str | None = inputs.DOCUMENT_OPTION,
) -> Answer:
    """Lift the block of a document."""
    details = inputs.read_details(document, type=document_type, number=document_number)
    return _set_block(call, details, unblock, is_blocked=False)


def _set_block(
    call: Call, details: inputs.Details, change: Callable[..., str], *, is_blocked: bool
) -> Answer:
    target = details.known_document()
    document_id = change(call.deployment.registrar, call.store, target, call.actor)
    text = f"[green]{'Blocked' if is_blocked else 'Unblocked'}[/] the document {document_id}."
    return Answer({"document_id": document_id, "is_blocked": is_blocked}, text)


@command("blocked")
def list_blocked(call: Call) -> Answer:
    """List the blocked documents."""
    blocked = [
        of_record(BlockedDocument, one, document_id=one.id, type=one.kind)
        for one in call.store.blocked_documents()
        if one.blocked_at is not None
    ]
    shown: dict[str, Cell] = {
        "document": "document_id",
        "type": "type",
        "blocked at": lambda one: one.blocked_at.isoformat(),
        "": lambda one: "erased" if one.is_erased else "",
    }
    return Answer({"documents": blocked}, Listing(blocked, shown, "No document is blocked."))
