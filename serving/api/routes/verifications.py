"""`/v1/verifications`: 1:1, between two faces or against who holds a line or a document."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from engine.matching.comparison import score_best
from engine.matching.verification import HolderCheck
from serving.access.authorization import Action, Principal, authorize
from serving.api.dependencies import admit, read_body, take_face, take_faces
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.api.schemas.verifications import VerificationAnswer, VerificationBody
from serving.parts import Parts
from serving.registrar.protocol import LineTarget


def add_verifications(router: APIRouter, parts: Parts) -> None:
    """Adds the route about verifications."""

    async def verify(request: Request) -> Response:
        """Holds a face against another, or, for a change of SIM or a resale check, against the
        holder of a line or of a document; only the latter are audited, and nothing is stored.
        """
        return await _verify(parts, call_of(request))

    router.add_api_route(
        "/v1/verifications",
        verify,
        methods=["POST"],
        **describe(
            "Verify a face",
            body=VerificationBody,
            answers={200: VerificationAnswer},
            errors=(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 503, 507),
        ),
    )


async def _verify(parts: Parts, call: Call) -> Response:
    # A role that may do the one may do the other: the body decides which it is.
    principal = await admit(parts, call, Action.VERIFY_IMAGES)
    body = await read_body(call, VerificationBody)
    if body.reference is not None:
        probe, reference = await take_faces(
            parts, call, principal, {"probe": body.probe, "reference": body.reference}
        )
        return call.answer(_compare(parts, probe, reference))
    authorize(principal, Action.VERIFY_HOLDER)
    probe = await take_face(parts, call, principal, body.probe)
    check = await _check_holder(parts, call, principal, body, probe)
    return call.answer(
        {
            "is_match": check.is_match,
            "score": check.score,
            "threshold": check.threshold,
            "document_id": check.document_id,
            "line_id": check.line_id,
        }
    )


def _compare(
    parts: Parts, probe: NDArray[np.float32], reference: NDArray[np.float32]
) -> dict[str, Any]:
    score = score_best(probe, reference[None])
    assert score is not None, "there is one reference"
    threshold = parts.thresholds.verify
    return {
        "is_match": score >= threshold,
        "score": score,
        "threshold": threshold,
        "document_id": None,
        "line_id": None,
    }


async def _check_holder(
    parts: Parts,
    call: Call,
    principal: Principal,
    body: VerificationBody,
    probe: NDArray[np.float32],
) -> HolderCheck:
    context = call.context(principal)
    if body.line is not None:
        return await parts.registrar.check_line(LineTarget(body.line), probe, context)
    document = body.document_id if body.document is None else body.document.read()
    assert document is not None, "the model wants one"
    return await parts.registrar.check_document(document, probe, context)
