"""Events delivered to a receiver on this machine, on the same core: a part of suite `registrar`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from engine.registry.webhooks import Webhooks
from serving.deployment.deployment import Deployment
from serving.settings.sections import WebhookSettings
from serving.webhooks.delivery import Deliverer

_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
_BODY_FOLLOWS = b"content-length: "
_LOOPBACK = {"allowed_networks": ["127.0.0.0/8"]}


@dataclass
class _Tally:
    """How many events were taken, and when the first and the last."""

    wanted: int
    taken: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    is_done: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self) -> None:
        self.last_s = time.perf_counter()
        if not self.taken:
            self.first_s = self.last_s
        self.taken += 1
        if self.taken >= self.wanted:
            self.is_done.set()


class _Receiver(asyncio.Protocol):
    """Takes every event as soon as all of it is there."""

    def __init__(self, tally: _Tally) -> None:
        self._tally, self._got = tally, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        if _BODY_FOLLOWS in head:
            size = head.partition(_BODY_FOLLOWS)[2].split(b"\r\n")[0]
            if len(body) >= int(size):
                self._got = b""
                self._tally.count()
                self._transport.write(_TAKEN)


def measure_deliveries(deployment: Deployment) -> tuple[int, float]:
    """Delivers all events of a deployment: how many, and how many a second, the receiver's own work
    on the same core included."""
    return asyncio.run(_deliver(Webhooks(deployment.store.engine, deployment.vault)))


async def _deliver(webhooks: Webhooks) -> tuple[int, float]:
    tally = _Tally(webhooks.last_event())
    server = await asyncio.get_running_loop().create_server(
        lambda: _Receiver(tally), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    sink = f"http://127.0.0.1:{port}/"
    webhook, _ = webhooks.create(sink, (), carrier=None, actor="bench")
    webhooks.replay(webhook.id, 0, carrier=None, actor="bench")
    settings, stopping = WebhookSettings.model_validate(_LOOPBACK), asyncio.Event()
    task = asyncio.create_task(Deliverer(webhooks, settings, structlog.get_logger()).run(stopping))
    await tally.is_done.wait()
    stopping.set()
    await task
    server.close()
    return tally.taken, (tally.taken - 1) / (tally.last_s - tally.first_s)
