"""`/v1/documents`: erasure."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.access.authorization import Action
from serving.api.dependencies import admit
from serving.api.openapi import describe
from serving.api.request import call_of
from serving.api.schemas.documents import ErasureAnswer
from serving.parts import Parts


def add_documents(router: APIRouter, parts: Parts) -> None:
    """Adds the route about documents."""

    async def erase_document(request: Request, document_id: str) -> Response:
        """Erases a document's holder: references, name, numbers. The answer is the certificate.

        A carrier may do so where every line of the holder is its own.
        """
        call = call_of(request)
        principal = await admit(parts, call, Action.ERASE_DOCUMENT)
        certificate = await parts.registrar.erase(document_id, call.context(principal))
        return call.answer(asdict(certificate))

    router.add_api_route(
        "/v1/documents/{document_id}",
        erase_document,
        methods=["DELETE"],
        **describe(
            "Erase a holder",
            answers={200: ErasureAnswer},
            errors=(400, 401, 403, 404, 406, 429, 503, 507),
        ),
    )
