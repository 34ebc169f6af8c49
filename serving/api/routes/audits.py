"""`/v1/audit`: the chain of who did what, read by operators and verified part by part."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from engine.registry.audit import verify_chain
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, AuditRecord
from engine.registry.trail import read_audit
from serving.access.tenancy import Action
from serving.api.call import Call, call_of
from serving.api.openapi import describe
from serving.api.reception import admit
from serving.api.schemas.audits import (
    MOST_VERIFIED,
    AuditAnswer,
    AuditAsked,
    ChainAnswer,
    ChainAsked,
)
from serving.api.schemas.paging import tell_next
from serving.parts import Parts
from serving.refusals import Malformed

ERRORS = (400, 401, 403, 406, 429, 503, 507)


def add_audits(router: APIRouter, parts: Parts) -> None:
    """Adds the routes about the audit chain."""

    async def list_entries(request: Request, asked: Annotated[AuditAsked, Query()]) -> Response:
        """Entries of the chain that match exactly, in its order; without `after` the newest. That
        it was read stands in it, too.
        """
        return await _list(parts, call_of(request), asked)

    async def verify_entries(request: Request, asked: Annotated[ChainAsked, Query()]) -> Response:
        """Recomputes the chain with the deployment's key, a part at a time, so that a long one
        outlives no request. A chain set back as a whole is consistent in itself: keep the head
        elsewhere to find that.
        """
        return await _verify(parts, call_of(request), asked)

    router.add_api_route(
        "/v1/audit",
        list_entries,
        methods=["GET"],
        **describe("Read the audit chain", answers={200: AuditAnswer}, errors=ERRORS),
    )
    router.add_api_route(
        "/v1/audit/verification",
        verify_entries,
        methods=["GET"],
        **describe("Verify the audit chain", answers={200: ChainAnswer}, errors=ERRORS),
    )


async def _list(parts: Parts, call: Call, asked: AuditAsked) -> Response:
    principal = await admit(parts, call, Action.READ_AUDIT)
    found, head = await asyncio.to_thread(_read, parts.store, asked)
    detail = {"after": asked.after, "entries": len(found)}
    entry = AuditEntry(principal.actor, "audit.read", "chain", detail)
    await parts.desk.note([entry], call.context(principal))
    is_newest = asked.after is None
    return call.answer(
        {
            "entries": [_show(record) for record in found],
            "head": head,
            "next": None if is_newest else tell_next(found, asked.limit, lambda one: one.number),
        }
    )


def _read(store: Reader, asked: AuditAsked) -> tuple[list[AuditRecord], int]:
    found = read_audit(store, asked.after, asked.limit, asked.action, asked.actor, asked.subject)
    return found, store.audit_head()[0]


def _show(record: AuditRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "at": record.at,
        "actor": record.entry.actor,
        "action": record.entry.action,
        "subject": record.entry.subject,
        "detail": record.entry.detail,
        "hash": record.hash.hex(),
    }


async def _verify(parts: Parts, call: Call, asked: ChainAsked) -> Response:
    principal = await admit(parts, call, Action.READ_AUDIT)
    head = (await asyncio.to_thread(parts.store.audit_head))[0]
    if asked.after > head:
        raise Malformed("after: beyond the end of the chain")
    verify = partial(verify_chain, parts.store, after=asked.after, most=MOST_VERIFIED)
    report = await asyncio.to_thread(verify)
    detail = {"after": asked.after, "to": report.entries, "intact": report.intact}
    entry = AuditEntry(principal.actor, "audit.verified", "chain", detail)
    await parts.desk.note([entry], call.context(principal))
    return call.answer(
        {
            "intact": report.intact,
            "after": asked.after,
            "verified_to": report.entries,
            "first_bad": report.first_bad,
            "head": head,
            "next": report.entries if report.intact and report.entries < head else None,
        }
    )
