"""Verification of a face against a holder's references, long after the enrollment.

Another face opens a case: the line or the document may have changed hands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.cases.case import CaseKind, CaseOrigin
from engine.cases.opening import CaseBatch, NewCase
from engine.errors import NotFound
from engine.matching.documents import Document
from engine.matching.holders import NOBODY, find_target, score_holder
from engine.matching.lines import LINE_UNKNOWN, find_line, normalise_line
from engine.matching.registrar import Audit, Runner
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, Changes, DocumentRecord, LineRecord, utc_now
from engine.registry.writer import Writer


@dataclass(frozen=True, slots=True)
class HolderCheck:
    """How a probe compares with a document's references; no score where it has none.

    `case_id` is the case that people will decide, where another face was found: for those who
    work on cases alone.
    """

    document_id: str
    line_id: str | None
    is_match: bool
    score: float | None
    threshold: float
    case_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderProbe:
    """A face float32[d], a unit vector, and on whose behalf it is compared with a holder.

    `carrier` is the tenant that asks; None for one that may ask about all.
    """

    vector: NDArray[np.float32] = field(repr=False)
    threshold: float
    actor: str
    carrier: str | None = None


def check_line(
    registrar: Runner, registry: Reader, line_text: str, probe: HolderProbe, audit: Audit
) -> HolderCheck:
    """Compares with the holder of a line in use, by number or id; audited before it returns.

    Another face opens a case about the line. `NotFound` where there is no such line, or where it
    is another tenant's.
    """
    target = normalise_line(line_text)
    found: LineRecord | None = None

    def find() -> DocumentRecord:
        nonlocal found
        found = find_line(registry, target)
        if found is None or probe.carrier not in (None, found.carrier):
            raise NotFound(LINE_UNKNOWN)
        return registry.document(found.document_id)

    record, score = score_holder(find, registrar.gallery, probe.vector)
    return _finish(registrar, registry, probe, audit, record, found, score)


def check_document(
    registrar: Runner, registry: Reader, target: Document | str, probe: HolderProbe, audit: Audit
) -> HolderCheck:
    """Compares with the holder of a document, presented or by its id; audited before it returns.

    Another face opens a case about the document. `NotFound` where nobody holds it or, for a
    tenant, where it has no line in use there.
    """
    find = partial(_find_document, registry, target, probe.carrier)
    record, score = score_holder(find, registrar.gallery, probe.vector)
    return _finish(registrar, registry, probe, audit, record, None, score)


def _find_document(registry: Reader, target: Document | str, carrier: str | None) -> DocumentRecord:
    record = find_target(registry, target, utc_now().date())
    if carrier is not None and not registry.open_line_counts([record.id], carrier)[record.id]:
        raise NotFound(NOBODY)
    return record


def _finish(
    registrar: Runner,
    registry: Reader,
    probe: HolderProbe,
    audit: Audit,
    record: DocumentRecord,
    line: LineRecord | None,
    score: float | None,
) -> HolderCheck:
    line_id = None if line is None else line.id
    is_match = score is not None and score >= probe.threshold
    detail = {"matched": is_match} | ({} if line is None else {"line": line.id})
    entry = AuditEntry(probe.actor, "holder.checked", record.id, detail)
    if is_match or score is None:
        # Without a face on file nothing was compared: that is no evidence.
        audit(entry)
        return HolderCheck(record.id, line_id, is_match, score, probe.threshold)
    new = NewCase(
        kind=CaseKind.LINE_CHANGED_FACE,
        origin=CaseOrigin.REVERIFICATION,
        document_ids=(record.id,),
        enrollment_id=None if line is None else line.enrollment_id,
        line_id=line_id,
        line_ids=() if line is None else (line.id,),
        score=score,
    )

    def perform(writer: Writer, now: datetime) -> str:
        cases = CaseBatch(registry, now)
        case = cases.open(new, probe.actor)
        writer.commit(cases.add_to(Changes(sequence=writer.sequence, audit=(entry,))))
        return case.id

    case_id = registrar.run(perform)
    return HolderCheck(record.id, line_id, is_match, score, probe.threshold, case_id)
