"""Verification of erasure and retention certificates against the audit chain."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from engine.matching.holders import ErasureCertificate
from engine.registry.audit import read_audit, verify_chain
from engine.registry.store import Reader
from engine.retention.job import RUN, RetentionCertificate, describe_run

Certificate = ErasureCertificate | RetentionCertificate


def check_certificate(
    reader: Reader, certificate: Certificate, progress: Callable[[int, int], None] | None = None
) -> str | None:
    """The fault of a certificate, in one line; None where it is valid.

    It is valid where the whole chain is intact and has exactly the entry that it names, and where
    the document that it says was erased still is. `progress(done, total)` counts chain entries.
    """
    report = verify_chain(reader, progress=progress)
    if not report.intact:
        return f"the audit chain is broken at entry {report.first_bad}: compare with a backup"
    number = certificate.audit_number
    found = read_audit(reader, number - 1, 1) if number > 0 else []
    if not found:
        return (
            f"the audit chain ends before entry {number}: it is another registry, or one "
            "restored from an older backup, where the data must be erased again"
        )
    if found[0].hash.hex() != certificate.audit_hash:
        return (
            f"entry {number} of the audit chain differs: the certificate is from another "
            "registry, or this one was restored from a backup since"
        )
    entry = found[0].entry
    said = (found[0].at, entry.action, entry.subject, dict(entry.detail))
    if said != _claim_of(certificate):
        return f"the certificate was altered: entry {number} of the audit chain says otherwise"
    if isinstance(certificate, ErasureCertificate) and not _is_erased(reader, certificate):
        return "the document is no longer erased: erase it again"
    return None


def _claim_of(certificate: Certificate) -> tuple[datetime, str, str, dict[str, Any]]:
    """Time, action, subject and detail of the audit entry; its actor is not compared."""
    if isinstance(certificate, ErasureCertificate):
        detail = {
            "references": certificate.references,
            "lines": certificate.lines,
            "gallery_sequence": certificate.gallery_sequence,
        }
        return certificate.erased_at, "document.erased", certificate.document_id, detail
    detail = describe_run(
        certificate.until,
        certificate.left,
        certificate.held,
        certificate.is_complete,
        certificate.undelivered,
    )
    return certificate.ran_at, RUN, certificate.job_id, detail


def _is_erased(reader: Reader, certificate: ErasureCertificate) -> bool:
    record = reader.documents_by_id([certificate.document_id]).get(certificate.document_id)
    return record is not None and record.is_erased
