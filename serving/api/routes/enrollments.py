"""`/v1/enrollments`: one activation decided, and read again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import NotFound, SosieError
from engine.matching.documents import FormAuthority
from engine.matching.prechecks import Intake, idempotency_scope
from engine.matching.requests import Answer, EnrollmentRequest, Sample
from engine.registry.records import AuditEntry, EnrollmentRecord, utc_now
from serving.access.authorization import Action, Principal, outlet_of, scope_of, see_enrollment
from serving.access.pseudonyms import show_decision
from serving.api.dependencies import admit, read_body, read_idempotency_key, sample_images
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.api.schemas.enrollments import (
    MAX_AGE_H,
    MAX_AHEAD_MIN,
    EnrollmentAnswer,
    EnrollmentBody,
    EnrollmentRecordAnswer,
)
from serving.errors import CaptureTimeInvalid
from serving.parts import Parts

REPLAYED = {"Idempotency-Replayed": "true"}
KEY_UNUSED = "no enrollment that this key may read has this Idempotency-Key"
"""Said of an outlet's sister's too."""


def add_enrollments(router: APIRouter, parts: Parts) -> None:
    """Adds the routes about enrollments."""
    _add_enroll(router, parts)
    _add_reads(router, parts)


def _add_enroll(router: APIRouter, parts: Parts) -> None:
    intake = Intake(parts.store, parts.vault, FormAuthority())

    async def enroll(request: Request) -> Response:
        """Decides one activation: two photographs of one person, a document, a number.

        An unusable photograph, a bad document or a duplicate is a decision, not an error. The same
        Idempotency-Key with the same body gives the stored answer, whatever became of the first
        request, and is audited; with another body it is refused.
        """
        return await _enroll(parts, intake, call_of(request))

    router.add_api_route(
        "/v1/enrollments",
        enroll,
        methods=["POST"],
        **describe(
            "Decide an activation",
            body=EnrollmentBody,
            answers={201: EnrollmentAnswer, 200: EnrollmentAnswer},
            errors=(400, 401, 403, 406, 408, 409, 413, 415, 422, 429, 503, 507),
            needs_idempotency_key=True,
        ),
    )


def _add_reads(router: APIRouter, parts: Parts) -> None:
    async def read_enrollment(request: Request, enrollment_id: str) -> Response:
        """What is on record of an enrollment; the read is audited."""
        return await _read(parts, call_of(request), enrollment_id)

    async def find_enrollment(
        request: Request,
        idempotency_key: Annotated[str, Query(min_length=1, max_length=255)],
    ) -> Response:
        """The stored answer of this tenant's request with an Idempotency-Key; audited."""
        return await _find(parts, call_of(request), idempotency_key)

    router.add_api_route(
        "/v1/enrollments/{enrollment_id}",
        read_enrollment,
        methods=["GET"],
        **describe(
            "Read an enrollment",
            answers={200: EnrollmentRecordAnswer},
            errors=(400, 401, 403, 404, 406, 429, 503, 507),
        ),
    )
    router.add_api_route(
        "/v1/enrollments",
        find_enrollment,
        methods=["GET"],
        **describe(
            "Find an enrollment by its key",
            answers={200: EnrollmentAnswer},
            errors=(400, 401, 403, 404, 406, 429, 503, 507),
        ),
    )


async def _enroll(parts: Parts, intake: Intake, call: Call) -> Response:
    principal = await admit(parts, call, Action.ENROLL)
    key = read_idempotency_key(call)
    body = await read_body(call, EnrollmentBody)
    request = _write_request(principal, key, body)
    # What is answered already or cannot be judged costs no extraction.
    answer = await asyncio.to_thread(_answer_early, intake, request)
    if answer is None:
        _require_capture_time(body.captured_at)
        live, portrait = await sample_images(
            parts, call, {"live": body.live, "portrait": body.portrait}
        )
        answer = await parts.registrar.enroll(
            replace(request, live=live, portrait=portrait), call.context(principal)
        )
    shown = {
        **show_decision(principal, parts.vault, answer.body),
        "idempotency_key": key,
        "is_repeated": answer.is_repeated,
    }
    if answer.is_repeated:
        await _note_read(parts, call, principal, answer.enrollment_id)
        return call.answer(shown, 200, REPLAYED)
    return call.answer(shown, 201)


def _write_request(principal: Principal, key: str, body: EnrollmentBody) -> EnrollmentRequest:
    """The request as far as it is known before its photographs are looked at."""
    carrier, outlet = outlet_of(principal, body.outlet)
    live, portrait = (
        Sample(vector=None, digest=hashlib.sha256(image).digest())
        for image in (body.live, body.portrait)
    )
    return EnrollmentRequest(
        idempotency_key=key,
        carrier=carrier,
        outlet=outlet,
        document=body.document.read(),
        msisdn=body.msisdn,
        live=live,
        portrait=portrait,
        consent_ref=body.consent_ref,
        captured_at=body.captured_at,
    )


def _answer_early(intake: Intake, request: EnrollmentRequest) -> Answer | None:
    """The stored answer of an earlier request, None where it is to be judged.

    Raises what the registrar would refuse it with: it looks again, so nothing depends on this.
    """
    outcome = intake.sort([request], utc_now().date())[0]
    if isinstance(outcome, SosieError):
        raise outcome
    return outcome if isinstance(outcome, Answer) else None


def _require_capture_time(captured_at: datetime) -> None:
    age = utc_now() - captured_at
    if not -timedelta(minutes=MAX_AHEAD_MIN) <= age <= timedelta(hours=MAX_AGE_H):
        raise CaptureTimeInvalid(
            f"captured_at: at most {MAX_AGE_H} hours ago and {MAX_AHEAD_MIN} minutes ahead: "
            "check the clock, or take the photograph again"
        )


async def _read(parts: Parts, call: Call, enrollment_id: str) -> Response:
    principal = await admit(parts, call, Action.READ_ENROLLMENT)
    record = await asyncio.to_thread(parts.store.enrollment, enrollment_id)
    see_enrollment(principal, record)
    await _note_read(parts, call, principal, record.id)
    return call.answer(show_decision(principal, parts.vault, _show_record(record)))


async def _find(parts: Parts, call: Call, key: str) -> Response:
    principal = await admit(parts, call, Action.FIND_ENROLLMENT)
    scope = idempotency_scope(parts.vault, scope_of(principal) or "", key)
    stored = (await asyncio.to_thread(parts.store.answers, [scope])).get(scope)
    if stored is None or stored.enrollment_id is None:
        raise NotFound(KEY_UNUSED)
    record = await asyncio.to_thread(parts.store.enrollment, stored.enrollment_id)
    try:
        see_enrollment(principal, record)
    except NotFound:
        raise NotFound(KEY_UNUSED) from None
    await _note_read(parts, call, principal, record.id)
    shown = show_decision(principal, parts.vault, stored.response)
    return call.answer({**shown, "idempotency_key": key, "is_repeated": True})


async def _note_read(parts: Parts, call: Call, principal: Principal, enrollment_id: str) -> None:
    entry = AuditEntry(principal.actor, "enrollment.read", enrollment_id)
    await parts.registrar.note([entry], call.context(principal))


def _show_record(record: EnrollmentRecord) -> dict[str, Any]:
    """Of an attempt that has expired: what it was judged by and its findings, no score."""
    evidence = record.evidence
    inputs: Mapping[str, Any] = evidence["inputs"]
    candidates = inputs.get("candidates")
    has_searched = inputs["searched"] is not None
    return {
        "enrollment_id": record.id,
        "carrier": record.carrier,
        "outlet": record.outlet,
        "decision": record.decision,
        "reasons": evidence["findings"],
        "scores": {
            "live_portrait": inputs.get("live_portrait_score"),
            "holder": inputs.get("holder_score"),
            "best_candidate": max((one["score"] for one in candidates or ()), default=None),
        },
        "thresholds": inputs["thresholds"],
        "duplicate_search": {
            "ran": has_searched,
            "searched": inputs["searched"],
            "gallery_sequence": record.sequence if has_searched else None,
            "candidates": candidates if has_searched else None,
        },
        "document_id": record.document_id,
        "quality": evidence.get("quality", {}),
        "model_digest": evidence["model_digest"],
        "policy_version": evidence["policy_version"],
        "consent_ref": record.consent_ref,
        "captured_at": record.captured_at,
        "decided_at": record.created_at,
        "expired_at": record.expired_at,
    }
