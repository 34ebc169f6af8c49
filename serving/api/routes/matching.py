"""`/v1/match`, `/v1/templates`, `/v1/verifications`: faces held against faces."""

import asyncio
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from engine.errors import FaceNotKept, ImageError
from engine.matching.checks.picture import FaceVector
from engine.matching.comparison import score_best
from engine.matching.requests import name_document
from engine.matching.verification import HolderCheck
from engine.registry.database import utc_now
from schema.documents import Document
from schema.reasons import LivenessUse
from serving.access.authorization import Action, authorize, choose_candidates, scope_of, tenant_of
from serving.api.request import (
    Request,
    charge_photographs,
    counting_liveness,
    known_document,
    take_faces,
    take_holder_face,
)
from serving.ingress.match import MatchBatch, list_beside, match_batch, read_sample
from serving.ingress.parts import Parts
from serving.registrar.protocol import HolderFace, LineTarget
from serving.telemetry.metrics import EXCEPTIONS
from serving.wire import matching as wire
from serving.wire.fields import Moment, Template, of_record


async def match(parts: Parts, request: Request, body: wire.MatchRequest) -> wire.MatchResults:
    """Each item holds a probe against a reference, against the gallery, or both; nothing is
    stored. Whatever is wrong with one item is its own error. If a search cannot run, the whole call
    fails: no answer ever means that nobody was looked for.
    """
    caller, batch = request.caller, MatchBatch.of(body.items)
    if any(item.search for item in body.items):
        authorize(caller, Action.SEARCH)
        _refuse_to(request, parts.people.unsearched)
    _charge_rest(parts, request, len(body.items))
    charge_photographs(parts, request, batch.images.values())
    show = choose_candidates(caller, parts.vault)
    return wire.MatchResults(await match_batch(parts, batch, caller.holder, request.context, show))


async def issue_templates(
    parts: Parts, request: Request, body: wire.TemplatesRequest
) -> wire.Templates:
    """A template stands for its photograph in `/v1/match` until it expires; only the tenant that it
    was issued to can use it. Nothing is stored here.
    """
    _refuse_to(request, parts.people.unkept)
    _charge_rest(parts, request, len(body.items))
    issued_at = datetime.now(UTC).replace(microsecond=0)
    with parts.tracer.span("extract", items=len(body.items)):
        images = [item.image for item in body.items]
        charge_photographs(parts, request, [[image] for image in images])
        kinds = [item.kind for item in body.items]
        samples = await parts.faces.sample(
            images, request.remaining_s, kinds, holder=request.caller.holder
        )
    found = [read_sample(sample) for sample in samples]
    vectors = [one for one in found if not isinstance(one, wire.ItemError)]
    tenant = tenant_of(request.caller)
    issued = iter(parts.templates.issue(np.stack(vectors), tenant) if vectors else ())
    results = []
    for item, sample, one in zip(body.items, samples, found, strict=True):
        error = one if isinstance(one, wire.ItemError) else None
        results.append(
            wire.TemplateResult(
                id=item.id,
                template=Template(next(issued)) if error is None else None,
                quality=None if isinstance(sample, ImageError) else dict(sample.quality) or None,
                error=error,
            )
        )
    expires_at = issued_at + timedelta(hours=parts.settings.template_ttl_h)
    return wire.Templates(
        Moment.of(expires_at), parts.deployment.store.model_digest, tuple(results)
    )


def _refuse_to(request: Request, carriers: Container[str]) -> None:
    carrier = scope_of(request.caller)
    if carrier is not None and carrier in carriers:
        raise FaceNotKept("this carrier keeps no faces, and searches for none: verify 1:1")


def _charge_rest(parts: Parts, request: Request, items: int) -> None:
    """Every item counts into the key's rate; the first was charged when it was admitted."""
    if items > 1:
        parts.authenticator.charge(request.caller, items - 1)


async def verify(
    parts: Parts, request: Request, body: wire.VerificationRequest
) -> wire.Verification:
    """Holds a face against another, or, for a change of SIM or a resale check, against the holder
    of a line or of a document; only the latter are audited, and nothing is stored.
    """
    # A role that may do the one may do the other: the body decides which it is.
    if body.reference is not None and body.probe is not None:
        probe, reference = await take_faces(
            parts, request, probe=body.probe, reference=body.reference
        )
        score = score_best(probe.vector, reference.vector[None])
        assert score is not None, "there is one reference"
        threshold = parts.thresholds.verify_for(probe.length)
        is_match = score >= threshold
        more = _tell_match(parts, probe, reference, is_match=is_match)
        return wire.Verification(is_match, score, threshold, None, None, **more)
    authorize(request.caller, Action.VERIFY_HOLDER)
    if body.proof is not None:
        return await _prove(parts, request, body, body.proof)
    assert body.probe is not None, "the type wants one of both"
    subject = _name_subject(body)
    named = (body.probe, body.liveness, subject, body.portrait)
    shown = await take_holder_face(parts, request, *named)
    with counting_liveness(parts, shown.liveness):
        check = await _check_holder(request, body, shown)
    score = check.score if scope_of(request.caller) is None else None
    more = _tell_match(parts, shown.face, shown.portrait, is_match=check.is_match)
    return of_record(wire.Verification, check, score=score, **more)


def _tell_match(parts: Parts, *faces: FaceVector | None, is_match: bool) -> dict[str, Any]:
    """What other faces stood beside two that do not match, or the operator's word for a match."""
    word = parts.deployment.settings.thresholds.match_word if is_match else ""
    return {"problems": list_beside(*faces, is_match=is_match), "match_word": word or None}


async def _prove(
    parts: Parts, request: Request, body: wire.VerificationRequest, token: str
) -> wire.Verification:
    assert body.line is not None, "the type wants it"
    assert body.document is not None, "and this"
    document = known_document(body.document)
    shown = await asyncio.to_thread(
        parts.proofs.check, token, document, body.line, utc_now(), LivenessUse.VERIFICATION
    )
    target, outcome = LineTarget(body.line, document=document), "refused"
    try:
        check = await request.registrar.prove_line(target, shown)
        outcome = "verified" if check.is_match else outcome
    finally:
        parts.meter.add(EXCEPTIONS, shown.way or "unknown", outcome)
    return of_record(wire.Verification, check, problems=(), match_word=None)


def _name_subject(body: wire.VerificationRequest) -> str:
    """Whom a verification is about, as evidence of liveness names it."""
    if body.document is not None:
        return name_document(known_document(body.document))
    return f"document_id:{body.document_id}" if body.line is None else f"line:{body.line}"


async def _check_holder(
    request: Request, body: wire.VerificationRequest, shown: HolderFace
) -> HolderCheck:
    document = body.document_id if body.document is None else known_document(body.document)
    if body.line is not None:
        presented = document if isinstance(document, Document) else None
        line = LineTarget(
            body.line, body.probe is not None and body.probe.image is not None, presented
        )
        return await request.registrar.check_line(line, shown)
    assert document is not None, "the type wants one"
    return await request.registrar.check_document(document, shown)
