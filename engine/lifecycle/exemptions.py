"""Documents that no limit on lines holds for, as those of firms."""

from __future__ import annotations

from datetime import datetime

from engine.errors import NotFound
from engine.matching.holders import NOBODY
from engine.matching.limits import ChangeRunner
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, Changes, Exemption, LifeChanges, is_id
from engine.registry.writer import Writer

CAUSES = ("business", "public_body", "household", "other")


def exempt(
    runner: ChangeRunner, registry: Reader, document_id: str, cause: str, actor: str
) -> Exemption:
    """Exempts a document from the limits of carriers and persons; `NotFound` for none."""
    assert cause in CAUSES, "the interface takes no other"

    def perform(writer: Writer, now: datetime) -> Exemption:
        record = registry.document(document_id)
        if record.is_erased:
            raise NotFound(NOBODY)
        made = Exemption(document_id=record.id, cause=cause, at=now, by=actor)
        entry = AuditEntry(actor, "document.exempted", record.id, {"cause": cause})
        life = LifeChanges(exempted=(made,))
        writer.commit(Changes(sequence=writer.sequence, audit=(entry,), life=life))
        return made

    return runner.run(perform)


def end_exemption(runner: ChangeRunner, registry: Reader, document_id: str, actor: str) -> None:
    """The limits hold for the document again; `NotFound` where they did."""

    def perform(writer: Writer, _: datetime) -> None:
        if not (is_id(document_id) and registry.life.exemptions([document_id])):
            raise NotFound("this document is not exempt")
        entry = AuditEntry(actor, "document.exemption_ended", document_id)
        life = LifeChanges(unexempted=(document_id,))
        writer.commit(Changes(sequence=writer.sequence, audit=(entry,), life=life))

    runner.run(perform)
