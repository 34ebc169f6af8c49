"""Turns rows of the database into records, and records into rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from engine.errors import RowRefused, SealBroken, StorageFailed
from engine.registry import tables
from engine.registry.database import KEYS, UNREADABLE, Moment, chunks
from engine.registry.records import (
    AttemptTemplate,
    CaseRecord,
    DocumentRecord,
    EnrollmentRecord,
    JudgedPair,
    LineRecord,
    NewCrop,
    NewDocument,
    NewLine,
    NewReference,
    SecondTemplate,
    StoredAnswer,
    Tally,
    WatchEntry,
)
from engine.registry.row_macs import (
    REFERENCE_COLUMNS,
    RowValues,
    changing_rows,
    is_authentic,
    require_authentic,
    sound_rows,
    values_of,
    with_macs,
)
from engine.registry.tables import case_documents, case_notes, cases, crops, judged_pairs, sweeps
from engine.registry.vault import (
    ATTEMPT_TEMPLATE,
    SECOND_TEMPLATE,
    SECOND_WATCHED,
    WATCHED_TEMPLATE,
    Vault,
    name_reference,
)
from indexes.base import check_vectors
from indexes.errors import VectorInvalid
from schema.cases import ALIVE, CaseNote, CaseOrigin, CaseState, Outcome, Proposal
from schema.documents import DocumentStatus
from schema.lines import LineService, LineStatus
from schema.sweeps import SweepProgress, SweepRecord, SweepScope, SweepState, SweepTerms

T = TypeVar("T")


DAMAGED = "a row in the database is damaged: run sosie doctor, put back a backup"
OF_REFERENCE = "reference_"
"""How the columns of a reference are labelled beside those of its document."""


def gather_documents(vault: Vault, rows: Iterable[Row[Any]]) -> list[DocumentRecord]:
    """Documents joined with their live references: a row for each, or one without any."""
    first: dict[str, Row[Any]] = {}
    reference_ids: dict[str, list[int]] = {}
    for row in rows:
        first.setdefault(row.id, row)
        ids = reference_ids.setdefault(row.id, [])
        if row.reference_id is not None:
            # Or another's face would be compared with this document's holder.
            require_authentic(vault, tables.references, row, OF_REFERENCE)
            if vault.set_aside.has(tables.references.name, f"row {row.reference_id}"):
                # Its template did not open: nobody can be compared with it.
                raise SealBroken(DAMAGED)
            ids.append(row.reference_id)
    return [
        read_as(
            DocumentRecord,
            row,
            status=DocumentStatus.BLOCKED if row.blocked_at else DocumentStatus(row.status),
            reference_ids=tuple(reference_ids[row.id]),
            is_erased=row.status == DocumentStatus.ERASED,
        )
        for found in first.values()
        for row in (require_authentic(vault, tables.documents, found),)
    ]


def read_as(kind: type[T], row: Row[Any], /, **converted: Any) -> T:
    """A record of this dataclass from the columns of the same names, but for what is converted;
    `SealBroken` where one of them is none of its kind."""
    names = (one.name for one in fields(cast("Any", kind)))
    values = {name: getattr(row, name) for name in names if name not in converted}
    if UNREADABLE in values.values():
        raise SealBroken(DAMAGED)
    return kind(**values, **converted)


def columns_of(record: Any, **converted: Any) -> RowValues:
    """The reverse: the fields of a record as the columns of the same names."""
    return {one.name: getattr(record, one.name) for one in fields(record)} | converted


def line_of(vault: Vault, row: Row[Any]) -> LineRecord:
    require_authentic(vault, tables.lines, row)
    service = None if row.service is None else LineService(row.service)
    return read_as(LineRecord, row, status=LineStatus(row.status), service=service)


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
    return columns_of(
        record,
        decision=str(record.decision),
        reasons=[str(reason) for reason in record.reasons],
        evidence=dict(record.evidence),
    )


def reference_rows(
    vault: Vault, model_digest: str, references: Sequence[NewReference]
) -> list[RowValues]:
    if not references:
        return []
    ids = [int(reference.id) for reference in references]
    templates = np.stack([row.template for row in references])
    _require_unit(templates, vault.dim)
    names = [name_reference(row.id, row.document_id) for row in references]
    sealed = vault.seal_templates(names, templates)
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
            **seal_second(vault, SECOND_TEMPLATE, name, reference.second),
        }
        for key, reference, name, template in zip(ids, references, names, sealed, strict=True)
    ]


def attempt_template_rows(vault: Vault, attempts: Sequence[AttemptTemplate]) -> list[RowValues]:
    if not attempts:
        return []
    templates = np.stack([one.template for one in attempts])
    _require_unit(templates, vault.dim)
    sealed = vault.seal_templates(
        [one.enrollment_id for one in attempts], templates, ATTEMPT_TEMPLATE
    )
    return [
        {"id": one.enrollment_id, "document_id": one.document_id, "template": template}
        for one, template in zip(attempts, sealed, strict=True)
    ]


def seal_second(
    vault: Vault, place: str, name: str | int, second: SecondTemplate | None
) -> RowValues:
    """The columns of a row's template of a second model; it is sealed for that row."""
    if second is None:
        return {"second_template": None, "second_model_digest": None}
    _require_unit(second.vector[None], len(second.vector))
    sealed = vault.seal(place, name, second.vector.astype("<f4").tobytes())
    return {"second_template": sealed, "second_model_digest": second.digest}


def fill_references(
    connection: Connection, vault: Vault, filled: Sequence[tuple[int, SecondTemplate]]
) -> int:
    """Stores templates of a second model; how many of these references are still there, and
    sound."""
    table, wanted = tables.references, {int(key): second for key, second in filled}
    query = select(*REFERENCE_COLUMNS).where(
        table.c.id.in_(KEYS), table.c.removed_sequence.is_(None)
    )
    rows = [
        row
        for part in chunks(list(wanted))
        for row in sound_rows(vault, table, connection.execute(query, {"keys": part}))
    ]
    if not rows:
        return 0
    new = [
        {"key": row.id, "new": columns["second_template"], "model": columns["second_model_digest"]}
        for row in rows
        for name in (name_reference(row.id, row.document_id),)
        for columns in (seal_second(vault, SECOND_TEMPLATE, name, wanted[row.id]),)
    ]
    with changing_rows(connection, vault, {table: [row.id for row in rows]}):
        connection.execute(_FILL, new)
    return len(rows)


_FILL = (
    update(tables.references)
    .where(tables.references.c.id == bindparam("key"))
    .values(second_template=bindparam("new"), second_model_digest=bindparam("model"))
)


def name_sealed(table: Table, row: Row[Any]) -> str:
    """How the seals of a row name it."""
    if table is tables.references:
        return name_reference(row.id, row.document_id)
    return str(row.id)


def line_row(vault: Vault, line: NewLine) -> RowValues:
    sealed = vault.seal("lines.msisdn", line.id, line.msisdn.encode())
    return columns_of(line, msisdn=sealed, status=LineStatus.ACTIVE.value)


def _require_unit(templates: NDArray[np.float32], dim: int) -> None:
    """Whichever way they came: one that is longer would be like everybody."""
    try:
        check_vectors(templates, dim)
    except VectorInvalid as error:
        raise RowRefused(f"nothing was kept: {error}") from None


def watched_row(vault: Vault, entry: WatchEntry) -> RowValues:
    template = None
    if entry.template is not None:
        _require_unit(entry.template[None], vault.dim)
        template = vault.seal_templates([entry.id], entry.template[None], WATCHED_TEMPLATE)[0]
    second = seal_second(vault, SECOND_WATCHED, entry.id, entry.second)
    values = {**columns_of(entry, template=template), **second}
    del values["second"]
    return values


def answer_row(answer: StoredAnswer) -> RowValues:
    return columns_of(answer, response=dict(answer.response))


HOLDER_TALLY, SHOWN_TALLY = "holder", "shown"
"""How the name of a count about a document begins; its id follows, or its look-up."""


def tally_of(document_id: str, lookup: bytes | None) -> ColumnElement[bool]:
    """Which counts are about a document, whoever's."""
    keys = [document_id, *([] if lookup is None else [lookup.hex()])]
    name = tables.tallies.c.name
    exact = [f"{SHOWN_TALLY}:{key}" for key in keys]
    # Those of earlier versions have no carrier.
    exact += [f"{HOLDER_TALLY}:{key}" for key in keys]
    return or_(name.in_(exact), *(name.startswith(f"{HOLDER_TALLY}:{key}:") for key in keys))


@dataclass(frozen=True, slots=True)
class TallyRecord:
    """The level of a count as it was at a moment."""

    level: float
    at: datetime


def count_tallies(
    connection: Connection, vault: Vault, added: Sequence[Tally], at: datetime
) -> None:
    """Adds to the counts, each of which leaks away meanwhile and never falls below zero. One that
    is damaged begins anew."""
    names = sorted({one.name for one in added})
    table = tables.tallies
    known: dict[str, Row[Any]] = {}
    for part in chunks(names):
        known |= {
            row.name: row for row in connection.execute(select(table).where(table.c.name.in_(part)))
        }
    levels: dict[str, float] = {}
    for one in added:
        row = known.get(one.name)
        if one.name not in levels:
            levels[one.name] = 0.0 if row is None else _leaked(vault, row, one, at)
        levels[one.name] = min(one.most, max(0.0, levels[one.name] + one.amount))
    given = [{"name": name, "level": levels[name], "at": at} for name in names]
    rows = with_macs(vault, table, given)
    changed = [{f"new_{key}": value for key, value in row.items()} for row in rows]
    changed = [row for row in changed if row["new_name"] in known]
    if changed:
        connection.execute(_CHANGE_TALLY, changed)
    fresh = [row for row in rows if row["name"] not in known and row["level"]]
    if fresh:
        connection.execute(insert(table), fresh)


def _leaked(vault: Vault, row: Row[Any], one: Tally, at: datetime) -> float:
    """What is left of a count."""
    if not is_authentic(vault, tables.tallies, values_of(row)):
        return 0.0
    stays: float = row.level - max(at - row.at, timedelta()) / one.each
    return max(0.0, stays)


_CHANGE_TALLY = (
    update(tables.tallies)
    .where(tables.tallies.c.name == bindparam("new_name"))
    .values(
        level=bindparam("new_level"), at=bindparam("new_at", type_=Moment), mac=bindparam("new_mac")
    )
)

CASE_NOTE = "case_notes.text"

CROP_IMAGE = "crops.image"
_REPLACE_SWEEP = (
    update(sweeps)
    .where(sweeps.c.id == bindparam("key"))
    .values({column.name: bindparam(f"new_{column.name}") for column in sweeps.columns})
)
_ENROLLMENTS_UNDER = select(tables.enrollments.c.id).where(
    tables.enrollments.c.document_id.in_(KEYS)
)
_ERASE_CROPS = delete(crops).where(
    or_(crops.c.document_id.in_(KEYS), crops.c.enrollment_id.in_(_ENROLLMENTS_UNDER))
)
_NAMED_CROPS = select(crops.c.id, crops.c.kept_until, crops.c.case_days).where(
    crops.c.document_id.in_(KEYS), crops.c.case_days.is_not(None)
)
# A subquery and no join: SQLite would go through every open case first.
_STATE = select(cases.c.state).where(cases.c.id == case_documents.c.case_id).scalar_subquery()
_IN_CASES = select(case_documents.c.document_id).where(
    case_documents.c.document_id.in_(KEYS), _STATE.in_(sorted(one.value for one in ALIVE))
)
_KEEP_CROP = (
    update(crops)
    .where(crops.c.id == bindparam("key"))
    .values(kept_until=bindparam("until", type_=Moment), is_held=None)
)
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
# Cases merged into one that is now merged itself: merges never form a chain.
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
_ERASE_TEXTS = update(case_notes).where(case_notes.c.id.in_(KEYS)).values(text=None)
_NOTES_TO_ERASE = select(case_notes.c.id).where(
    case_notes.c.case_id.in_(_OF_DOCUMENTS), case_notes.c.text.is_not(None), ~_IS_NAMED
)
_INTO = select(cases.c.id).where(cases.c.merged_into == bindparam("key"))
_LAST_NOTE = select(func.max(case_notes.c.id))


def case_of(vault: Vault, row: Row[Any]) -> CaseRecord:
    require_authentic(vault, cases, row)
    outcome, proposal = row.outcome, row.proposal
    return read_as(
        CaseRecord,
        row,
        origin=CaseOrigin(row.origin),
        state=CaseState(row.state),
        document_ids=tuple(row.document_ids),
        suspect_ids=tuple(row.suspect_ids),
        line_ids=tuple(row.line_ids),
        outcome=None if outcome is None else Outcome(outcome),
        proposal=None if proposal is None else _proposal_of(proposal),
    )


def write_cases(
    connection: Connection, vault: Vault, new: Sequence[CaseRecord], at: datetime
) -> None:
    """Inserts new cases; one that is merged at once comes after the one that it went into. The
    faces of their documents are kept for them from now on."""
    if not new:
        return
    standing = [case for case in new if case.merged_into is None]
    merged = [case for case in new if case.merged_into is not None]
    rows = [_case_row(case) for case in (*standing, *merged)]
    connection.execute(insert(cases), with_macs(vault, cases, rows))
    links = [(case.id, key) for case in new for key in dict.fromkeys(case.document_ids)]
    _link(connection, vault, links, at)


def change_cases(
    connection: Connection, vault: Vault, changed: Sequence[CaseRecord], at: datetime
) -> None:
    """Updates known cases; their documents are only added to, and their faces kept."""
    for case in changed:
        (row,) = with_macs(vault, cases, [_case_row(case)])
        values = {f"new_{name}": value for name, value in row.items() if name != "id"}
        if connection.execute(_REPLACE_CASE, {"key": case.id, **values}).rowcount != 1:
            raise StorageFailed(
                "a case to be changed is not there; nothing was kept: read it again"
            )
        if case.merged_into is not None:
            known = {"key": case.id, "new_merged_into": case.merged_into}
            following = connection.scalars(_INTO, {"key": case.id}).all()
            with changing_rows(connection, vault, {cases: following}):
                connection.execute(_FOLLOW, known)
        linked = set(connection.scalars(_LINKED, {"id": case.id}))
        fresh = [key for key in dict.fromkeys(case.document_ids) if key not in linked]
        _link(connection, vault, [(case.id, key) for key in fresh], at)


def write_notes(
    connection: Connection, vault: Vault, notes: Sequence[tuple[str, CaseNote]]
) -> None:
    """Appends to the histories of cases, each text sealed for its row."""
    if not notes:
        return
    # Under the writer's fence nothing else numbers them.
    first = (connection.scalar(_LAST_NOTE) or 0) + 1
    rows = [
        {
            "id": key,
            "case_id": case_id,
            "at": note.at,
            "actor": note.actor,
            "kind": note.kind.value,
            "text": vault.seal(CASE_NOTE, key, note.text.encode()) if note.text else None,
        }
        for key, (case_id, note) in enumerate(notes, first)
    ]
    connection.execute(insert(case_notes), with_macs(vault, case_notes, rows))


def erase_notes(connection: Connection, vault: Vault, document_ids: Sequence[str]) -> None:
    """Wipes the note texts of cases that name these documents and no document still held."""
    erased = connection.scalars(_NOTES_TO_ERASE, {"keys": list(document_ids)}).all()
    with changing_rows(connection, vault, {case_notes: erased}):
        for part in chunks(erased):
            connection.execute(_ERASE_TEXTS, {"keys": part})


def _link(
    connection: Connection, vault: Vault, links: Sequence[tuple[str, str]], at: datetime
) -> None:
    if links:
        rows = [{"case_id": case_id, "document_id": key} for case_id, key in links]
        connection.execute(insert(case_documents), with_macs(vault, case_documents, rows))
        _keep_crops(connection, vault, [key for _, key in links], at)


def _keep_crops(
    connection: Connection, vault: Vault, document_ids: Sequence[str], at: datetime
) -> None:
    """Keeps the faces of these documents for a case: those that were held are shown from now on."""
    kept = [
        {"key": row.id, "until": max(row.kept_until, at + timedelta(days=row.case_days))}
        for part in chunks(list(dict.fromkeys(document_ids)))
        for row in connection.execute(_NAMED_CROPS, {"keys": part})
        # Its time is over, and only the daily job has not come to it yet.
        if row.kept_until > at
    ]
    if kept:
        with changing_rows(connection, vault, {crops: [one["key"] for one in kept]}):
            connection.execute(_KEEP_CROP, kept)


def _case_row(case: CaseRecord) -> RowValues:
    return columns_of(
        case,
        kind=str(case.kind),
        origin=case.origin.value,
        state=case.state.value,
        document_ids=list(case.document_ids),
        suspect_ids=list(case.suspect_ids),
        line_ids=list(case.line_ids),
        proposal=None if case.proposal is None else _proposal_values(case.proposal),
        outcome=None if case.outcome is None else case.outcome.value,
    )


def _proposal_values(proposal: Proposal) -> dict[str, Any]:
    return asdict(proposal) | {
        "outcome": proposal.outcome.value,
        "close_lines": list(proposal.close_lines),
        "at": proposal.at.isoformat(),
    }


def _proposal_of(values: Mapping[str, Any]) -> Proposal:
    return Proposal(
        outcome=Outcome(values["outcome"]),
        close_lines=tuple(values["close_lines"]),
        keep_lines=values.get("keep_lines", False),
        by=values["by"],
        at=datetime.fromisoformat(values["at"]),
        person=values.get("person"),
    )


def write_judged(connection: Connection, vault: Vault, pairs: Sequence[JudgedPair]) -> None:
    """Writes the pairs, each in place of an earlier outcome."""
    if not pairs:
        return
    assert all(pair.left_document < pair.right_document for pair in pairs), "left < right"
    rows = [columns_of(pair, outcome=pair.outcome.value) for pair in pairs]
    connection.execute(_FORGET_JUDGED, rows)
    connection.execute(insert(judged_pairs), with_macs(vault, judged_pairs, rows))


def write_crops(connection: Connection, vault: Vault, new: Sequence[NewCrop]) -> None:
    """Inserts crops, each image sealed for its row."""
    rows = [
        columns_of(
            one,
            image=vault.seal(CROP_IMAGE, one.id, one.image),
            quality=None if one.quality is None else dict(one.quality),
        )
        for one in new
    ]
    if rows:
        connection.execute(insert(crops), with_macs(vault, crops, rows))


def keep_crops_of_cases(
    connection: Connection, vault: Vault, new: Sequence[NewCrop], at: datetime
) -> None:
    """Keeps what has come in held of documents that an open case names already."""
    held = [one.document_id for one in new if one.is_held]
    named = [key for part in chunks(held) for key in connection.scalars(_IN_CASES, {"keys": part})]
    _keep_crops(connection, vault, named, at)


def erase_crops(connection: Connection, document_ids: Sequence[str]) -> None:
    """Deletes the crops of documents: of every attempt under one, and of an imported reference."""
    connection.execute(_ERASE_CROPS, {"keys": list(document_ids)})


def erase_attempt_templates(connection: Connection, document_ids: Sequence[str]) -> None:
    """Deletes what attempts under these documents showed."""
    table = tables.attempt_templates
    for part in chunks(list(document_ids)):
        connection.execute(delete(table).where(table.c.document_id.in_(part)))


def write_sweeps(connection: Connection, vault: Vault, records: Sequence[SweepRecord]) -> None:
    """Writes each sweep, in place of its earlier state."""
    for values, record in zip(
        with_macs(vault, sweeps, list(map(_sweep_row, records))), records, strict=True
    ):
        known = {"key": record.id, **{f"new_{name}": value for name, value in values.items()}}
        if connection.execute(_REPLACE_SWEEP, known).rowcount == 0:
            connection.execute(insert(sweeps), values)


def sweep_of(vault: Vault, row: Row[Any]) -> SweepRecord:
    require_authentic(vault, sweeps, row)
    terms = SweepTerms(**{**row.terms, "scope": SweepScope(row.terms["scope"])})
    progress = SweepProgress(**row.progress)
    return read_as(SweepRecord, row, state=SweepState(row.state), terms=terms, progress=progress)


def _sweep_row(record: SweepRecord) -> RowValues:
    return columns_of(
        record,
        state=record.state.value,
        terms={
            "threshold": float(record.terms.threshold),
            "scope": record.terms.scope.value,
            "model_digest": record.terms.model_digest,
            "budget": record.terms.budget,
        },
        progress=asdict(record.progress),
        summary=None if record.summary is None else dict(record.summary),
    )
