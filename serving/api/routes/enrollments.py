"""`/v1/enrollments`: one activation decided, and read again."""

import asyncio
import math
from dataclasses import replace
from datetime import timedelta

from engine.errors import LivenessReplayed, NotFound, OutletRestricted, SosieError
from engine.matching.checks.document import ask_of, look_up_beside
from engine.matching.checks.picture import fuse_frames, show_faces
from engine.matching.requests import (
    MAX_KEY_LENGTH,
    Attempt,
    EnrollmentRequest,
    GuardianShown,
    Intake,
    idempotency_scope,
    name_document,
)
from engine.matching.requests import Answer as Decided
from engine.matching.samples import Sample
from engine.registry.accounts import ENROLLMENT_REFUSED
from engine.registry.database import utc_now
from schema.documents import AuthorityCode
from schema.people import Consent
from schema.reasons import LivenessUse, tell_kind
from serving.access.authorization import Principal, outlet_of, scope_of, see_enrollment
from serving.api import serializers
from serving.api.request import (
    Answer,
    Photographed,
    Request,
    count_judged,
    count_liveness,
    known_document,
    note,
    sample_faces,
)
from serving.errors import CaptureTimeInvalid, IdempotencyKeyInvalid, IdempotencyKeyMissing
from serving.ingress.parts import Parts
from serving.telemetry.metrics import AUTHORITY_RESULTS, EXCEPTIONS
from serving.wire import enrollments as wire
from serving.wire.fields import list_frames, of_record

REPLAYED = {"Idempotency-Replayed": "true"}
_LIVE = ("live", "guardian.live")
KEY_UNUSED = "no enrollment that this key may read has this Idempotency-Key"
"""Said of an outlet's sister's too."""


async def create_enrollment(parts: Parts, request: Request, body: wire.EnrollmentRequest) -> Answer:
    """Decides one activation: two photographs of one person, a document, a number. The live one
    may be up to eight frames, of which those that are fit are fused.

    An unusable photograph, a bad document or a duplicate is a decision, not an error. The same
    Idempotency-Key with the same body gives the stored answer, whatever became of the first
    request, and is audited; with another body it is refused.
    """
    key = read_idempotency_key(request)
    # What is answered already or cannot be judged costs no extraction.
    asked, early = await asyncio.to_thread(_answer_early, parts, request.caller, key, body)
    if isinstance(early, OutletRestricted):
        await note(request, ENROLLMENT_REFUSED, asked.outlet, cause=early.code)
    if isinstance(early, SosieError):
        raise early
    if isinstance(early, Decided):
        decided = early
    else:
        age = utc_now() - body.captured_at
        if not -timedelta(minutes=wire.MAX_AHEAD_MIN) <= age <= timedelta(hours=wire.MAX_AGE_H):
            raise CaptureTimeInvalid(
                f"captured_at: at most {wire.MAX_AGE_H} hours ago and {wire.MAX_AHEAD_MIN} minutes "
                "ahead: check the clock, or take the photograph again"
            )
        asked = await _take_photographs(parts, request, early, body)
        for judged in asked.faces_judged:
            count_judged(parts, judged)
        try:
            decided = await request.registrar.enroll(asked)
        except LivenessReplayed as error:
            count_liveness(parts, asked.liveness, error)
            raise
    word = parts.deployment.settings.thresholds.match_word
    shown = serializers.enrollment(request.caller, decided, key, word)
    if not decided.is_repeated:
        count_liveness(parts, asked.liveness)
        if asked.exception is not None:
            parts.meter.add(EXCEPTIONS, asked.exception.value, shown.decision)
        elif asked.proof is not None:
            parts.meter.add(EXCEPTIONS, asked.proof.way or "unknown", shown.decision)
        return Answer(shown, 201)
    await note(request, "enrollment.read", decided.enrollment_id)
    return Answer(shown, 200, REPLAYED)


async def _take_photographs(
    parts: Parts, request: Request, attempt: Attempt, body: wire.EnrollmentRequest
) -> EnrollmentRequest:
    """The request with what its photographs show, a guardian's as well, and with what an authority
    says of the documents, which is asked meanwhile."""
    faces = _list_photographs(body)
    sampling = sample_faces(parts, request, faces, _LIVE)
    if parts.authority is None:
        return show_faces(attempt.request, await sampling)
    live, theirs = (faces[name][0][0] if name in faces else None for name in _LIVE)
    terms = (parts.liveness.terms, parts.deployment.settings.people)
    questions = await asyncio.to_thread(ask_of, parts.store, attempt, live, theirs, *terms)
    taken, said = await look_up_beside(parts.authority, questions, sampling)
    for one in said.values():
        # One that confirmed nothing is logged by its code alone.
        source = "kept" if one.is_kept else "asked"
        parts.meter.add(AUTHORITY_RESULTS, one.code.value, source)
        if one.code is not AuthorityCode.CONFIRMED:
            parts.log.warning("authority", kind=one.kind, code=one.code.value)
    return replace(show_faces(attempt.request, taken), authority=said)


def _list_photographs(body: wire.EnrollmentRequest) -> dict[str, Photographed]:
    """What came, by its field."""
    came: dict[str, Photographed] = {}
    for person, one in (("", body), ("guardian.", body.guardian)):
        if one is not None and one.live is not None:
            came[f"{person}live"] = list_frames(one.live), tell_kind(None, one.live_point)
        if one is not None and one.portrait is not None:
            told = tell_kind(one.portrait_kind, one.portrait_point)
            came[f"{person}portrait"] = list_frames(one.portrait), told
    return came


def _read_request(
    parts: Parts, principal: Principal, key: str, body: wire.EnrollmentRequest
) -> EnrollmentRequest:
    """The request as far as it is known before its photographs are looked at."""
    carrier, outlet = outlet_of(principal, body.outlet)
    document, faces = body.document, _list_photographs(body)
    # One result names the frames of all who were before the camera.
    judged = [frame for name in _LIVE if name in faces for frame in faces[name][0]]
    is_pointed = any(one is not None and one.live_point for one in (body, body.guardian))
    whose = (name_document(document), carrier, outlet)
    made_for = (is_pointed, LivenessUse.ENROLLMENT, *whose, utc_now())
    asked = EnrollmentRequest(
        idempotency_key=key,
        carrier=carrier,
        outlet=outlet,
        document=document,
        msisdn=body.msisdn,
        consent=Consent(body.consent_ref, body.consent),
        captured_at=body.captured_at,
        liveness=parts.liveness.check(body.liveness, judged, *made_for) if judged else None,
        guardian=None if body.guardian is None else GuardianShown(document=body.guardian.document),
        exception=body.exception,
        replaces=None if body.replaces is None else known_document(body.replaces),
        proof=None
        if body.proof is None
        else parts.proofs.check(body.proof, document, body.msisdn, utc_now()),
    )
    unseen = {
        name: fuse_frames([Sample.unseen(one, kind) for one in frames], math.inf)
        for name, (frames, kind) in faces.items()
    }
    return show_faces(asked, unseen)


def _answer_early(
    parts: Parts, principal: Principal, key: str, body: wire.EnrollmentRequest
) -> tuple[EnrollmentRequest, Attempt | Decided | SosieError]:
    """The request, and the stored answer of an earlier one, what the registrar would refuse it
    with, or the attempt to be judged. The registrar looks again, so nothing depends on this."""
    asked = _read_request(parts, principal, key, body)
    time_zone = parts.deployment.settings.registrar.time_zone
    with parts.store.reading() as registry:
        return asked, Intake(registry, time_zone).sort([asked], utc_now())[0]


async def read_enrollment(
    parts: Parts, request: Request, enrollment_id: str
) -> wire.EnrollmentRecord:
    """What is on record of an enrollment; the read is audited."""
    record = await asyncio.to_thread(parts.store.enrollment, enrollment_id)
    see_enrollment(request.caller, record)
    await note(request, "enrollment.read", record.id)
    asked = await asyncio.to_thread(parts.store.people.exceptions, [record.id])
    return serializers.enrollment_record(request.caller, record, asked.get(record.id))


async def find_enrollment(
    parts: Parts, request: Request, query: wire.EnrollmentQuery
) -> wire.Enrollment:
    """The stored answer of this tenant's request with an Idempotency-Key; audited."""
    key = query.idempotency_key
    scope = idempotency_scope(parts.vault, scope_of(request.caller) or "", key)
    stored = (await asyncio.to_thread(parts.store.answers, [scope])).get(scope)
    if stored is None or stored.enrollment_id is None:
        raise NotFound(KEY_UNUSED)
    record = await asyncio.to_thread(parts.store.enrollment, stored.enrollment_id)
    try:
        see_enrollment(request.caller, record)
    except NotFound:
        raise NotFound(KEY_UNUSED) from None
    await note(request, "enrollment.read", record.id)
    found = Decided(stored.response, is_repeated=True)
    word = parts.deployment.settings.thresholds.match_word
    return serializers.enrollment(request.caller, found, key, word)


async def read_crops(parts: Parts, request: Request, enrollment_id: str) -> wire.Crops:
    """Both aligned faces as they were compared, where the operator has them kept and their time is
    not over; audited.
    """
    shown = await asyncio.to_thread(_crops, parts, enrollment_id)
    await note(request, "crops.read", shown.enrollment_id, crops=len(shown.crops))
    return shown


def _crops(parts: Parts, enrollment_id: str) -> wire.Crops:
    # `NotFound` for what is no enrollment: an empty list would say that its crops are gone.
    record = parts.store.enrollment(enrollment_id)
    return wire.Crops(
        enrollment_id=record.id,
        crops=tuple(of_record(wire.Crop, crop) for crop in parts.store.cases.crops(record.id)),
    )


def read_idempotency_key(request: Request) -> str:
    """The Idempotency-Key: 1 to 255 printable characters of ASCII."""
    key = request.idempotency_key
    if key is None:
        raise IdempotencyKeyMissing(
            "give an Idempotency-Key: a fresh UUID for each activation, the same for its retries"
        )
    if not (key.isascii() and key.isprintable() and 1 <= len(key) <= MAX_KEY_LENGTH):
        raise IdempotencyKeyInvalid(
            f"the Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable characters of ASCII"
        )
    return key
