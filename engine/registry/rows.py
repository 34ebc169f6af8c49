"""Turns rows of the database into records, and records into rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Row as Found

from engine.registry.apikeys import ApiKey
from engine.registry.records import (
    DocumentRecord,
    DocumentStatus,
    EnrollmentRecord,
    LineRecord,
    LineStatus,
    NewDocument,
    NewLine,
    NewReference,
    StoredAnswer,
    WatchEntry,
)
from engine.registry.vault import WATCHED_TEMPLATE, Vault

Row = Mapping[str, Any]
"""What is written: values by column."""


def gather_documents(rows: Iterable[Found[Any]]) -> list[DocumentRecord]:
    """Documents joined with their live references: a row for each, or one without any."""
    first: dict[str, Found[Any]] = {}
    reference_ids: dict[str, list[int]] = {}
    for row in rows:
        first.setdefault(row.id, row)
        ids = reference_ids.setdefault(row.id, [])
        if row.reference_id is not None:
            ids.append(row.reference_id)
    return [
        DocumentRecord(
            id=row.id,
            kind=row.kind,
            lookup=row.lookup,
            name_lookup=row.name_lookup,
            status=DocumentStatus.BLOCKED if row.blocked_at else DocumentStatus(row.status),
            expires_on=row.expires_on,
            reference_ids=tuple(reference_ids[row.id]),
            blocked_at=row.blocked_at,
            is_erased=row.status == DocumentStatus.ERASED,
        )
        for row in first.values()
    ]


def line_of(row: Found[Any]) -> LineRecord:
    return LineRecord(
        id=row.id,
        msisdn_lookup=row.msisdn_lookup,
        document_id=row.document_id,
        carrier=row.carrier,
        outlet=row.outlet,
        enrollment_id=row.enrollment_id,
        status=LineStatus(row.status),
        opened_at=row.opened_at,
        closed_at=row.closed_at,
    )


def api_key_of(row: Found[Any]) -> ApiKey:
    return ApiKey(**row._asdict())


def document_row(vault: Vault, document: NewDocument, at: datetime) -> Row:
    return {
        "id": document.id,
        "kind": document.kind,
        "lookup": document.lookup,
        "name_lookup": document.name_lookup,
        "identity": _seal_identity(vault, document),
        "expires_on": document.expires_on,
        "status": document.status.value,
        "created_at": at,
    }


def activation_row(vault: Vault, document: NewDocument) -> Row:
    return {
        "key": document.id,
        "name": document.name_lookup,
        "sealed": _seal_identity(vault, document),
        "expiry": document.expires_on,
    }


def _seal_identity(vault: Vault, document: NewDocument) -> bytes:
    said = [document.number, document.name]
    if document.consent_ref is not None:
        said.append(document.consent_ref)
    identity = json.dumps(said, ensure_ascii=False)
    return vault.seal("documents.identity", document.id, identity.encode())


def enrollment_row(record: EnrollmentRecord) -> Row:
    return {
        "id": record.id,
        "sequence": record.sequence,
        "carrier": record.carrier,
        "outlet": record.outlet,
        "document_id": record.document_id,
        "decision": str(record.decision),
        "reasons": [str(reason) for reason in record.reasons],
        "evidence": dict(record.evidence),
        "consent_ref": record.consent_ref,
        "captured_at": record.captured_at,
        "created_at": record.created_at,
    }


def reference_rows(
    vault: Vault, model_digest: str, references: Sequence[NewReference]
) -> list[Row]:
    if not references:
        return []
    ids = [int(reference.id) for reference in references]
    sealed = vault.seal_templates(ids, np.stack([row.template for row in references]))
    rotation_id = vault.rotation_id
    return [
        {
            "id": key,
            "document_id": reference.document_id,
            "enrollment_id": reference.enrollment_id,
            "template": template,
            "model_digest": model_digest,
            "rotation_id": rotation_id,
            "added_sequence": reference.sequence,
        }
        for key, reference, template in zip(ids, references, sealed, strict=True)
    ]


def line_row(vault: Vault, line: NewLine) -> Row:
    return {
        "id": line.id,
        "msisdn_lookup": line.msisdn_lookup,
        "msisdn": vault.seal("lines.msisdn", line.id, line.msisdn.encode()),
        "document_id": line.document_id,
        "carrier": line.carrier,
        "outlet": line.outlet,
        "enrollment_id": line.enrollment_id,
        "status": LineStatus.ACTIVE.value,
        "opened_at": line.opened_at,
    }


def watched_row(vault: Vault, entry: WatchEntry) -> Row:
    template = None
    if entry.template is not None:
        template = vault.seal_templates([entry.id], entry.template[None], WATCHED_TEMPLATE)[0]
    return {
        "id": entry.id,
        "document_lookup": entry.document_lookup,
        "template": template,
        "reason": entry.reason,
        "added_at": entry.added_at,
    }


def answer_row(answer: StoredAnswer) -> Row:
    return {
        "scope": answer.scope,
        "payload_digest": answer.payload_digest,
        "enrollment_id": answer.enrollment_id,
        "response": dict(answer.response),
        "created_at": answer.created_at,
    }
