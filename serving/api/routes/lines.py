"""`/v1/lines`: which stand in a holder's name, one that the holder never opened, an end."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.access.authorization import Action
from serving.api.dependencies import admit, read_body, take_face
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.api.schemas.lines import ClosedLineAnswer, DisputeAnswer, HolderBody, LinesAnswer
from serving.api.serializers import show_line
from serving.parts import Parts
from serving.registrar.protocol import LineTarget


def add_lines(router: APIRouter, parts: Parts) -> None:
    """Adds the routes about lines."""
    _add_holders_own(router, parts)
    _add_end(router, parts)


def _add_holders_own(router: APIRouter, parts: Parts) -> None:
    async def query_lines(request: Request) -> Response:
        """The numbers under a document over all carriers, masked, to its holder's face; audited.

        Any other face gets one answer, whether or not somebody holds the document.
        """
        return await _query(parts, call_of(request))

    async def dispute_line(request: Request, line: str) -> Response:
        """Opens a case over a line that its holder did not open; the face must be the holder's.
        To another, or where nobody holds the document, it is REQUEST.HOLDER_MISMATCH.

        `line` is the number (+8613…) or the id that a list of lines shows.
        """
        return await _dispute(parts, call_of(request), line)

    router.add_api_route(
        "/v1/lines/query",
        query_lines,
        methods=["POST"],
        **describe(
            "List a holder's lines",
            body=HolderBody,
            answers={200: LinesAnswer},
            errors=(400, 401, 403, 406, 408, 413, 415, 422, 429, 503, 507),
        ),
    )
    router.add_api_route(
        "/v1/lines/{line}/dispute",
        dispute_line,
        methods=["POST"],
        **describe(
            "Dispute a line",
            body=HolderBody,
            answers={201: DisputeAnswer},
            errors=(400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 503, 507),
        ),
    )


def _add_end(router: APIRouter, parts: Parts) -> None:
    async def close_line(request: Request, line: str) -> Response:
        """Closes a line: its number may be given to somebody else. `line` is its number or id."""
        return await _close(parts, call_of(request), line)

    router.add_api_route(
        "/v1/lines/{line}",
        close_line,
        methods=["DELETE"],
        **describe(
            "Close a line",
            answers={200: ClosedLineAnswer},
            errors=(400, 401, 403, 404, 406, 429, 503, 507),
        ),
    )


async def _query(parts: Parts, call: Call) -> Response:
    principal = await admit(parts, call, Action.READ_LINES)
    body = await read_body(call, HolderBody)
    probe = await take_face(parts, call, principal, body.probe)
    found = await parts.registrar.read_lines(body.document.read(), probe, call.context(principal))
    return call.answer(
        {
            "is_holder": found.is_holder,
            "score": found.score,
            "threshold": found.threshold,
            "lines": [show_line(line, found.numbers) for line in found.lines],
        }
    )


async def _dispute(parts: Parts, call: Call, line: str) -> Response:
    principal = await admit(parts, call, Action.DISPUTE_LINE)
    body = await read_body(call, HolderBody)
    probe = await take_face(parts, call, principal, body.probe)
    dispute = await parts.registrar.dispute_line(
        LineTarget(line), body.document.read(), probe, call.context(principal)
    )
    return call.answer(
        {
            "case_id": dispute.case_id,
            "line_id": dispute.line_id,
            "opened_at": dispute.opened_at,
        },
        201,
    )


async def _close(parts: Parts, call: Call, line: str) -> Response:
    principal = await admit(parts, call, Action.CLOSE_LINE)
    line_id = await parts.registrar.close_line(LineTarget(line), call.context(principal))
    return call.answer({"line_id": line_id, "status": "closed"})
