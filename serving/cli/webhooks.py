"""Webhooks: `webhooks create`, `list`, `show`, `change`, `rotate`, `remove`, `replay`,
`dead-letters`, `retry`, and `webhooks deliver`, which sends events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serving.cli.inputs import HomeOption, name_actor, open_deployment
from serving.cli.output import (
    DEPLOYMENT,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from serving.deployment.deployment import Deployment
    from serving.registrar.protocol import WebhookAnswer, WebhookStep
    from serving.wire.webhooks import Webhook

WebhookId = Annotated[str, typer.Argument(metavar="ID")]
TypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--type", metavar="TYPE", help="Only these events, as line.opened; may be repeated."
    ),
]


def register(app: typer.Typer) -> None:
    summary = "Say where events are sent, and send them."
    commands = {
        "create": create_webhook,
        "list": list_webhooks,
        "show": show_webhook,
        "change": change_webhook,
        "rotate": rotate_secret,
        "remove": remove_webhook,
        "replay": replay_events,
        "dead-letters": list_dead_letters,
        "retry": ask_again,
        "deliver": deliver_events,
    }
    add_group(app, "webhooks", summary, DEPLOYMENT, **commands)


def create_webhook(
    sink: Annotated[str, typer.Argument(metavar="URL", help="A public https address.")],
    types: TypeOption = None,
    carrier: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Whose events.", show_default="those of all carriers"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send events to an address from now on. The secret that signs them is printed once."""
    from serving.registrar.protocol import NewWebhook
    from serving.webhooks.cloud_event import read_types

    step = NewWebhook(sink, read_types(types or []), carrier)
    _tell_secret(home, "", step, as_json=as_json)


def list_webhooks(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the webhooks, with what waits for each."""
    from engine.registry.webhooks import Webhooks
    from serving.api import serializers
    from serving.wire import webhooks as wire

    with open_deployment(home) as deployment:
        registry = Webhooks(deployment.store.engine, deployment.vault)
        found = tuple(serializers.webhook(registry, one) for one in registry.find_all())
    if as_json:
        print_json(wire.Webhooks(found))
    elif not found:
        print_line("No webhook.")
    else:
        headings = ("webhook", "sink", "types", "carrier", "state", "waiting", "dead")
        print_table(None, headings, [_cells(one) for one in found])


def show_webhook(webhook_id: WebhookId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show a webhook, with what waits for it."""
    with open_deployment(home) as deployment:
        _print_webhook(deployment, webhook_id, as_json=as_json)


def change_webhook(
    webhook_id: WebhookId,
    sink: Annotated[
        str | None, typer.Option(metavar="URL", help="What waits goes there, too.")
    ] = None,
    types: TypeOption = None,
    all_types: Annotated[bool, typer.Option("--all-types", help="Events of every type.")] = False,
    state: Annotated[
        Literal["active", "paused"] | None, typer.Option(help="active: it goes on where it was.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give a webhook another address, other types or another state."""
    from engine.registry.webhooks import WebhookChange
    from schema.events import WebhookState
    from serving.webhooks.cloud_event import read_types

    if types and all_types:
        raise typer.BadParameter("give --type or --all-types, not both")
    kinds = read_types(types) if types else () if all_types else None
    step = WebhookChange(sink, kinds, None if state is None else WebhookState(state))
    with open_deployment(home) as deployment:
        _take_step(deployment, webhook_id, step)
        _print_webhook(deployment, webhook_id, as_json=as_json)


def rotate_secret(
    webhook_id: WebhookId, home: HomeOption = None, as_json: JsonFlag = False
) -> None:
    """Give a webhook a new secret, printed once; the one before signs as well for a while."""
    from serving.registrar.protocol import Rotate

    _tell_secret(home, webhook_id, Rotate(), as_json=as_json)


def remove_webhook(
    webhook_id: WebhookId, home: HomeOption = None, as_json: JsonFlag = False
) -> None:
    """End a webhook: what waits is sent to nobody."""
    from serving.registrar.protocol import Remove
    from serving.wire.webhooks import RemovedWebhook

    with open_deployment(home) as deployment:
        _take_step(deployment, webhook_id, Remove())
    text = f"[green]Removed[/]: the webhook {escape(webhook_id)}."
    print_answer(RemovedWebhook(webhook_id), text, as_json=as_json)


def replay_events(
    webhook_id: WebhookId,
    after: Annotated[
        str,
        typer.Option(
            help="`next` of a page of the feed that you read as operator; 0: all there is."
        ),
    ],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send every event beyond a place in the feed, again or for the first time."""
    from engine.registry.events import open_place
    from serving.registrar.protocol import Replay

    with open_deployment(home) as deployment:
        begin = open_place(deployment.store, after, None)
        _take_step(deployment, webhook_id, Replay(begin))
        _print_webhook(deployment, webhook_id, as_json=as_json)


def list_dead_letters(
    webhook_id: WebhookId,
    after: Annotated[str, typer.Option(help="`next` of the page before.")] = "0",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 100,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the events that are tried no more."""
    from engine.registry.events import open_place
    from engine.registry.webhooks import Webhooks
    from serving.api import serializers

    with open_deployment(home) as deployment:
        registry = Webhooks(deployment.store.engine, deployment.vault)
        begin = open_place(deployment.store, after, None)
        found = registry.list_dead(webhook_id, begin, limit, carrier=None)
        page = serializers.dead_letters(found, limit, deployment.vault, None)
    if as_json:
        print_json(page)
    elif not page.dead_letters:
        print_line("No dead letter.")
    else:
        rows = [
            [one.event.id, one.event.type, one.event.subject, str(one.attempts), one.fault or "-"]
            for one in page.dead_letters
        ]
        print_table(None, ("event", "type", "subject", "attempts", "fault"), rows)


def ask_again(
    webhook_id: WebhookId,
    events: Annotated[
        list[str] | None,
        typer.Option("--event", help="Only this one; may be repeated.", show_default="all"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Try dead letters again, from the first attempt on."""
    from serving.registrar.protocol import AskAgain
    from serving.wire.webhooks import Revived

    with open_deployment(home) as deployment:
        count = _take_step(deployment, webhook_id, AskAgain(tuple(events or ()))).count
    print_answer(Revived(count), f"{count} dead letters are tried again.", as_json=as_json)


def deliver_events(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A settings file in place of the home's sosie.toml."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Send events until stopped (Ctrl-C, SIGTERM), on any host that reaches the database.

    Several share the work. The service does it by itself unless [webhooks] deliver is false. The
    log goes to standard output.
    """
    from serving.settings.settings import load_settings, require_home
    from serving.telemetry.logs import open_log
    from serving.webhooks.keeper import deliver

    folder = require_home(home)
    settings = load_settings(folder, config)
    with Deployment(folder, settings) as deployment:
        deliver(deployment, open_log(None, settings.serve.log_level, "webhooks"))


def _take_step(deployment: Deployment, webhook_id: str, step: WebhookStep) -> WebhookAnswer:
    from serving.registrar.protocol import CallContext
    from serving.webhooks.keeper import take_step

    return take_step(deployment, webhook_id, step, CallContext(name_actor(), ""))


def _tell_secret(home: Path | None, webhook_id: str, step: WebhookStep, *, as_json: bool) -> None:
    from serving.wire.webhooks import WebhookSecret

    with open_deployment(home) as deployment:
        made = _take_step(deployment, webhook_id, step)
        shown = _show(deployment, made.webhook_id)
    text = f"The webhook {shown.webhook_id}. Its secret, shown once:\n{made.secret}"
    print_answer(WebhookSecret(shown, made.secret), text, as_json=as_json)


def _show(deployment: Deployment, webhook_id: str) -> Webhook:
    from engine.registry.webhooks import Webhooks
    from serving.api import serializers

    registry = Webhooks(deployment.store.engine, deployment.vault)
    return serializers.webhook(registry, registry.find(webhook_id))


def _print_webhook(deployment: Deployment, webhook_id: str, *, as_json: bool) -> None:
    shown = _show(deployment, webhook_id)
    oldest = "" if shown.oldest_at is None else f", the oldest of {shown.oldest_at.isoformat()}"
    text = (
        f"{shown.webhook_id} {escape(shown.sink)}: {shown.state}, {shown.waiting:,} events "
        f"wait{oldest}, {shown.dead:,} dead letters."
    )
    print_answer(shown, text, as_json=as_json)


def _cells(shown: Webhook) -> list[str]:
    return [
        shown.webhook_id,
        escape(shown.sink),
        ", ".join(shown.types) or "all",
        shown.carrier or "all",
        shown.state,
        f"{shown.waiting:,}",
        f"{shown.dead:,}",
    ]
