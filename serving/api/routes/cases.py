"""`/v1/cases`: the queue of the fraud desk, a case with its history, and the steps people take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from engine.errors import NotFound
from engine.registry.reader import Reader
from engine.registry.records import ALIVE, AuditEntry, CaseRecord
from serving.access.authorization import Action, Principal
from serving.api.dependencies import admit, read_body
from serving.api.fields import tell_next
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.api.schemas.cases import (
    ME,
    AssignBody,
    CaseAnswer,
    CasesAnswer,
    CasesAsked,
    CaseShown,
    NoteBody,
    OutcomeBody,
)
from serving.api.serializers import find_held, show_case, show_line
from serving.errors import Malformed
from serving.parts import Parts
from serving.registrar.protocol import Assign, CaseStep, Close, Propose, Remark, Withdraw

READ_ERRORS = (400, 401, 403, 404, 406, 429, 503, 507)
STEP_ERRORS = (400, 401, 403, 404, 406, 408, 409, 413, 415, 422, 429, 503, 507)


def add_cases(router: APIRouter, parts: Parts) -> None:
    """Adds the routes about cases."""
    _add_reads(router, parts)
    _add_remarks(router, parts)
    _add_ends(router, parts)


def _add_reads(router: APIRouter, parts: Parts) -> None:
    async def list_cases(request: Request, asked: Annotated[CasesAsked, Query()]) -> Response:
        """A page of the cases, the newest first, of one state, kind or assignee where asked; who
        reads them is audited.
        """
        return await _list(parts, call_of(request), asked)

    async def read_case(request: Request, case_id: str) -> Response:
        """A case with its history and its documents; audited."""
        return await _read(parts, call_of(request), case_id)

    router.add_api_route(
        "/v1/cases",
        list_cases,
        methods=["GET"],
        **describe(
            "List cases",
            answers={200: CasesAnswer},
            errors=tuple(status for status in READ_ERRORS if status != 404),
        ),
    )
    router.add_api_route(
        "/v1/cases/{case_id}",
        read_case,
        methods=["GET"],
        **describe("Read a case", answers={200: CaseAnswer}, errors=READ_ERRORS),
    )


def _add_remarks(router: APIRouter, parts: Parts) -> None:
    async def assign_case(request: Request, case_id: str) -> Response:
        """Gives the case to a person, or back to the queue."""
        return await _step(parts, call_of(request), case_id, AssignBody, _read_assignment)

    async def note_case(request: Request, case_id: str) -> Response:
        """Adds a remark to the history; sealed in the registry."""
        return await _step(
            parts, call_of(request), case_id, NoteBody, lambda body, _: Remark(body.text)
        )

    _add_step(router, "assign", assign_case, "Assign a case", AssignBody)
    _add_step(router, "notes", note_case, "Add a note", NoteBody)


def _add_ends(router: APIRouter, parts: Parts) -> None:
    async def propose_case(request: Request, case_id: str) -> Response:
        """Proposes an outcome, with the lines that another person is to close by it."""
        return await _step(
            parts,
            call_of(request),
            case_id,
            OutcomeBody,
            lambda body, _: Propose(body.outcome, tuple(body.close_lines), body.seen_at),
        )

    async def withdraw_case(request: Request, case_id: str) -> Response:
        """Takes the proposal back."""
        return await _step(parts, call_of(request), case_id, None, lambda *_: Withdraw())

    async def close_case(request: Request, case_id: str) -> Response:
        """Closes the case. Lines are closed by it only where another person proposed the same
        outcome and the same lines: four eyes. Fraud puts the faces on the watch-list; twins and
        mistakes are exceptions for later sweeps; an unfounded dispute leaves its lines active.
        """
        return await _step(
            parts,
            call_of(request),
            case_id,
            OutcomeBody,
            lambda body, _: Close(body.outcome, tuple(body.close_lines), body.seen_at),
        )

    _add_step(router, "propose", propose_case, "Propose an outcome", OutcomeBody)
    _add_step(router, "withdraw", withdraw_case, "Withdraw a proposal", None)
    _add_step(router, "close", close_case, "Close a case", OutcomeBody)


def _add_step(
    router: APIRouter,
    name: str,
    step: Callable[..., Any],
    summary: str,
    body: type[BaseModel] | None,
) -> None:
    bodiless = {408, 413, 415, 422}
    errors = STEP_ERRORS if body else tuple(one for one in STEP_ERRORS if one not in bodiless)
    router.add_api_route(
        f"/v1/cases/{{case_id}}/{name}",
        step,
        methods=["POST"],
        **describe(summary, body=body, answers={200: CaseShown}, errors=errors),
    )


async def _list(parts: Parts, call: Call, asked: CasesAsked) -> Response:
    principal = await admit(parts, call, Action.WORK_CASES)
    cases = await asyncio.to_thread(_find, parts.store, asked, principal)
    detail = {"cases": [case.id for case in cases]}
    entry = AuditEntry(principal.actor, "cases.read", "queue", detail)
    await parts.registrar.note([entry], call.context(principal))
    return call.answer(
        {
            "cases": [show_case(case) for case in cases],
            "next": tell_next(cases, asked.limit, lambda case: case.id),
        }
    )


def _find(store: Reader, asked: CasesAsked, principal: Principal) -> list[CaseRecord]:
    try:
        return store.cases.newest(
            state=ALIVE if asked.state == "alive" else asked.state,
            kind=asked.kind,
            assignee=_read_actor(asked.assignee, principal),
            limit=asked.limit,
            after=asked.after,
        )
    except NotFound:
        raise Malformed("after: not what `next` of a page said") from None


async def _read(parts: Parts, call: Call, case_id: str) -> Response:
    principal = await admit(parts, call, Action.WORK_CASES)
    shown = await asyncio.to_thread(_show_whole, parts.store, case_id)
    detail = {"documents": [one["document_id"] for one in shown["documents"]]}
    entry = AuditEntry(principal.actor, "case.read", case_id, detail)
    await parts.registrar.note([entry], call.context(principal))
    return call.answer(shown)


async def _step(
    parts: Parts,
    call: Call,
    case_id: str,
    model: type[BaseModel] | None,
    read_step: Callable[[Any, Principal], CaseStep],
) -> Response:
    principal = await admit(parts, call, Action.WORK_CASES)
    body = None if model is None else await read_body(call, model)
    step = read_step(body, principal)
    return call.answer(
        show_case(await parts.registrar.step_case(case_id, step, call.context(principal)))
    )


def _read_assignment(body: AssignBody, principal: Principal) -> CaseStep:
    return Assign(_read_actor(body.assignee, principal))


def _read_actor(name: str | None, principal: Principal) -> str | None:
    return principal.actor if name == ME else name


def _show_whole(store: Reader, case_id: str) -> dict[str, Any]:
    case = store.cases.get(case_id)
    held = find_held(store, case.document_ids)
    lines = store.lines_in_use_of([record.id for record in held])
    numbers = store.numbers([line.id for found in lines.values() for line in found])
    return {
        **show_case(case),
        "notes": [
            {"at": note.at, "actor": note.actor, "kind": note.kind.value, "text": note.text}
            for note in store.cases.notes(case_id)
        ],
        "merged": [
            {
                "case_id": other.id,
                "kind": other.kind,
                "origin": other.origin.value,
                "enrollment_id": other.enrollment_id,
                "score": other.score,
                "opened_at": other.opened_at,
            }
            for other in store.cases.merged_into(case_id)
        ],
        "documents": [
            {
                "document_id": record.id,
                "document_status": record.status.value,
                "is_suspect": record.id in case.suspect_ids,
                "lines": [show_line(line, numbers) for line in lines[record.id]],
            }
            for record in held
        ],
    }
