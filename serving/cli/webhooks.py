"""Webhooks: `webhooks create`, `list`, `show`, `change`, `rotate`, `remove`, `replay`,
`dead-letters`, `retry`, and `webhooks deliver`, which sends events."""

import asyncio
from pathlib import Path
from typing import Literal

import typer

from engine.registry.events import open_place
from serving.cli.inputs import CONFIG_OPTION, HOME_OPTION, argument, option
from serving.cli.output import Answer, Call, Listing, columns, command, done, escape
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings, require_home
from serving.webhooks import keeper
from serving.wire import webhooks as wire

WEBHOOK_ID = argument(None, "ID")
EVENT_TYPES = option("Only these events, as line.opened; may be repeated.", "TYPE", "--type")


@command("webhooks create")
def create_webhook(
    call: Call,
    sink: str = argument("A public https address.", "URL"),
    types: list[str] | None = EVENT_TYPES,
    carrier: str | None = option("Whose events.", "CODE", show_default="those of all carriers"),
) -> Answer:
    """Send events to an address from now on. The secret that signs them is printed once."""
    return _tell_secret(_changes(call).create(wire.NewWebhook(sink, tuple(types or ()), carrier)))


@command("webhooks list")
def list_webhooks(call: Call) -> Answer:
    """List the webhooks, with what waits for each."""
    registry = call.store.webhooks
    found = tuple(keeper.webhook(registry, one) for one in registry.find_all())
    shown = columns("webhook_id sink types carrier state waiting dead")
    shown |= {
        "types": lambda one: ", ".join(one.types) or "all",
        "carrier": lambda one: one.carrier or "all",
    }
    return Answer(wire.Webhooks(found), Listing(found, shown, "No webhook."))


@command("webhooks show")
def show_webhook(call: Call, webhook_id: str = WEBHOOK_ID) -> Answer:
    """Show a webhook, with what waits for it."""
    registry = call.store.webhooks
    return _describe(keeper.webhook(registry, registry.find(webhook_id)))


@command("webhooks change")
def change_webhook(
    call: Call,
    webhook_id: str = WEBHOOK_ID,
    sink: str | None = option("What waits goes there, too.", "URL"),
    types: list[str] | None = EVENT_TYPES,
    all_types: bool = option("Events of every type."),
    state: Literal["active", "paused"] | None = option("active: it goes on where it was."),
) -> Answer:
    """Give a webhook another address, other types or another state."""
    if types and all_types:
        raise typer.BadParameter("give --type or --all-types, not both")
    kinds = tuple(types) if types else () if all_types else None
    return _describe(_changes(call).change(webhook_id, wire.ChangedWebhook(sink, kinds, state)))


@command("webhooks rotate")
def rotate_secret(call: Call, webhook_id: str = WEBHOOK_ID) -> Answer:
    """Give a webhook a new secret, printed once; the one before signs as well for a while."""
    return _tell_secret(_changes(call).rotate(webhook_id))


@command("webhooks remove")
def remove_webhook(call: Call, webhook_id: str = WEBHOOK_ID) -> Answer:
    """End a webhook: what waits is sent to nobody."""
    _changes(call).remove(webhook_id)
    return done("Removed", f"the webhook {webhook_id}", wire.RemovedWebhook(webhook_id))


@command("webhooks test")
def send_example(
    call: Call,
    webhook_id: str = WEBHOOK_ID,
    kind: str = option("As line.opened.", "TYPE", "--type", default=...),
) -> Answer:
    """Send an example of an event to a webhook, signed and once; ends with 1 if it is not taken."""
    found, deployment = call.store.webhooks.find(webhook_id), call.deployment
    event = keeper.make_example(found, kind, deployment.vault.deployment_id)
    call.note("webhook.tested", webhook_id, {"type": event.type})
    sent = asyncio.run(keeper.send_example(found, event, deployment.settings.webhooks))
    text = "It was taken." if sent.fault is None else f"It was not taken: {sent.fault}."
    return Answer(sent, text, is_no=sent.fault is not None)


@command("webhooks replay")
def replay_events(
    call: Call,
    webhook_id: str = WEBHOOK_ID,
    after: str = option(
        "`next` of a page of the feed that you read as operator; 0: all there is.", default=...
    ),
) -> Answer:
    """Send every event beyond a place in the feed, again or for the first time."""
    return _describe(_changes(call).replay(webhook_id, open_place(call.store, after, None)))


@command("webhooks dead-letters")
def list_dead_letters(
    call: Call,
    webhook_id: str = WEBHOOK_ID,
    after: str = option("`next` of the page before.", default="0"),
    limit: int = option("How many at most.", default=100, min=1, max=10_000),
) -> Answer:
    """List the events that are tried no more."""
    begin = open_place(call.store, after, None)
    found = call.store.webhooks.list_dead(webhook_id, begin, limit, carrier=None)
    page = keeper.dead_letters(found, limit, call.deployment.vault, None)
    shown = columns("event.type event.subject attempts fault")
    table = Listing(page.dead_letters, {"event": "event.id"} | shown, "No dead letter.")
    return Answer(page, table)


@command("webhooks retry")
def ask_again(
    call: Call,
    webhook_id: str = WEBHOOK_ID,
    events: list[str] | None = option(
        "Only this one; may be repeated.", None, "--event", show_default="all"
    ),
) -> Answer:
    """Try dead letters again, from the first attempt on."""
    count = _changes(call).ask_again(webhook_id, events or ())
    return Answer(wire.Revived(count), f"{count} dead letters are tried again.")


@command("webhooks deliver")
def deliver_events(config: Path | None = CONFIG_OPTION, home: Path | None = HOME_OPTION) -> None:
    """Send events until stopped (Ctrl-C, SIGTERM), on any host that reaches the database.

    Several share the work. The service does it by itself unless [webhooks] deliver is false. The
    log goes to standard output.
    """
    from serving.telemetry.logs import open_log
    from serving.webhooks.keeper import deliver

    folder = require_home(home)
    settings = load_settings(folder, config)
    with Deployment(folder, settings) as deployment:
        deliver(deployment, open_log(None, settings.serve.log_level, "webhooks"))


def _changes(call: Call) -> keeper.WebhookChanges:
    return keeper.WebhookChanges(call.deployment, call.actor)


def _tell_secret(made: wire.WebhookSecret) -> Answer:
    text = f"The webhook {made.webhook.webhook_id}. Its secret, shown once:\n{made.secret}"
    return Answer(made, text)


def _describe(shown: wire.Webhook) -> Answer:
    oldest = "" if shown.oldest_at is None else f", the oldest of {shown.oldest_at.isoformat()}"
    text = (
        f"{shown.webhook_id} {escape(shown.sink)}: {shown.state}, {shown.waiting:,} events "
        f"wait{oldest}, {shown.dead:,} dead letters."
    )
    return Answer(shown, text)
