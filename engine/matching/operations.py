"""What an operator undoes or ends: a watch, a block, a line."""

from __future__ import annotations

from datetime import datetime

from engine.errors import NotFound
from engine.matching.documents import Document
from engine.matching.holders import find_document
from engine.matching.registrar import Registrar
from engine.matching.requests import normalise_msisdn
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, Changes
from engine.registry.writer import Writer


def unwatch(registrar: Registrar, registry: Reader, entry_id: int, actor: str) -> None:
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


def unblock_document(registrar: Registrar, registry: Reader, document: Document, actor: str) -> str:
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


def close_line(registrar: Registrar, registry: Reader, msisdn: str, actor: str) -> str:
    """Closes the line that a number is on and returns its id; `NotFound` where it is on none."""
    number = normalise_msisdn(msisdn)

    def perform(writer: Writer, _: datetime) -> str:
        lookup = registry.vault.look_up("msisdn", number)
        line = registry.lines_in_use([lookup]).get(lookup)
        if line is None:
            raise NotFound("no line in use has this number: check each digit")
        writer.commit(
            Changes(
                sequence=writer.sequence,
                audit=(AuditEntry(actor, "line.closed", line.id),),
                closed_lines=(line.id,),
            )
        )
        return line.id

    return registrar.run(perform)
