"""`/v1/audit`: who did what, verified part by part; `/v1/backups`: copies of the registry."""

from __future__ import annotations

import asyncio
from functools import partial

from engine.registry import audit
from serving.api import serializers
from serving.api.request import Request, next_page, note
from serving.errors import Malformed
from serving.ingress.parts import Parts
from serving.wire import oversight as wire

MOST_VERIFIED = 20_000
"""About a second and a half of one core, which answers others meanwhile."""


async def read_audit(parts: Parts, request: Request, query: wire.AuditQuery) -> wire.AuditPage:
    """Entries of the chain that match exactly, in its order; without `after` the newest. That it
    was read stands in it, too.
    """
    found = await asyncio.to_thread(
        audit.read_audit,
        parts.store,
        query.after,
        query.limit,
        query.action,
        query.actor,
        query.subject,
    )
    head = (await asyncio.to_thread(parts.store.audit_head))[0]
    await note(parts, request, "audit.read", "chain", after=query.after, entries=len(found))
    is_newest = query.after is None
    return wire.AuditPage(
        entries=tuple(map(serializers.audit_entry, found)),
        head=head,
        next=None if is_newest else next_page(found, query.limit, lambda one: one.number),
    )


async def verify_audit(parts: Parts, request: Request, query: wire.ChainQuery) -> wire.ChainPart:
    """Recomputes the chain with the deployment's key, a part at a time, so that a long one outlives
    no request. A chain set back as a whole is consistent in itself: keep the head elsewhere to find
    that.
    """
    after = query.after
    head = (await asyncio.to_thread(parts.store.audit_head))[0]
    if after > head:
        raise Malformed("after: beyond the end of the chain")
    verify = partial(audit.verify_chain, parts.store, after=after, most=MOST_VERIFIED)
    report = await asyncio.to_thread(verify)
    await note(
        parts,
        request,
        "audit.verified",
        "chain",
        after=after,
        to=report.entries,
        intact=report.intact,
    )
    return wire.ChainPart(
        intact=report.intact,
        after=after,
        verified_to=report.entries,
        first_bad=report.first_bad,
        head=head,
        next=report.entries if report.intact and report.entries < head else None,
    )


async def start_backup(parts: Parts, request: Request) -> wire.Backup:
    """Begins a backup beside all decisions, into the home's folder `backups`: it is copied, checked
    as a whole, and audited. One at a time: where one runs, this is it.
    """
    return serializers.backup(await parts.registrar.start_backup(request.context()))


async def list_backups(parts: Parts, request: Request) -> wire.Backups:
    """Every backup of the home, and the one that runs or has failed last; the newest first."""
    found = await parts.registrar.list_backups(request.context())
    return wire.Backups(tuple(map(serializers.backup, found)))
