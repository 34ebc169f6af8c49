"""The document that is presented: what is wrong with it, and whether it is the holder's by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.matching.judge import AttemptBatch, DecidedAttempt, DecisionCheck
from engine.matching.policy import Evidence, EvidencePart, Verdict
from engine.matching.requests import Attempt
from engine.registry.database import new_untimed_id
from engine.registry.documents import ActivatedDocument, DocumentRecord, Identity
from schema.decisions import Finding
from schema.documents import DocumentStatus
from schema.reasons import Decision, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPart(EvidencePart):
    """The document was checked on the date `judged_on`, in the outlet's `time_zone`; decisions from
    before there were time zones have neither."""

    document_findings: tuple[Reason, ...] = ()
    judged_on: str | None = None
    time_zone: str | None = None
    name_differs: bool = False

    def find(self, evidence: Evidence, version: str) -> Iterator[Finding]:
        del evidence, version
        for reason in self.document_findings:
            yield Finding(reason, Decision.REJECTED)
        if self.name_differs:
            yield Finding(Reason.NAME_MISMATCH, Decision.REVIEW)


class DocumentCheck(DecisionCheck):
    """Weighs the documents of a batch, and adds them."""

    part = DocumentPart

    def weigh(self, place: int, attempt: Attempt, evidence: Evidence) -> Sequence[EvidencePart]:
        del place, evidence
        record = self._batch.document(attempt.document_lookup)
        held = self._batch.held(attempt.document_lookup)
        findings = attempt.document.findings
        if record is not None and record.status is DocumentStatus.BLOCKED:
            findings = (*findings, Reason.DOCUMENT_BLOCKED)
        if record is not None and record.awaits_erasure:
            # What is acknowledged happens: nothing comes to the document that would go with it.
            findings = (*findings, Reason.ERASURE_PENDING)
        return [
            DocumentPart(
                document_findings=findings,
                judged_on=None if attempt.judged_on is None else attempt.judged_on.isoformat(),
                time_zone=attempt.time_zone,
                name_differs=held is not None
                and held.name_lookup not in (None, attempt.name_lookup),
            )
        ]

    def write(self, made: DecidedAttempt) -> None:
        made.decided.document_id = settle_document(self._batch, made.attempt, made.verdict)


def settle_document(batch: AttemptBatch, attempt: Attempt, verdict: Verdict) -> str | None:
    """The document's id; adds a row only where an approval or a case needs it.

    A document known only from attempts binds nobody: the first to be approved under it becomes
    its holder, with the name given then.
    """
    lookup, name_lookup = attempt.document_lookup, attempt.name_lookup
    if lookup is None or name_lookup is None:
        return None
    record = batch.document(lookup)
    is_approved = verdict.decision is Decision.APPROVED
    is_for_people = verdict.decision is Decision.REVIEW or bool(verdict.cases)
    if record is None and not (is_approved or is_for_people):
        return None
    if record is not None and not (is_approved and record.status is DocumentStatus.ATTEMPTED):
        return record.id
    row = DocumentRecord(
        id=record.id if record is not None else new_untimed_id(),
        kind=attempt.document.type,
        lookup=lookup,
        name_lookup=name_lookup,
        status=DocumentStatus.ACTIVE if is_approved else DocumentStatus.ATTEMPTED,
        expires_on=attempt.document.expires_on,
        reference_ids=record.reference_ids if record is not None else (),
        identity=Identity(attempt.document.number, attempt.request.document.name),
    )
    batch.writes.append(row if record is None else ActivatedDocument(row))
    batch.add_document(lookup, row)
    return row.id
