"""`/v1/webhooks`: where events are sent; `/v1/events`: what happened, for those who pull it."""

import asyncio

from msgspec import structs

from engine.registry.events import open_place, read_page
from serving.access.authorization import scope_of
from serving.api.request import Request, note
from serving.errors import Forbidden
from serving.ingress.parts import Parts
from serving.webhooks import keeper
from serving.webhooks.keeper import read_types
from serving.webhooks.receiver import show_event
from serving.wire import webhooks as wire


async def create_webhook(_: Parts, request: Request, body: wire.NewWebhook) -> wire.WebhookSecret:
    """Sends events of these types to an address from now on, at least once each and in order for
    each document. The secret is told here alone.
    """
    own = scope_of(request.caller)
    if own is not None and body.carrier not in (None, own):
        raise Forbidden("the key may not act for this carrier: leave it out")
    asked = structs.replace(body, carrier=own or body.carrier)
    return await request.registrar.create_webhook(asked)


def list_webhooks(parts: Parts, request: Request) -> wire.Webhooks:
    """The webhooks of a carrier, or all of them, with what waits for each."""
    registry = parts.store.webhooks
    found = registry.find_all(scope_of(request.caller))
    return wire.Webhooks(tuple(keeper.webhook(registry, one) for one in found))


def read_webhook(parts: Parts, request: Request, webhook_id: str) -> wire.Webhook:
    """A webhook, with what waits for it."""
    registry = parts.store.webhooks
    return keeper.webhook(registry, registry.find(webhook_id, scope_of(request.caller)))


async def change_webhook(
    _: Parts, request: Request, body: wire.ChangedWebhook, webhook_id: str
) -> wire.Webhook:
    """Gives it another address, other types or another state: what waits goes to the new address,
    and one that is paused or gone goes on where it was.
    """
    return await request.registrar.change_webhook(webhook_id, body)


async def remove_webhook(_: Parts, request: Request, webhook_id: str) -> wire.RemovedWebhook:
    """Ends a webhook: what waits is sent to nobody."""
    await request.registrar.remove_webhook(webhook_id)
    return wire.RemovedWebhook(webhook_id)


async def rotate_secret(_: Parts, request: Request, webhook_id: str) -> wire.WebhookSecret:
    """Gives it a new secret, told here alone; what is sent is signed with the one before as well,
    for as long as `[webhooks] earlier_secret_h` says.
    """
    return await request.registrar.rotate_secret(webhook_id)


async def replay_events(
    parts: Parts, request: Request, body: wire.Replay, webhook_id: str
) -> wire.Webhook:
    """Sends every event beyond a place in the feed, again or for the first time, under its id."""
    begin = await asyncio.to_thread(open_place, parts.store, body.after, scope_of(request.caller))
    return await request.registrar.replay_events(webhook_id, begin)


def list_dead_letters(
    parts: Parts, request: Request, query: wire.DeadQuery, webhook_id: str
) -> wire.DeadLetters:
    """The events that were given up, with why the last attempt failed."""
    carrier = scope_of(request.caller)
    begin = open_place(parts.store, query.after, carrier)
    found = parts.store.webhooks.list_dead(webhook_id, begin, query.limit, carrier=carrier)
    return keeper.dead_letters(found, query.limit, parts.vault, carrier)


async def ask_again(
    _: Parts, request: Request, body: wire.AskedAgain, webhook_id: str
) -> wire.Revived:
    """Has dead letters tried again, from the first attempt on."""
    return wire.Revived(await request.registrar.ask_again(webhook_id, body.events))


async def send_example(
    parts: Parts, request: Request, body: wire.AskedExample, webhook_id: str
) -> wire.SentExample:
    """Sends an example of an event to a webhook, signed, and tells what its receiver answered.

    It is sent once, is no part of the feed, and has `example` in its data.
    """
    given = (webhook_id, scope_of(request.caller))
    found = await asyncio.to_thread(parts.store.webhooks.find, *given)
    event = keeper.make_example(found, body.type, parts.vault.deployment_id)
    parts.authenticator.charge(request.caller, keeper.EXAMPLE_ITEMS)
    await note(request, "webhook.tested", webhook_id, type=event.type)
    return await keeper.send_example(found, event, parts.deployment.settings.webhooks)


def read_events(parts: Parts, request: Request, query: wire.EventQuery) -> wire.Events:
    """Events after a place in the feed, in the order in which they happened; to a carrier its own.

    Each was written with what it tells of, so none is ever missing; keep `next` and give it as
    `after`: EVENTS.PLACE_UNKNOWN where what came after it has left. They hold ids and no name or
    number, and reading them is not audited: what is read by an id is.
    """
    types = read_types(() if query.type is None else (query.type,))
    carrier = scope_of(request.caller)
    page = read_page(parts.store, query.after, query.limit, carrier=carrier, types=types)
    shown = tuple(show_event(one, parts.vault.deployment_id, carrier) for one in page.events)
    return wire.Events(shown, page.next)
