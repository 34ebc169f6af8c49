"""`/v1/identifications`: 1:N for fraud teams."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.registry.reader import Reader
from engine.registry.records import AuditEntry
from serving.access.tenancy import Action
from serving.api.call import Call, call_of
from serving.api.openapi import describe
from serving.api.reception import admit, read_body
from serving.api.routes.searching import FaceSearch, search_face
from serving.api.routes.showing import find_held, show_holders
from serving.api.schemas.identifications import IdentificationAnswer, IdentificationBody
from serving.parts import Parts
from serving.refusals import Malformed


def add_identifications(router: APIRouter, parts: Parts) -> None:
    """Adds the route about identifications."""

    async def identify(request: Request) -> Response:
        """Whose references look like this face, with the lines and the open cases of each; what
        is shown of whom is audited. Candidates are look-alikes for people to judge: see
        `expected_false_candidates`.
        """
        return await _identify(parts, call_of(request))

    router.add_api_route(
        "/v1/identifications",
        identify,
        methods=["POST"],
        **describe(
            "Identify a face",
            body=IdentificationBody,
            answers={200: IdentificationAnswer},
            errors=(400, 401, 403, 406, 408, 413, 415, 422, 429, 503, 507),
        ),
    )


async def _identify(parts: Parts, call: Call) -> Response:
    principal = await admit(parts, call, Action.IDENTIFY)
    body = await read_body(call, IdentificationBody)
    lowest = parts.thresholds.review
    threshold = lowest if body.threshold is None else body.threshold
    if threshold < lowest:
        raise Malformed(f"threshold: below the deployment's for review, {lowest:.4f}")
    search = await search_face(parts, call, principal, body.probe, threshold)
    shown = await asyncio.to_thread(_show, parts.store, search)
    if shown:
        documents = [one["document_id"] for one in shown]
        detail = {"documents": documents}
        entry = AuditEntry(principal.actor, "documents.read", "identification", detail)
        await parts.desk.note([entry], call.context(principal))
    return call.answer({"candidates": shown, "found": search.found, **search.facts})


def _show(store: Reader, search: FaceSearch) -> list[dict[str, Any]]:
    # Some may have been erased since the search.
    return show_holders(store, find_held(store, search.document_ids), search.scores)
