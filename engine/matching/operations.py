"""What an operator undoes or ends: a watch, a block, a line."""

from __future__ import annotations

from datetime import datetime

from engine.errors import NotFound
from engine.matching.documents import Document
from engine.matching.holders import find_document
from engine.matching.requests import normalise_msisdn
from engine.matching.runner import Runner
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, Changes, LineRecord, LineStatus, is_id
from engine.registry.writer import Writer

LINE_UNKNOWN = "no line in use has this number or id: check each digit"
"""Said of a line that is not and of one that is not the asker's alike, so that it tells nothing."""


def unwatch(registrar: Runner, registry: Reader, entry_id: int, actor: str) -> None:
    """Takes an entry off the watch-list, its template with it; `NotFound` where there is none."""

    def perform(writer: Writer, _: datetime) -> None:
        if all(entry.id != entry_id for entry in registry.watchlist()):
            raise NotFound("the watch-list has no such entry: see `sosie watch list`")
        writer.commit(
            Changes(
                sequence=writer.sequence,
                audit=(AuditEntry(actor, "watchlist.removed", str(entry_id)),),
                unwatched=(entry_id,),
            )
        )
        registrar.watchlist.remove(entry_id)

    registrar.run(perform)


def unblock_document(registrar: Runner, registry: Reader, document: Document, actor: str) -> str:
    """Lifts the block of a document and returns its id; `NotFound` where it is not blocked."""

    def perform(writer: Writer, now: datetime) -> str:
        record = find_document(registry, document, now.date())
        if record.blocked_at is None:
            raise NotFound("this document is not blocked: see `sosie blocked`")
        writer.commit(
            Changes(
                sequence=writer.sequence,
                audit=(AuditEntry(actor, "document.unblocked", record.id),),
                unblocked_documents=(record.id,),
            )
        )
        return record.id

    return registrar.run(perform)


def close_line(
    registrar: Runner,
    registry: Reader,
    line_text: str,
    actor: str,
    *,
    carrier: str | None = None,
) -> str:
    """Closes a line in use, given by number or id, and returns its id.

    `NotFound` where there is none, or where it is not the carrier's that alone may be touched.
    """

    target = normalise_line(line_text)

    def perform(writer: Writer, _: datetime) -> str:
        line = find_line(registry, target)
        if line is None or carrier not in (None, line.carrier):
            raise NotFound(LINE_UNKNOWN)
        writer.commit(
            Changes(
                sequence=writer.sequence,
                audit=(AuditEntry(actor, "line.closed", line.id),),
                closed_lines=(line.id,),
            )
        )
        return line.id

    return registrar.run(perform)


def normalise_line(text: str) -> str:
    """A line's id as it is, or a number in E.164; `RequestError` for what is neither."""
    return text if is_id(text) else normalise_msisdn(text)


def find_line(registry: Reader, target: str) -> LineRecord | None:
    """The line in use with this id, or that this number is on; `None` for none.

    `target` is as `normalise_line` gives it.
    """
    if is_id(target):
        line = registry.lines_by_id([target]).get(target)
        return None if line is None or line.status is LineStatus.CLOSED else line
    lookup = registry.vault.look_up("msisdn", target)
    return registry.lines_in_use([lookup]).get(lookup)
