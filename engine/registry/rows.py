"""Turns rows of the database into records, and records into rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, select, update
from sqlalchemy import Row as Found

from engine.cases.case import CaseNote, CaseOrigin, Outcome, Proposal
from engine.errors import StorageFailed
from engine.registry import tables
from engine.registry.database import KEYS
from engine.registry.records import (
    ApiKey,
    CaseRecord,
    CaseState,
    DocumentRecord,
    DocumentStatus,
    EnrollmentRecord,
    JudgedPair,
    LineRecord,
    LineStatus,
    NewCrop,
    NewDocument,
    NewLine,
    NewReference,
    StoredAnswer,
    WatchEntry,
)
from engine.registry.tables import case_documents, case_notes, cases, crops, judged_pairs, sweeps
from engine.registry.vault import WATCHED_TEMPLATE, Vault
from engine.sweeps.sweep_model import Scope, SweepProgress, SweepRecord, SweepState, SweepTerms

RowValues = Mapping[str, Any]
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


def document_row(vault: Vault, document: NewDocument, at: datetime) -> RowValues:
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


def activation_row(vault: Vault, document: NewDocument) -> RowValues:
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


def enrollment_row(record: EnrollmentRecord) -> RowValues:
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
) -> list[RowValues]:
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


def line_row(vault: Vault, line: NewLine) -> RowValues:
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


def watched_row(vault: Vault, entry: WatchEntry) -> RowValues:
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


def answer_row(answer: StoredAnswer) -> RowValues:
    return {
        "scope": answer.scope,
        "payload_digest": answer.payload_digest,
        "enrollment_id": answer.enrollment_id,
        "response": dict(answer.response),
        "created_at": answer.created_at,
    }


# Cases between records and rows, and what a transaction writes of them.

CASE_NOTE = "case_notes.text"
"""The place that a note's text is sealed for."""

CROP_IMAGE = "crops.image"
_REPLACE_SWEEP = (
    update(sweeps)
    .where(sweeps.c.id == bindparam("key"))
    .values({column.name: bindparam(f"new_{column.name}") for column in sweeps.columns})
)
_ENROLLMENTS_UNDER = select(tables.enrollments.c.id).where(
    tables.enrollments.c.document_id == bindparam("document")
)
_ERASE_CROPS = delete(crops).where(crops.c.enrollment_id.in_(_ENROLLMENTS_UNDER))
_FORGET_JUDGED = (
    delete(judged_pairs)
    .where(judged_pairs.c.left_document == bindparam("left_document"))
    .where(judged_pairs.c.right_document == bindparam("right_document"))
)
_REPLACE_CASE = (
    update(cases)
    .where(cases.c.id == bindparam("key"))
    .values({c.name: bindparam(f"new_{c.name}") for c in cases.columns if c.name != "id"})
)
# A case that went into one that now goes into a third: nobody follows a chain.
_FOLLOW = (
    update(cases)
    .where(cases.c.merged_into == bindparam("key"))
    .values(merged_into=bindparam("new_merged_into"))
)
_LINKED = select(case_documents.c.document_id).where(case_documents.c.case_id == bindparam("id"))
_OF_DOCUMENTS = select(case_documents.c.case_id).where(case_documents.c.document_id.in_(KEYS))
_IS_NAMED = exists().where(
    case_documents.c.case_id == case_notes.c.case_id,
    tables.documents.c.id == case_documents.c.document_id,
    tables.documents.c.status != DocumentStatus.ERASED.value,
)
_ERASE_TEXTS = (
    update(case_notes).where(case_notes.c.case_id.in_(_OF_DOCUMENTS), ~_IS_NAMED).values(text=None)
)
_LAST_NOTE = select(func.max(case_notes.c.id))


def case_of(row: Row[Any]) -> CaseRecord:
    values = {column.name: row._mapping[column.name] for column in cases.columns}
    outcome, proposal = values["outcome"], values["proposal"]
    return CaseRecord(
        **values
        | {
            "origin": CaseOrigin(row.origin),
            "state": CaseState(row.state),
            "document_ids": tuple(row.document_ids),
            "suspect_ids": tuple(row.suspect_ids),
            "line_ids": tuple(row.line_ids),
            "outcome": None if outcome is None else Outcome(outcome),
            "proposal": None if proposal is None else _proposal_of(proposal),
        }
    )


def write_cases(connection: Connection, new: Sequence[CaseRecord]) -> None:
    """Enters new cases; one that is merged at once comes after what it went into."""
    if not new:
        return
    standing = [case for case in new if case.merged_into is None]
    merged = [case for case in new if case.merged_into is not None]
    connection.execute(insert(cases), [_row(case) for case in (*standing, *merged)])
    _link(connection, [(case.id, key) for case in new for key in dict.fromkeys(case.document_ids)])


def change_cases(connection: Connection, changed: Sequence[CaseRecord]) -> None:
    """Writes cases that are there as they are from now on; their documents are only added to."""
    for case in changed:
        values = {f"new_{name}": value for name, value in _row(case).items() if name != "id"}
        if connection.execute(_REPLACE_CASE, {"key": case.id, **values}).rowcount != 1:
            raise StorageFailed(
                "a case to be changed is not there; nothing was kept: read it again"
            )
        if case.merged_into is not None:
            known = {"key": case.id, "new_merged_into": case.merged_into}
            connection.execute(_FOLLOW, known)
        linked = set(connection.scalars(_LINKED, {"id": case.id}))
        fresh = [key for key in dict.fromkeys(case.document_ids) if key not in linked]
        _link(connection, [(case.id, key) for key in fresh])


def write_notes(
    connection: Connection, vault: Vault, notes: Sequence[tuple[str, CaseNote]]
) -> None:
    """Adds to the histories, each text sealed for its row."""
    if not notes:
        return
    # Under the writer's fence nobody else numbers them.
    first = (connection.scalar(_LAST_NOTE) or 0) + 1
    connection.execute(
        insert(case_notes),
        [
            {
                "id": key,
                "case_id": case_id,
                "at": note.at,
                "actor": note.actor,
                "kind": note.kind.value,
                "text": vault.seal(CASE_NOTE, key, note.text.encode()) if note.text else None,
            }
            for key, (case_id, note) in enumerate(notes, first)
        ],
    )


def erase_notes(connection: Connection, document_ids: Sequence[str]) -> None:
    """Wipes the texts of the cases of these documents, erased before, that name nobody else any
    more."""
    connection.execute(_ERASE_TEXTS, {"keys": list(document_ids)})


def _link(connection: Connection, links: Sequence[tuple[str, str]]) -> None:
    if links:
        rows = [{"case_id": case_id, "document_id": key} for case_id, key in links]
        connection.execute(insert(case_documents), rows)


def _row(case: CaseRecord) -> Mapping[str, Any]:
    proposal = case.proposal
    return {
        "id": case.id,
        "kind": str(case.kind),
        "origin": case.origin.value,
        "state": case.state.value,
        "enrollment_id": case.enrollment_id,
        "document_ids": list(case.document_ids),
        "suspect_ids": list(case.suspect_ids),
        "line_id": case.line_id,
        "line_ids": list(case.line_ids),
        "score": case.score,
        "risk": case.risk,
        "sweep_id": case.sweep_id,
        "group_key": case.group_key,
        "assignee": case.assignee,
        "proposal": None if proposal is None else _proposal_values(proposal),
        "outcome": None if case.outcome is None else case.outcome.value,
        "merged_into": case.merged_into,
        "opened_at": case.opened_at,
        "updated_at": case.updated_at,
        "closed_at": case.closed_at,
    }


def _proposal_values(proposal: Proposal) -> dict[str, Any]:
    return {
        "outcome": proposal.outcome.value,
        "close_lines": list(proposal.close_lines),
        "by": proposal.by,
        "at": proposal.at.isoformat(),
    }


def _proposal_of(values: Mapping[str, Any]) -> Proposal:
    return Proposal(
        outcome=Outcome(values["outcome"]),
        close_lines=tuple(values["close_lines"]),
        by=values["by"],
        at=datetime.fromisoformat(values["at"]),
    )


def write_judged(connection: Connection, pairs: Sequence[JudgedPair]) -> None:
    """Enters the pairs, each in place of what was said of it before."""
    if not pairs:
        return
    assert all(pair.left_document < pair.right_document for pair in pairs), "left < right"
    rows = [
        {
            "left_document": pair.left_document,
            "right_document": pair.right_document,
            "outcome": pair.outcome.value,
            "score": pair.score,
            "case_id": pair.case_id,
            "sweep_id": pair.sweep_id,
            "decided_at": pair.decided_at,
            "decided_by": pair.decided_by,
        }
        for pair in pairs
    ]
    connection.execute(_FORGET_JUDGED, rows)
    connection.execute(insert(judged_pairs), rows)


def write_crops(connection: Connection, vault: Vault, new: Sequence[NewCrop]) -> None:
    """Keeps the crops, each image sealed for its row."""
    if new:
        connection.execute(
            insert(crops),
            [
                {
                    "id": crop.id,
                    "enrollment_id": crop.enrollment_id,
                    "photograph": crop.photograph,
                    "image": vault.seal(CROP_IMAGE, crop.id, crop.image),
                    "kept_until": crop.kept_until,
                }
                for crop in new
            ],
        )


def erase_crops(connection: Connection, document_id: str) -> None:
    """Takes out the crops of every enrollment under a document."""
    connection.execute(_ERASE_CROPS, {"document": document_id})


def write_sweeps(connection: Connection, records: Sequence[SweepRecord]) -> None:
    """Enters each sweep, in place of what was known of it before."""
    for record in records:
        values = _sweep_row(record)
        known = {"key": record.id, **{f"new_{name}": value for name, value in values.items()}}
        if connection.execute(_REPLACE_SWEEP, known).rowcount == 0:
            connection.execute(insert(sweeps), values)


def sweep_of(row: Row[Any]) -> SweepRecord:
    terms, progress = row.terms, row.progress
    return SweepRecord(
        **{
            **row._asdict(),
            "state": SweepState(row.state),
            "terms": SweepTerms(**{**terms, "scope": Scope(terms["scope"])}),
            "progress": SweepProgress(**progress),
        }
    )


def _sweep_row(record: SweepRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state.value,
        "terms": {"threshold": float(record.terms.threshold), "scope": record.terms.scope.value},
        "requested_by": record.requested_by,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "sequence": record.sequence,
        "progress": asdict(record.progress),
        "summary": None if record.summary is None else dict(record.summary),
        "fault": record.fault,
    }
