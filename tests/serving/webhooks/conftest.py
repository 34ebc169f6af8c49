"""A registry with events in it, and a receiver on this machine."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import structlog

from engine.registry.accounts import Carrier
from engine.registry.database import changing, utc_now
from engine.registry.events import NewEvent, write_events
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.webhooks import Webhooks
from schema.events import EventType
from serving.settings.terms import WebhookSettings
from serving.webhooks.delivery import Deliverer
from tests.serving.certificates import certify

Answer = int | Callable[[Mapping[str, Any]], int | Awaitable[int]]
NETWORKS = ("127.0.0.0/8", "::1/128")
LOOPBACK = WebhookSettings.model_validate(
    {
        "allowed_networks": NETWORKS,
        "carrier_networks": {"blue": NETWORKS, "red": NETWORKS},
        "timeout_s": 5,
    }
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A key with its own certificate, of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    certify(folder, "server")
    return Path(folder / "server.pem")


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/registry.sqlite"
    with Store.create(url, Vault(KeyRing.generate(), 8), model_digest="test") as store:
        for code in ("blue", "red"):
            store.add_carrier(Carrier(code, code), actor="test")
        yield store


@pytest.fixture
def webhooks(store) -> Webhooks:
    return Webhooks(store.engine, store.vault)


async def happen(
    store: Store,
    subjects: Sequence[str],
    carrier: str | None = "blue",
    documents: Mapping[str, str] = MappingProxyType({}),
    kind: EventType = EventType.LINE_DISPUTED,
    data: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Puts an event of each subject into the outbox; some are of these documents."""
    found = [
        NewEvent(kind, one, carrier, dict(data), document_id=documents.get(one)) for one in subjects
    ]

    def write() -> None:
        with changing(store.engine) as connection:
            write_events(connection, store.vault, found, utc_now())

    # Beside the loop, whose receivers answer in time meanwhile.
    await asyncio.to_thread(write)


@dataclass
class Receiver:
    """Keeps what it was sent; `answer` is a status, or tells it of an event and may wait."""

    answer: Answer
    port: int = 0
    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    """Subjects, in the order of answers that took them."""

    @property
    def sink(self) -> str:
        return f"http://127.0.0.1:{self.port}/events?token=1"

    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections[task] = writer
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
                headers = {
                    name.lower(): value for name, value in (one.split(": ", 1) for one in head)
                }
                body = await reader.readexactly(int(headers["content-length"]))
                self.got.append((headers, body))
                event = json.loads(body)
                told = self.answer(event) if callable(self.answer) else self.answer
                status = await told if inspect.isawaitable(told) else told
                if 200 <= status < 300:
                    self.taken.append(event["subject"])
                extra = "Location: /elsewhere\r\n" if status == 302 else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{extra}Content-Length: 0\r\n\r\n".encode())
        writer.close()

    async def close(self) -> None:
        # One more may be accepted meanwhile; nobody need be there to say goodbye to.
        while self.connections:
            task, writer = self.connections.popitem()
            task.cancel()
            writer.transport.abort()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def receiving(answer: Answer) -> AsyncIterator[Receiver]:
    receiver = Receiver(answer)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1")
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await receiver.close()


@asynccontextmanager
async def delivering(
    webhooks: Webhooks, settings: WebhookSettings = LOOPBACK
) -> AsyncIterator[None]:
    """Delivers meanwhile."""
    stopping = asyncio.Event()
    task = asyncio.create_task(Deliverer(webhooks, settings, structlog.get_logger()).run(stopping))
    try:
        yield
    finally:
        stopping.set()
        await task


async def until(holds: Callable[[], bool]) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.01)
