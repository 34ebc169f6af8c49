"""`/v1/identifications`: 1:N for fraud teams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.matching.identification import Identification
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, CaseRecord
from serving.access.tenancy import Action
from serving.api.call import Call, call_of
from serving.api.openapi import describe
from serving.api.reception import admit, read_body, take_face
from serving.api.routes.showing import show_line
from serving.api.schemas.identifications import (
    MAX_CANDIDATES,
    IdentificationAnswer,
    IdentificationBody,
)
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
    probe = await take_face(parts, call, principal, body.probe)
    found = (await parts.desk.identify(probe[None], threshold, call.context(principal)))[0]
    scores = _best_scores(found)
    listed = list(scores)[:MAX_CANDIDATES]
    shown = await asyncio.to_thread(_show_holders, parts.store, listed, scores)
    if shown:
        documents = [one["document_id"] for one in shown]
        detail = {"documents": documents}
        entry = AuditEntry(principal.actor, "documents.read", "identification", detail)
        await parts.desk.note([entry], call.context(principal))
    return call.answer(
        {
            "candidates": shown,
            "found": found.found_documents,
            "searched": found.searched,
            "gallery_sequence": found.gallery_sequence,
            "threshold": threshold,
            "expected_false_candidates": _expect(parts, found.searched, threshold),
        }
    )


def _best_scores(found: Identification) -> dict[str, float]:
    """Document to the score of its best reference, best first."""
    scores: dict[str, float] = {}
    for candidate in found.candidates:
        scores.setdefault(candidate.document_id, candidate.score)
    return scores


def _show_holders(
    store: Reader, document_ids: Sequence[str], scores: dict[str, float]
) -> list[dict[str, Any]]:
    records = store.documents_by_id(document_ids)
    # Some may have been erased since the search.
    held = [one for one in document_ids if one in records and not records[one].is_erased]
    lines, cases = store.lines_in_use_of(held), store.open_cases_of(held)
    numbers = store.numbers([line.id for one in held for line in lines[one]])
    return [
        {
            "document_id": one,
            "document_status": records[one].status.value,
            "score": scores[one],
            "lines": [show_line(line, numbers) for line in lines[one]],
            "cases": [_show_case(case) for case in cases[one]],
        }
        for one in held
    ]


def _show_case(case: CaseRecord) -> dict[str, Any]:
    return {
        "id": case.id,
        "kind": case.kind,
        "score": case.score,
        "opened_at": case.opened_at,
    }


def _expect(parts: Parts, searched: int, threshold: float) -> dict[str, Any] | None:
    if parts.calibration is None:
        return None
    return asdict(parts.calibration.expected_false_candidates(searched, threshold))
