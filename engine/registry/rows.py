"""Turns rows of the database into records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Row

from engine.registry.records import (
    CaseRecord,
    CaseState,
    DocumentRecord,
    DocumentStatus,
    LineRecord,
    LineStatus,
)


def gather_documents(rows: Iterable[Row[Any]]) -> list[DocumentRecord]:
    """Documents joined with their live references: a row for each, or one without any."""
    first: dict[str, Row[Any]] = {}
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


def line_of(row: Row[Any]) -> LineRecord:
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


def case_of(row: Row[Any]) -> CaseRecord:
    values: Mapping[str, Any] = row._asdict()
    return CaseRecord(
        **{**values, "state": CaseState(row.state), "document_ids": tuple(row.document_ids)}
    )
