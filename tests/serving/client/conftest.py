"""The real application, on a loop in process and on a real socket, and ways to cut it off."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import uvicorn

from serving.client import Activation, Document
from tests.serving.api.conftest import Service, extractor, keyed_home, own_service

__all__ = ["extractor", "keyed_home", "own_service"]


class Relay:
    """Passes connections on to a port; each plan says what becomes of the next connection.

    `pass` lets it be, `cut` closes it when the answer to its first request comes, `refuse` closes
    it at once.
    """

    def __init__(self, port: int, plans: list[str]) -> None:
        self._upstream, self._plans = port, plans
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        plan = self._plans.pop(0) if self._plans else "pass"
        with suppress(ConnectionError, asyncio.CancelledError):
            if plan in {"pass", "cut"}:
                await self._join(reader, writer, is_cut=plan == "cut")
        await _shut(writer)

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_cut: bool
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        sending = asyncio.create_task(_pump(reader, up_writer))
        try:
            if is_cut:
                await up_reader.read(1)
            else:
                await _pump(up_reader, writer)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await _shut(up_writer)

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _shut(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@contextmanager
def listening(app: Any, loop: asyncio.AbstractEventLoop, port: int = 0) -> Iterator[int]:
    """The port of a real server on loopback."""
    config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    ended = asyncio.run_coroutine_threadsafe(server.serve(), loop)
    while not server.started:
        assert not ended.done()
        time.sleep(0.01)
    try:
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        ended.result(120)


@pytest.fixture(scope="module")
def service(own_service) -> Service:
    """The whole application over a deployment of this module's own."""
    return own_service


def start_listening(service: Service) -> Iterator[Callable[..., str]]:
    """`listen(app)`: the address of a real server of an application; the service's by default."""
    with ExitStack() as stack:

        def start(app: Any = None) -> str:
            port = stack.enter_context(listening(app or service.app, service.loop))
            return f"http://127.0.0.1:{port}"

        yield start


listen = pytest.fixture(start_listening)


@pytest.fixture
def relay(service) -> Iterator[Callable[..., Relay]]:
    """`relay(*plans)`: a way to the service that fails as planned."""
    with ExitStack() as stack:
        port = stack.enter_context(listening(service.app, service.loop))

        def start(*plans: str) -> Relay:
            made = Relay(port, list(plans))
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture
def make_activation(photographs) -> Callable[..., Activation]:
    """`make_activation(**changes)`: a stranger's honest activation at outlet b1."""

    def make(**changes: Any) -> Activation:
        fields: dict[str, Any] = {
            "document": Document("cn-ric", "110105198503071257", "Stan Stranger"),
            "msisdn": "+8613800138001",
            "live": photographs.stranger.read_bytes(),
            "portrait": photographs.stranger_again.read_bytes(),
            "consent_ref": "C-1",
            "captured_at": datetime.now(UTC),
            "outlet": "b1",
        }
        return Activation(**fields | changes)

    return make
