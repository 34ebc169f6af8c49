"""`/v1/identifications`: 1:N for fraud teams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.matching.identification import Identification
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry
from serving.access.authorization import Action, Principal
from serving.api.dependencies import admit, read_body, take_face
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.api.schemas.identifications import (
    MAX_CANDIDATES,
    IdentificationAnswer,
    IdentificationBody,
)
from serving.api.schemas.matching import Face
from serving.api.serializers import find_held, show_holders
from serving.errors import Malformed
from serving.parts import Parts

# A face searched over the gallery for a fraud team: whose it may be.


@dataclass(frozen=True, slots=True)
class FaceSearch:
    """Document to the score of its best reference, best first; `found` counts all documents.

    `facts` are what an answer says of the search: how much was searched, at which threshold.
    """

    scores: dict[str, float]
    found: int
    facts: dict[str, Any]

    @property
    def document_ids(self) -> Sequence[str]:
        return list(self.scores)


async def search_face(
    parts: Parts, call: Call, principal: Principal, face: Face, threshold: float
) -> FaceSearch:
    """The documents at or above the threshold, `MAX_CANDIDATES` at most; audited by the desk."""
    probe = await take_face(parts, call, principal, face)
    found = (await parts.registrar.identify(probe[None], threshold, call.context(principal)))[0]
    return FaceSearch(
        scores=_best_scores(found),
        found=found.found_documents,
        facts={
            "searched": found.searched,
            "gallery_sequence": found.gallery_sequence,
            "threshold": threshold,
            "expected_false_candidates": _expect(parts, found.searched, threshold),
        },
    )


def _best_scores(found: Identification) -> dict[str, float]:
    scores: dict[str, float] = {}
    for candidate in found.candidates:
        scores.setdefault(candidate.document_id, candidate.score)
    return dict(list(scores.items())[:MAX_CANDIDATES])


def _expect(parts: Parts, searched: int, threshold: float) -> dict[str, Any] | None:
    if parts.calibration is None:
        return None
    return asdict(parts.calibration.expected_false_candidates(searched, threshold))


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
        await parts.registrar.note([entry], call.context(principal))
    return call.answer({"candidates": shown, "found": search.found, **search.facts})


def _show(store: Reader, search: FaceSearch) -> list[dict[str, Any]]:
    # Some may have been erased since the search.
    return show_holders(store, find_held(store, search.document_ids), search.scores)
