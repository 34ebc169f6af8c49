"""The faces that are kept under documents, and how alike each two of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from engine.matching.calibration import Calibration
from engine.matching.comparison import score_best
from engine.registry.documents import DocumentRecord
from engine.registry.queues import Face as KeptFace
from engine.registry.store import Reader
from schema.decisions import Comparison
from serving.api import serializers
from serving.wire import people as wire
from serving.wire.fields import Moment, of_record


def find_faces(
    store: Reader, calibration: Calibration | None, document_ids: Sequence[str]
) -> wire.Faces:
    """The people shown under these documents, in their order, and how alike each two are; an erased
    or unknown document is left out. The caller audits whom it shows."""
    held = serializers.find_held(store, document_ids)
    kept = store.cases.faces([one.id for one in held], wire.MAX_FACES)
    subjects = [subject for one in held for subject in _subjects(one, kept[one.id])]
    return wire.Faces(
        subjects=tuple(subjects), likenesses=_likenesses(store, calibration, subjects)
    )


def _subjects(record: DocumentRecord, faces: Sequence[KeptFace]) -> list[wire.FaceSubject]:
    """The subjects under a document: its reference first, then each attempt with a kept face."""
    own = [one for one in faces if one.is_of_reference]
    attempts: dict[str | None, list[KeptFace]] = {}
    for face in faces:
        if not face.is_of_reference:
            attempts.setdefault(face.crop.enrollment_id, []).append(face)
    subjects = [_subject(record, some, is_reference=False) for some in attempts.values()]
    if own or record.reference_ids or not subjects:
        is_reference = bool(record.reference_ids)
        subjects.insert(0, _subject(record, own, is_reference=is_reference))
    return subjects


def _subject(
    record: DocumentRecord, faces: Sequence[KeptFace], *, is_reference: bool
) -> wire.FaceSubject:
    first = faces[0] if faces else None
    attempt = None if first is None else first.crop.enrollment_id
    return wire.FaceSubject(
        subject_id=attempt or record.id,
        document_id=record.id,
        document_status=record.status,
        is_reference=is_reference,
        enrollment_id=attempt,
        decision=None if first is None else first.decision,
        captured_at=Moment.of_optional(None if first is None else first.captured_at),
        received_at=Moment.of_optional(None if first is None else first.crop.received_at),
        kept_until=Moment.of_optional(min((one.crop.kept_until for one in faces), default=None)),
        photographs=tuple(
            wire.ShownPhotograph(
                photograph=one.crop.photograph,
                image=one.image,
                quality=None if one.crop.quality is None else dict(one.crop.quality),
            )
            for one in faces
        ),
    )


def _likenesses(
    store: Reader, calibration: Calibration | None, subjects: Sequence[wire.FaceSubject]
) -> tuple[wire.Likeness, ...]:
    """The score of each two that were compared: references, and an attempt with a reference."""
    templates = store.templates_of([one.document_id for one in subjects if one.is_reference])
    evidence = {
        one.enrollment_id: _scores_of(store, one.enrollment_id)
        for one in subjects
        if one.enrollment_id is not None and not one.is_reference
    }
    found = []
    for left, right in combinations(subjects, 2):
        score = _score(left, right, templates, evidence)
        if score is None:
            continue
        rate = None if calibration is None else calibration.fmr_at(score, Comparison.FUSED)
        found.append(
            wire.Likeness(
                left=left.subject_id,
                right=right.subject_id,
                score=score,
                strangers=None if rate is None else of_record(wire.StrangersAlike, rate),
            )
        )
    return tuple(found)


_OWN = ""
"""Stands for the document that an attempt was made under."""


def _scores_of(store: Reader, enrollment_id: str) -> Mapping[str, float]:
    """An attempt's scores by document, as it was decided; none once it has expired."""
    inputs = store.enrollment(enrollment_id).evidence.inputs
    scores = {one["document_id"]: one["score"] for one in inputs.get("candidates") or ()}
    own = inputs.get("holder_score")
    return scores if own is None else {**scores, _OWN: own}


def _score(
    left: wire.FaceSubject,
    right: wire.FaceSubject,
    templates: Mapping[str, NDArray[np.float32]],
    evidence: Mapping[str, Mapping[str, float]],
) -> float | None:
    if left.is_reference and right.is_reference:
        rows = [templates.get(one.document_id) for one in (left, right)]
        if rows[0] is None or rows[1] is None:
            return None
        scores = [score_best(row, rows[1]) for row in rows[0]]
        return max((one for one in scores if one is not None), default=None)
    attempt, other = (right, left) if left.is_reference else (left, right)
    if not other.is_reference or attempt.enrollment_id is None:
        # Two attempts are never compared with each other.
        return None
    is_own = attempt.document_id == other.document_id
    return evidence[attempt.enrollment_id].get(_OWN if is_own else other.document_id)
