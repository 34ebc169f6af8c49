"""`/v1/identifications`, `/v1/people`, `/v1/documents`, `/v1/faces`: people by face or document,
and the faces that are kept of them; audited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import NotFound
from engine.matching import holders
from engine.matching.calibration import Calibration, Comparison
from engine.matching.comparison import score_best
from engine.matching.holders import ErasureCertificate, ErasureState, find_holder
from engine.matching.lines import find_line
from engine.matching.requests import normalise_msisdn
from engine.registry.cases import Face as KeptFace
from engine.registry.reader import Reader
from engine.registry.records import DocumentRecord, utc_now
from serving.api import serializers
from serving.api.request import Answer, Request, known_document, note, take_face
from serving.errors import Malformed
from serving.parts import Parts
from serving.wire import people as wire
from serving.wire.enrollments import Erasure
from serving.wire.fields import KnownDocument, Moment, of_record
from serving.wire.matching import ExpectedFalseCandidates, Face

_OF_A_SEARCH = ("searched", "gallery_sequence", "threshold", "expected_false_candidates")


async def _search_face(
    parts: Parts, request: Request, face: Face, threshold: float
) -> tuple[Mapping[str, float], dict[str, Any]]:
    """Document to the score of its best reference, best first, `MAX_CANDIDATES` at most; and what
    an answer says of the search. It is audited."""
    probe = await take_face(parts, request, face)
    found = (await parts.registrar.identify(probe.vector[None], threshold, request.context()))[0]
    scores: dict[str, float] = {}
    for candidate in found.candidates:
        scores.setdefault(candidate.document_id, candidate.score)
    calibration = parts.calibration
    return dict(list(scores.items())[: wire.MAX_CANDIDATES]), {
        "found": found.found_documents,
        "searched": found.searched,
        "gallery_sequence": found.gallery_sequence,
        "threshold": threshold,
        "expected_false_candidates": calibration
        and of_record(
            ExpectedFalseCandidates,
            calibration.expected_false_candidates(found.searched, threshold, probe.comparison),
        ),
    }


async def identify(
    parts: Parts, request: Request, body: wire.IdentificationRequest
) -> wire.Identification:
    """Whose references look like this face, with the lines and the open cases of each; what is
    shown of whom is audited. Candidates are look-alikes for people to judge: see
    `expected_false_candidates`.
    """
    lowest = (await parts.read_thresholds()).review
    threshold = lowest if body.threshold is None else body.threshold
    if threshold < lowest:
        raise Malformed(f"threshold: below the deployment's for review, {lowest:.4f}")
    scores, search = await _search_face(parts, request, body.probe, threshold)
    shown = await asyncio.to_thread(serializers.identified_holders, parts.store, scores)
    if shown:
        documents = [one.document_id for one in shown]
        await note(parts, request, "documents.read", "identification", documents=documents)
    return wire.Identification(candidates=shown, **search)


async def search_people(parts: Parts, request: Request, body: wire.PeopleRequest) -> wire.People:
    """Who has this face, this document or this number, with lines in use, attempts and open cases;
    audited, whoever is found. Whoever has a face alike is a candidate: see
    `expected_false_candidates`.
    """
    scores: Mapping[str, float] = {}
    if body.probe is not None:
        by, lowest = "face", (await parts.read_thresholds()).review
        scores, search = await _search_face(parts, request, body.probe, lowest)
        ids = list(scores)
    else:
        by = "number" if body.document is None else "document"
        ids = list(await asyncio.to_thread(_look_up, parts.store, body))
        search = {**dict.fromkeys(_OF_A_SEARCH), "found": len(ids)}
    shown = await asyncio.to_thread(serializers.people_found, parts.store, ids, scores)
    documents = [one.document_id for one in shown]
    await note(parts, request, "people.searched", by, documents=documents)
    return wire.People(people=shown, **search)


async def read_document(parts: Parts, request: Request, document_id: str) -> wire.Person:
    """What stands under one document: lines and cases, closed ones too, and attempts; name and
    numbers masked; audited.
    """
    shown = await asyncio.to_thread(serializers.person, parts.store, document_id)
    await note(parts, request, "document.read", shown.document_id)
    return shown


async def erase_document(parts: Parts, request: Request, document_id: str) -> Answer:
    """Erases a document's holder: references, name, numbers. The answer is the certificate.

    While an open case or dispute needs the document the erasure waits: 202 acknowledges it, and
    says until when at the latest. A carrier may erase where every line of the holder is its own.
    """
    context = request.context()
    done = await parts.registrar.erase(document_id, context)
    if isinstance(done, ErasureCertificate):
        return Answer(serializers.erasure(done))
    state = ErasureState(
        done.document_id, done.asked_at, done.due_at, done.cases if context.carrier is None else ()
    )
    return Answer(serializers.erasure_state(state), 202)


async def read_erasure(parts: Parts, request: Request, document_id: str) -> Erasure:
    """How far the erasure of a document is, with its certificate once it is done; a carrier is told
    of holders whose every line is its own.
    """
    carrier = request.context().carrier
    found = await asyncio.to_thread(holders.read_erasure, parts.store, document_id, carrier)
    return serializers.erasure_state(found)


def _look_up(store: Reader, body: wire.PeopleRequest) -> Sequence[str]:
    """The document with this number, or under which this telephone number is in use; or none."""
    if body.document is not None:
        return _find_document(store, body.document)
    assert body.msisdn is not None, "the type wants one"
    line = find_line(store, normalise_msisdn(body.msisdn))
    return [] if line is None else [line.document_id]


def _find_document(store: Reader, document: KnownDocument) -> Sequence[str]:
    try:
        return [find_holder(store, known_document(document), utc_now().date()).id]
    except NotFound:
        return []


async def read_faces(parts: Parts, request: Request, body: wire.FacesRequest) -> wire.Faces:
    """The faces that are kept under up to 8 documents: those that each reference was made of, and
    those of attempts; with the score of each two, and how many strangers score as high. A document
    that is erased or unknown is left out, one without a kept face is not. Audited.
    """
    asked = tuple(dict.fromkeys(body.document_ids))
    shown = await asyncio.to_thread(_faces, parts.store, parts.calibration, asked)
    documents = list(dict.fromkeys(one.document_id for one in shown.subjects))
    count = sum(len(one.photographs) for one in shown.subjects)
    await note(parts, request, "faces.read", "documents", documents=documents, faces=count)
    return shown


def _faces(
    store: Reader, calibration: Calibration | None, document_ids: Sequence[str]
) -> wire.Faces:
    held = serializers.find_held(store, document_ids)
    kept = store.cases.faces([one.id for one in held], wire.MAX_FACES)
    subjects = [subject for one in held for subject in _subjects(one, kept[one.id])]
    return wire.Faces(
        subjects=tuple(subjects), likenesses=_likenesses(store, calibration, subjects)
    )


def _subjects(record: DocumentRecord, faces: Sequence[KeptFace]) -> list[wire.FaceSubject]:
    """Who is shown under a document: its reference first, then each attempt with a kept face."""
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
    inputs = store.enrollment(enrollment_id).evidence["inputs"]
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
