"""A face held against the references of a holder: 1:1, long after the enrollment."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from engine.errors import NotFound
from engine.matching.documents import Document
from engine.matching.holders import NOBODY, find_target
from engine.matching.operations import LINE_UNKNOWN, find_line, normalise_line
from engine.matching.references import score_holder
from engine.matching.scribe import Audit
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, DocumentRecord, utc_now
from indexes.gallery import Gallery


@dataclass(frozen=True, slots=True)
class HolderCheck:
    """How a probe compares with a document's references; no score where it has none."""

    document_id: str
    line_id: str | None
    is_match: bool
    score: float | None
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderProbe:
    """A face float32[d], a unit vector, and on whose behalf it is held against a holder.

    `carrier` is the tenant that asks; None for one that may ask about all.
    """

    vector: NDArray[np.float32] = field(repr=False)
    threshold: float
    actor: str
    carrier: str | None = None


def check_line(
    registry: Reader, gallery: Gallery, line_text: str, probe: HolderProbe, audit: Audit
) -> HolderCheck:
    """Against the holder of a line in use, by number or id; audited before it is told.

    `NotFound` where there is no such line, or where it is another tenant's.
    """
    target = normalise_line(line_text)
    line_id: str | None = None

    def find() -> DocumentRecord:
        nonlocal line_id
        line = find_line(registry, target)
        if line is None or probe.carrier not in (None, line.carrier):
            raise NotFound(LINE_UNKNOWN)
        line_id = line.id
        return registry.document(line.document_id)

    record, score = score_holder(find, gallery, probe.vector)
    return _tell(record, line_id, score, probe, audit)


def check_document(
    registry: Reader, gallery: Gallery, target: Document | str, probe: HolderProbe, audit: Audit
) -> HolderCheck:
    """Against the holder of a document, presented or by its id; audited before it is told.

    `NotFound` where nobody holds it or, for a tenant, where it has no line in use there.
    """
    find = partial(_find_document, registry, target, probe.carrier)
    record, score = score_holder(find, gallery, probe.vector)
    return _tell(record, None, score, probe, audit)


def _find_document(registry: Reader, target: Document | str, carrier: str | None) -> DocumentRecord:
    record = find_target(registry, target, utc_now().date())
    if carrier is not None and not registry.open_line_counts([record.id], carrier)[record.id]:
        raise NotFound(NOBODY)
    return record


def _tell(
    record: DocumentRecord,
    line_id: str | None,
    score: float | None,
    probe: HolderProbe,
    audit: Audit,
) -> HolderCheck:
    is_match = score is not None and score >= probe.threshold
    detail = {"matched": is_match} | ({"line": line_id} if line_id else {})
    audit(AuditEntry(probe.actor, "holder.checked", record.id, detail))
    return HolderCheck(record.id, line_id, is_match, score, probe.threshold)
