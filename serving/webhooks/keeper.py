"""The process that delivers events, beside the registrar or by a command, changes of webhooks, and
webhooks in the form in which they are shown."""

import asyncio
import pickle
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from structlog.typing import FilteringBoundLogger

from engine.registry.database import new_id, utc_now
from engine.registry.events import Event, seal_place
from engine.registry.rows import open_each
from engine.registry.vault import Vault
from engine.registry.webhooks import DeadLetter, Webhook, WebhookChange, Webhooks
from schema.events import EventType, WebhookState
from serving.deployment.deployment import Deployment
from serving.errors import Malformed
from serving.jobs.periodic import PeriodicJob, name_error
from serving.settings.settings import find_metrics_folder
from serving.settings.terms import WebhookSettings
from serving.telemetry import metrics
from serving.telemetry.metrics import Meter, show_set_aside
from serving.webhooks.receiver import TAKEN, UNTOLD, Receiver, check_sink, show_event
from serving.wire import webhooks
from serving.wire.fields import ID_EXAMPLE, encode_json, of_record

PROCESS_MODULE = "serving.cluster.processes"
LOOK_EVERY_S = 10.0
END_S = 10.0


def deliver(deployment: Deployment, log: FilteringBoundLogger) -> None:
    """Delivers to the webhooks of a deployment until SIGTERM or SIGINT."""
    # The starting process needs neither.
    import uvloop  # noqa: PLC0415

    from serving.webhooks.delivery import Deliverer  # noqa: PLC0415

    show_set_aside(deployment.vault, Meter(find_metrics_folder(), log))

    async def run(webhooks: Webhooks) -> None:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await Deliverer(webhooks, deployment.settings.webhooks, log).run(stopping)

    webhooks = deployment.store.webhooks
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(webhooks))


class DeliveryKeeper(PeriodicJob):
    """Keeps a process that delivers while there is a webhook, apart so that no decision waits, and
    shows its backlog."""

    name = "webhooks"

    def __init__(self, deployment: Deployment, meter: Meter, log: FilteringBoundLogger) -> None:
        super().__init__(log)
        self._deployment, self._meter = deployment, meter
        self._webhooks = deployment.store.webhooks
        self._child: subprocess.Popen[bytes] | None = None

    def _work(self) -> float:
        self._look()
        return LOOK_EVERY_S

    def _fail(self, error: Exception) -> float:
        self._log.warning("webhooks_failed", error=name_error(error))
        return LOOK_EVERY_S

    def close(self) -> None:
        """Ends the process that delivers, too."""
        super().close()
        self._end()

    def _look(self) -> None:
        webhooks = self._webhooks.find_all()
        active = [one for one in webhooks if one.state is WebhookState.ACTIVE]
        if not active or not self._deployment.settings.webhooks.deliver:
            self._end()
        elif self._child is None or self._child.poll() is not None:
            self._start()
        found = dict(open_each(webhooks, lambda one: (one.id, self._webhooks.measure(one))))
        waiting = [found[one.id] for one in active if one.id in found]
        moments = [one.oldest_at for one in waiting if one.oldest_at is not None]
        now = utc_now()
        # What came by a clock that was ahead is as old as nothing.
        age = now - min([now, *moments])
        self._meter.set(metrics.EVENTS_WAITING, sum(one.waiting for one in waiting))
        self._meter.set(metrics.EVENTS_AGE, age.total_seconds())
        self._meter.set(metrics.EVENTS_DEAD, sum(one.dead for one in found.values()))

    def _start(self) -> None:
        if self._child is not None:
            self._log.warning("webhooks_worker_ended", code=self._child.returncode)
            self._end()
        command = [sys.executable, "-m", PROCESS_MODULE]
        child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            # The pipe stays open: the process ends with this one, however that ends.
            opened = self._deployment
            pickle.dump((type(opened), opened.home, opened.settings), child.stdin)
            child.stdin.flush()
        self._child = child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.close()
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class WebhookChanges:
    """Changes of webhooks by one actor, of a `carrier` to its own alone; `RequestError` for an
    address that nothing is sent to."""

    def __init__(self, deployment: Deployment, actor: str, carrier: str | None = None) -> None:
        self._settings = deployment.settings.webhooks
        self._registry = deployment.store.webhooks
        self._actor, self._carrier = actor, carrier

    def create(self, asked: webhooks.NewWebhook) -> webhooks.WebhookSecret:
        sink = check_sink(asked.sink, self._settings.networks_of(asked.carrier))
        made = self._registry.create(
            sink, read_types(asked.types), carrier=asked.carrier, actor=self._actor
        )
        return self._show_secret(*made)

    def change(self, webhook_id: str, asked: webhooks.ChangedWebhook) -> webhooks.Webhook:
        types = None if asked.types is None else read_types(asked.types)
        if asked.sink is not None:
            owner = self._registry.find(webhook_id, self._carrier).carrier
            check_sink(asked.sink, self._settings.networks_of(owner))
        state = None if asked.state is None else WebhookState(asked.state)
        change = WebhookChange(asked.sink, types, state)
        changed = self._registry.change(
            webhook_id, change, carrier=self._carrier, actor=self._actor
        )
        return webhook(self._registry, changed)

    def rotate(self, webhook_id: str) -> webhooks.WebhookSecret:
        made = self._registry.rotate(
            webhook_id,
            timedelta(hours=self._settings.earlier_secret_h),
            carrier=self._carrier,
            actor=self._actor,
        )
        return self._show_secret(*made)

    def remove(self, webhook_id: str) -> None:
        self._registry.remove(webhook_id, carrier=self._carrier, actor=self._actor)

    def replay(self, webhook_id: str, after: int) -> webhooks.Webhook:
        found = self._registry.replay(webhook_id, after, carrier=self._carrier, actor=self._actor)
        return webhook(self._registry, found)

    def ask_again(self, webhook_id: str, events: Sequence[str]) -> int:
        given = (webhook_id, events)
        return self._registry.ask_again(*given, carrier=self._carrier, actor=self._actor)

    def _show_secret(self, record: Webhook, secret: str) -> webhooks.WebhookSecret:
        return webhooks.WebhookSecret(webhook(self._registry, record), secret)


def read_types(names: Iterable[str]) -> tuple[EventType, ...]:
    """The types of events with these names; `Malformed` for one that is unknown."""
    try:
        return tuple(EventType(one) for one in names)
    except ValueError:
        raise Malformed(f"type of event: unknown; take {', '.join(EventType)}") from None


EXAMPLE_ITEMS = 64
"""What one costs, of its key's rate: nobody floods a receiver by them."""
_EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "enrollment": {"decision": "approved", "outlet": "b1", "line_id": ID_EXAMPLE},
    "line.opened": {"enrollment_id": ID_EXAMPLE, "outlet": "b1"},
    "line.moved": {},
    "line.move_asked": {},
    "line": {"at": "2026-11-28T02:11:09+00:00", "cause": "request"},
    "case": {"kind": "stolen_document"},
    "watchlist": {"carrier": "blue", "outlet": "b1"},
    "sweep": {"state": "done"},
}
"""The data of events, by their type or its first word; of others there are none."""


def make_example(record: Webhook, name: str, deployment_id: str) -> webhooks.Event:
    """An event of this type as the webhook is sent them, about a subject that there is not;
    `Malformed` for a type that it never is."""
    (kind,), subject = read_types((name,)), new_id()
    if record.carrier is not None and not kind.is_for_carriers:
        raise Malformed("type: events of this type are for fraud teams and operators")
    told = _EXAMPLES.get(kind, _EXAMPLES.get(kind.partition(".")[0], {}))
    data = {"example": True, **told}
    event = Event(0, new_id(), kind, utc_now(), subject, None, data, subject)
    return show_event(event, deployment_id, record.carrier)


async def send_example(
    record: Webhook, event: webhooks.Event, settings: WebhookSettings
) -> webhooks.SentExample:
    """Sends an example to a webhook, once and outside of the order of events; signed as all are."""
    trust = await asyncio.to_thread(ssl.create_default_context)
    receiver = Receiver(record.sink, settings.networks_of(record.carrier), trust)
    late = asyncio.create_task(asyncio.sleep(settings.timeout_s))
    try:
        body = encode_json(event)
        status, fault = await receiver.send(event.id, body, record.secrets, settings.timeout_s)
        told = None if status in TAKEN else receiver.tell(fault, record.carrier)
        if told == UNTOLD:
            # As late as a time-out: how soon it came tells of ports, too.
            await late
    finally:
        late.cancel()
        await receiver.close()
    return webhooks.SentExample(event, told)


def webhook(registry: Webhooks, record: Webhook) -> webhooks.Webhook:
    """A webhook with what waits for it now."""
    return of_record(
        webhooks.Webhook,
        record,
        registry.measure(record),
        webhook_id=record.id,
        earlier_secret_until=record.earlier_until,
    )


def dead_letters(
    records: Sequence[DeadLetter], limit: int, vault: Vault, carrier: str | None
) -> webhooks.DeadLetters:
    """A page of as many as `limit`, and where it goes on, for those who read this carrier's."""
    shown = tuple(
        webhooks.DeadLetter(
            show_event(one.event, vault.deployment_id, carrier), one.attempts, one.fault
        )
        for one in records
    )
    last = records[-1].event if len(records) == limit else None
    following = None if last is None else seal_place(vault, carrier, last.number, last.id)
    return webhooks.DeadLetters(shown, following)
