"""`/v1/audit`: the chain of who did what, read by operators and verified part by part."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from engine.registry.audit import verify_chain
from engine.registry.reader import Reader, read_audit
from engine.registry.records import AuditEntry, AuditRecord
from serving.access.authorization import Action
from serving.api.dependencies import admit
from serving.api.fields import PAGE, Asked, Limit, Shown, Text, tell_next
from serving.api.openapi import describe
from serving.api.request import Call, call_of
from serving.errors import Malformed
from serving.parts import Parts

# The audit chain: who did what, and whether nothing of it was altered.

MAX_NUMBER = 2**53 - 1
MOST_VERIFIED = 20_000
"""About a second and a half of one core, which answers others meanwhile."""

Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Exact = Annotated[Text, Field(min_length=1, max_length=200)]


class AuditAsked(Asked):
    """Entries above a number, in the order of the chain; without one the newest."""

    limit: Limit = PAGE
    after: Number | None = None
    action: Exact | None = None
    actor: Exact | None = None
    subject: Exact | None = None


class ChainAsked(Asked):
    """Where to go on: `next` of the answer before."""

    after: Number = 0


class AuditEntryShown(Shown):
    """One entry; `detail` holds ids, codes, counts and scores, never a name."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    hash: str = Field(description="keyed, over this entry and the hash before it; hexadecimal")


class AuditAnswer(Shown):
    """A page of the chain, in its order; `head` is the number of its newest entry."""

    entries: list[AuditEntryShown]
    head: int
    next: int | None = Field(description="`after` of the next page; null on the last")


class ChainAnswer(Shown):
    """Whether the entries above `after`, up to `verified_to`, are as they were written.

    The chain is whole where every part from 0 on is intact, and the last has `next` null.
    """

    intact: bool
    after: int
    verified_to: int
    first_bad: int | None = Field(description="number of the first entry that is not as it was")
    head: int
    next: int | None = Field(description="`after` of the next part; null at the end")


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
    await parts.registrar.note([entry], call.context(principal))
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
    await parts.registrar.note([entry], call.context(principal))
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
