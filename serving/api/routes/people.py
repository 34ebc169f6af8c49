"""`/v1/people` and `/v1/documents/{id}`: who somebody is, to a fraud team, masked and audited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import NotFound
from engine.matching.documents import Document
from engine.matching.holders import NOBODY, find_holder
from engine.matching.lines import find_line
from engine.matching.requests import normalise_msisdn
from engine.registry.reader import AttemptRecord, Reader
from engine.registry.records import AuditEntry, DocumentRecord, utc_now
from serving.access.authorization import Action, Principal
from serving.api.dependencies import admit, read_body
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.api.routes.identifications import search_face
from serving.api.schemas.people import MOST_ATTEMPTS, DocumentAnswer, PeopleAnswer, PeopleBody
from serving.api.serializers import find_held, show_case, show_line
from serving.masking import mask_name, mask_number
from serving.parts import Parts

NO_SEARCH = dict.fromkeys(
    ("searched", "gallery_sequence", "threshold", "expected_false_candidates")
)


def add_people(router: APIRouter, parts: Parts) -> None:
    """Adds the routes about people."""

    async def search_people(request: Request) -> Response:
        """Who has this face, this document or this number, with lines in use, attempts and open
        cases; audited, whoever is found. Whoever has a face alike is a candidate: see
        `expected_false_candidates`.
        """
        return await _search(parts, call_of(request))

    async def read_document(request: Request, document_id: str) -> Response:
        """What stands under one document: lines and cases, closed ones too, and attempts; name and
        numbers masked; audited.
        """
        return await _read(parts, call_of(request), document_id)

    router.add_api_route(
        "/v1/people/search",
        search_people,
        methods=["POST"],
        **describe(
            "Search for a person",
            body=PeopleBody,
            answers={200: PeopleAnswer},
            errors=(400, 401, 403, 406, 408, 413, 415, 422, 429, 503, 507),
        ),
    )
    router.add_api_route(
        "/v1/documents/{document_id}",
        read_document,
        methods=["GET"],
        **describe(
            "Read what stands under a document",
            answers={200: DocumentAnswer},
            errors=(400, 401, 403, 404, 406, 429, 503, 507),
        ),
    )


async def _search(parts: Parts, call: Call) -> Response:
    principal = await admit(parts, call, Action.SEARCH_PEOPLE)
    body = await read_body(call, PeopleBody)
    facts: Mapping[str, Any] = NO_SEARCH
    scores: Mapping[str, float] = {}
    if body.probe is not None:
        threshold = parts.thresholds.review
        search = await search_face(parts, call, principal, body.probe, threshold)
        by, ids, found = "face", search.document_ids, search.found
        facts, scores = search.facts, search.scores
    else:
        by = "number" if body.document is None else "document"
        ids = await asyncio.to_thread(_look_up, parts.store, body)
        found = len(ids)
    people = await asyncio.to_thread(_show_people, parts.store, ids, scores)
    detail = {"documents": [one["document_id"] for one in people]}
    await _note(parts, call, principal, AuditEntry(principal.actor, "people.searched", by, detail))
    return call.answer({"people": people, "found": found, **facts})


async def _read(parts: Parts, call: Call, document_id: str) -> Response:
    principal = await admit(parts, call, Action.SEARCH_PEOPLE)
    shown = await asyncio.to_thread(_show_document, parts.store, document_id)
    entry = AuditEntry(principal.actor, "document.read", shown["document_id"])
    await _note(parts, call, principal, entry)
    return call.answer(shown)


async def _note(parts: Parts, call: Call, principal: Principal, entry: AuditEntry) -> None:
    await parts.registrar.note([entry], call.context(principal))


def _look_up(store: Reader, body: PeopleBody) -> Sequence[str]:
    """The document with this number, or under which this telephone number is in use; or none."""
    if body.document is not None:
        return _find_document(store, body.document.read())
    assert body.msisdn is not None, "the model wants one"
    line = find_line(store, normalise_msisdn(body.msisdn))
    return [] if line is None else [line.document_id]


def _find_document(store: Reader, document: Document) -> Sequence[str]:
    try:
        return [find_holder(store, document, utc_now().date()).id]
    except NotFound:
        return []


def _show_people(
    store: Reader, document_ids: Sequence[str], scores: Mapping[str, float]
) -> list[dict[str, Any]]:
    held = find_held(store, document_ids)
    ids = [record.id for record in held]
    lines, cases = store.lines_in_use_of(ids), store.cases.open_of(ids)
    return _show(store, held, lines, cases, scores)


def _show_document(store: Reader, document_id: str) -> dict[str, Any]:
    record = store.document(document_id)
    if record.is_erased:
        raise NotFound(NOBODY)
    lines = {record.id: store.lines_of(record.id)}
    cases = store.cases.of([record.id])
    return _show(store, [record], lines, cases, {})[0]


def _show(
    store: Reader,
    held: Sequence[DocumentRecord],
    lines: Mapping[str, Any],
    cases: Mapping[str, Any],
    scores: Mapping[str, float],
) -> list[dict[str, Any]]:
    ids = [record.id for record in held]
    attempts = store.attempts_of(ids, MOST_ATTEMPTS)
    in_use = [line.id for one in ids for line in lines[one] if line.closed_at is None]
    numbers = store.numbers(in_use)
    return [
        {
            "document_id": record.id,
            "document_type": record.kind,
            "document_status": record.status.value,
            **_show_identity(store, record.id),
            "score": scores.get(record.id),
            "lines": [show_line(line, numbers) for line in lines[record.id]],
            "enrollments": [_show_attempt(one) for one in attempts[record.id]],
            "cases": [show_case(case) for case in cases[record.id]],
        }
        for record in held
    ]


def _show_identity(store: Reader, document_id: str) -> dict[str, Any]:
    try:
        identity = store.identity(document_id)
    except NotFound:
        # Erased since it was found.
        return {"number": "", "name": ""}
    return {"number": mask_number(identity.number), "name": mask_name(identity.name)}


def _show_attempt(attempt: AttemptRecord) -> dict[str, Any]:
    return {
        "enrollment_id": attempt.id,
        "carrier": attempt.carrier,
        "outlet": attempt.outlet,
        "decision": attempt.decision,
        "reasons": list(attempt.reasons),
        "decided_at": attempt.created_at,
    }
