"""`/v1/events`: what happened, for those who pull it."""

from __future__ import annotations

import asyncio
from functools import partial

from engine.registry.events import read_page
from serving.access.authorization import scope_of
from serving.api.request import Request
from serving.ingress.parts import Parts
from serving.webhooks.cloud_event import read_types, show_event
from serving.wire import webhooks as wire


async def read_events(parts: Parts, request: Request, query: wire.EventQuery) -> wire.Events:
    """Events after a place in the feed, in the order in which they happened; to a carrier its own.

    Each was written with what it tells of, so none is ever missing; keep `next` and give it as
    `after`: EVENTS.PLACE_UNKNOWN where what came after it has left. They hold ids and no name or
    number, and reading them is not audited: what is read by an id is.
    """
    types = read_types(() if query.type is None else (query.type,))
    carrier = scope_of(request.caller)
    find = partial(read_page, parts.store, query.after, query.limit, carrier=carrier, types=types)
    page = await asyncio.to_thread(find)
    shown = tuple(show_event(one, parts.vault.deployment_id, carrier) for one in page.events)
    return wire.Events(shown, page.next)
