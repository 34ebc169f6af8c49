"""`/v1/identifications`, `/v1/people`, `/v1/documents`, `/v1/faces`: people by face or document,
and the faces that are kept of them; audited."""

import asyncio
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from msgspec import structs

from engine.cases import deaths
from engine.errors import NotFound
from engine.matching import holders
from engine.matching.documents import require_unnamed
from engine.matching.holders import find_holder
from engine.matching.lines import find_line
from engine.matching.requests import normalise_msisdn
from engine.registry.database import utc_now
from engine.registry.store import Reader
from engine.registry.subjects import gather_subject
from schema import documents
from serving.access.authorization import scope_of
from serving.api import people
from serving.api.people import find_faces
from serving.api.request import Answer, Request, known_document, note, take_face
from serving.case_report import write_page
from serving.errors import Busy, Malformed
from serving.ingress.parts import Parts
from serving.wire import people as wire
from serving.wire.enrollments import Erasure, ErasureCertificate
from serving.wire.fields import KnownDocument, of_record, plain
from serving.wire.matching import ExpectedFalseCandidates, Face

_OF_A_SEARCH = ("searched", "gallery_sequence", "threshold", "expected_false_candidates")


async def _search_face(
    parts: Parts, request: Request, face: Face, threshold: float
) -> tuple[Mapping[str, float], dict[str, Any]]:
    """Document to the score of its best reference, best first, `MAX_CANDIDATES` at most; and what
    an answer says of the search. It is audited."""
    probe = await take_face(parts, request, face)
    found = (await request.registrar.identify(probe.vector[None], threshold))[0]
    scores: dict[str, float] = {}
    for candidate in found.candidates:
        scores.setdefault(candidate.document_id, candidate.score)
    expected = parts.calibration.expected_false_candidates(
        found.searched, threshold, probe.comparison
    )
    return dict(list(scores.items())[: wire.MAX_CANDIDATES]), {
        "found": found.found_documents,
        "searched": found.searched,
        "gallery_sequence": found.gallery_sequence,
        "threshold": threshold,
        "expected_false_candidates": of_record(ExpectedFalseCandidates, expected),
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
    shown = await asyncio.to_thread(people.identified_holders, parts.store, scores)
    if shown:
        documents = [one.document_id for one in shown]
        await note(request, "documents.read", "identification", documents=documents)
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
    shown = await asyncio.to_thread(people.people_found, parts.store, ids, scores)
    documents = [one.document_id for one in shown]
    await note(request, "people.searched", by, documents=documents)
    return wire.People(people=shown, **search)


async def read_document(parts: Parts, request: Request, document_id: str) -> wire.Person:
    """What stands under one document: lines and cases, closed ones too, and attempts; name and
    numbers masked; audited.
    """
    shown = await asyncio.to_thread(people.person, parts.store, document_id)
    await note(request, "document.read", shown.document_id)
    return shown


async def erase_document(_: Parts, request: Request, document_id: str) -> Answer:
    """Erases a document's holder: references, name, numbers. The answer is the certificate.

    While an open case or dispute needs the document the erasure waits: 202 acknowledges it, and
    says until when at the latest. A carrier may erase where every line of the holder is its own.
    """
    return _show_erasure(await request.registrar.erase(document_id), request)


def _show_erasure(
    done: documents.ErasureCertificate | holders.ErasureState, request: Request
) -> Answer:
    if isinstance(done, documents.ErasureCertificate):
        return Answer(of_record(ErasureCertificate, done))
    shown = done if scope_of(request.caller) is None else structs.replace(done, cases=())
    return Answer(of_record(Erasure, shown), 202)


async def withdraw_consent(_: Parts, request: Request, document_id: str) -> Answer:
    """Notes that a holder's consent to the face is withdrawn from the carrier, or from all by an
    operator: no call of theirs takes it from now on. The face goes, with a certificate; the
    document and its lines stay.

    202 where open cases need the face: it goes when an erasure would. Where others' consent holds
    (`shared`) the carrier's own photographs go.
    """
    return _show_erasure(await request.registrar.withdraw(document_id), request)


async def step_death(
    _: Parts, request: Request, body: wire.DeathRequest, document_id: str
) -> wire.Death:
    """Reports a document's holder dead, confirms or contests that, or lifts it; audited. What is
    reported holds at once: the document enrolls nobody, its lines are disputed. A second person
    confirms it, which closes them; a report that one contests another lifts.
    """
    return of_record(
        wire.Death, await request.registrar.step_death(document_id, body.step, body.source)
    )


def read_death(parts: Parts, _: Request, document_id: str) -> wire.Death:
    """What is reported of a document's holder."""
    return of_record(wire.Death, deaths.read_death(parts.store, document_id))


def read_erasure(parts: Parts, request: Request, document_id: str) -> Erasure:
    """How far the erasure of a document is, with its certificate once it is done; a carrier is told
    of holders whose every line is its own.
    """
    carrier = scope_of(request.caller)
    return of_record(Erasure, holders.read_erasure(parts.store, document_id, carrier))


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
    shown = await asyncio.to_thread(find_faces, parts.store, parts.calibration, asked)
    documents = list(dict.fromkeys(one.document_id for one in shown.subjects))
    count = sum(len(one.photographs) for one in shown.subjects)
    await note(request, "faces.read", "documents", documents=documents, faces=count)
    return shown


_EXPORTING = Lock()
"""An export reads the audit chain as a whole: one at a time in each ingress."""
_OTHER = "another person's data are being gathered: ask again later"


async def export_subject(parts: Parts, request: Request, body: wire.SubjectRequest) -> wire.Subject:
    """Shows all that is kept of a document's holder, and who has looked at it, as the holder may
    have it: scores by the thresholds that they reach, templates and pictures by that they are kept.
    Counts to the people whom one person is shown in full a day; audited, whoever is found. One at a
    time (429 meanwhile).
    """
    found = await asyncio.to_thread(_find_document, parts.store, body.document)
    require_unnamed(body.reason, known_document(body.document), utc_now().date())
    if _EXPORTING.locked():
        # Before it is counted: whoever is told to ask again asks for nobody else.
        raise Busy(_OTHER)
    subject = found[0] if found else holders.UNHELD
    await request.registrar.reveal_subject(subject, body.reason)
    if not found:
        raise NotFound(holders.NOBODY)
    return await asyncio.to_thread(_gather_subject, parts, subject, body.language)


def _gather_subject(parts: Parts, document_id: str, language: str | None) -> wire.Subject:
    if not _EXPORTING.acquire(blocking=False):
        raise Busy(_OTHER)
    try:
        found = gather_subject(parts.store, document_id, structs.asdict(parts.thresholds))
    finally:
        _EXPORTING.release()
    html = None if language is None else write_page("subject.html", language, found=found)
    return wire.Subject(**plain(found), html=html)
