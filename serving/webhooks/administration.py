"""Steps that change webhooks, for the registrar and for commands."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from engine.registry.webhooks import WebhookChange, Webhooks
from serving.deployment.deployment import Deployment
from serving.registrar.protocol import (
    CallContext,
    NewWebhook,
    Remove,
    Replay,
    Rotate,
    WebhookAnswer,
)
from serving.webhooks.addresses import check_sink

if TYPE_CHECKING:
    from serving.registrar.protocol import WebhookStep


def take_step(
    deployment: Deployment, webhook_id: str, step: WebhookStep, context: CallContext
) -> WebhookAnswer:
    """Makes or changes a webhook; `RequestError` for an address that nothing is sent to."""
    webhooks = Webhooks(deployment.store.engine, deployment.vault)
    settings, actor, carrier = deployment.settings.webhooks, context.actor, context.carrier
    match step:
        case NewWebhook(sink, types, owner):
            sink = check_sink(sink, settings.networks_of(owner))
            made, secret = webhooks.create(sink, types, carrier=owner, actor=actor)
            return WebhookAnswer(made.id, secret)
        case WebhookChange():
            if step.sink is not None:
                owner = webhooks.find(webhook_id, carrier).carrier
                check_sink(step.sink, settings.networks_of(owner))
            webhooks.change(webhook_id, step, carrier=carrier, actor=actor)
        case Rotate():
            overlap = timedelta(hours=settings.earlier_secret_h)
            _, secret = webhooks.rotate(webhook_id, overlap, carrier=carrier, actor=actor)
            return WebhookAnswer(webhook_id, secret)
        case Remove():
            webhooks.remove(webhook_id, carrier=carrier, actor=actor)
        case Replay(after):
            webhooks.replay(webhook_id, after, carrier=carrier, actor=actor)
        case _:
            count = webhooks.ask_again(webhook_id, step.events, carrier=carrier, actor=actor)
            return WebhookAnswer(webhook_id, count=count)
    return WebhookAnswer(webhook_id)
