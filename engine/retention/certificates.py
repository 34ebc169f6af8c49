"""Verification of erasure and retention certificates against the audit chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from engine.matching.holders import ErasureCertificate
from engine.registry.audit import read_audit, verify_chain
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, AuditRecord
from engine.retention.job import RUN, RetentionCertificate, describe_run

Certificate = ErasureCertificate | RetentionCertificate


@dataclass(frozen=True, slots=True)
class Claim:
    """The audit entry that a certificate claims; its actor is not compared."""

    number: int
    hash: str
    at: datetime
    entry: AuditEntry

    def matches(self, record: AuditRecord) -> bool:
        ours, theirs = self.entry, record.entry
        return (
            self.at == record.at
            and (ours.action, ours.subject) == (theirs.action, theirs.subject)
            and dict(ours.detail) == dict(theirs.detail)
        )


def check_certificate(
    reader: Reader,
    certificate: Certificate,
    progress: Callable[[int, int], None] | None = None,
) -> str | None:
    """What is wrong with a certificate, in one line; None where it is valid.

    It is valid where the whole chain is intact and has exactly the entry that it names, and where
    the document that it says was erased still is. `progress(done, total)` counts chain entries.
    """
    report = verify_chain(reader, progress=progress)
    if not report.intact:
        return f"the audit chain is broken at entry {report.first_bad}: compare with a backup"
    claim = _claim_of(certificate)
    found = read_audit(reader, claim.number - 1, 1) if claim.number > 0 else []
    if not found:
        return (
            f"the audit chain ends before entry {claim.number}: it is another registry, or one "
            "restored from an older backup, where the data must be erased again"
        )
    if found[0].hash.hex() != claim.hash:
        return (
            f"entry {claim.number} of the audit chain differs: the certificate is from another "
            "registry, or this one was restored from a backup since"
        )
    if not claim.matches(found[0]):
        return (
            f"the certificate was altered: entry {claim.number} of the audit chain says otherwise"
        )
    if isinstance(certificate, ErasureCertificate) and not _is_erased(reader, certificate):
        return "the document is no longer erased: erase it again"
    return None


def _claim_of(certificate: Certificate) -> Claim:
    if isinstance(certificate, ErasureCertificate):
        at, action, subject = certificate.erased_at, "document.erased", certificate.document_id
        detail = {
            "references": certificate.references,
            "lines": certificate.lines,
            "gallery_sequence": certificate.gallery_sequence,
        }
    else:
        at, action, subject = certificate.ran_at, RUN, certificate.job_id
        detail = describe_run(
            certificate.until, certificate.left, certificate.held, certificate.is_complete
        )
    return Claim(
        certificate.audit_number,
        certificate.audit_hash,
        at,
        AuditEntry("", action, subject, detail),
    )


def _is_erased(reader: Reader, certificate: ErasureCertificate) -> bool:
    record = reader.documents_by_id([certificate.document_id]).get(certificate.document_id)
    return record is not None and record.is_erased
