"""Answers on real sockets: how many segments they come in, and that nothing of them is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import config

from serving.cluster.uvicorn_protocol import JoiningTransport, install_protocol

Send = Callable[[dict[str, Any]], Awaitable[None]]
LARGE = b"x" * 300_000


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    usual = config.HTTP_PROTOCOLS["auto"]
    yield
    config.HTTP_PROTOCOLS["auto"] = usual


async def answer(scope: dict[str, Any], receive: object, send: Send) -> None:
    del receive
    body = {"/small": b"small", "/large": LARGE, "/none": b""}.get(scope["path"])
    headers = [] if body is None else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if body is not None:
        await send({"type": "http.response.body", "body": body})
        return
    for part in (b"one", b"two", b"three"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving() -> Any:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        settings = uvicorn.Config(answer, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(settings)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def ask(path: str) -> tuple[bytes, bytes]:
    """What one read of the socket brings first, and the whole answer."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        first = await reader.read(1 << 16)
        rest = await reader.read()
        writer.close()
        return first, first + rest


def test_a_small_answer_comes_in_one_segment() -> None:
    install_protocol()
    first, whole = uvloop.run(ask("/small"))
    assert first == whole
    assert whole.startswith(b"HTTP/1.1 200")
    assert whole.endswith(b"\r\n\r\nsmall")


@pytest.mark.parametrize(
    ("path", "end"),
    [("/large", LARGE), ("/none", b"\r\n\r\n"), ("/parts", b"5\r\nthree\r\n0\r\n\r\n")],
)
def test_every_answer_comes_whole(path: str, end: bytes) -> None:
    install_protocol()
    _, whole = uvloop.run(ask(path))
    assert whole.endswith(end)


class Wire(asyncio.Transport):
    """Keeps what is sent, and in how many calls."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True


@settings(max_examples=50, deadline=None)
@given(turns=st.lists(st.lists(st.binary(min_size=1, max_size=8), max_size=5), max_size=5))
def test_whatever_is_written_is_sent_in_its_order_by_the_next_turn(
    turns: list[list[bytes]],
) -> None:
    async def write_all() -> None:
        wire = Wire()
        joined = JoiningTransport(wire, asyncio.get_running_loop())
        written = b""
        for turn in turns:
            for data in turn:
                joined.write(data)
                written += data
            await asyncio.sleep(0)
            assert b"".join(wire.sent) == written
        joined.write(b"end")
        joined.close()
        assert b"".join(wire.sent) == written + b"end"

    asyncio.run(write_all())
