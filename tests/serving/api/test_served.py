"""The application behind a real server: clients that are slow, or gone, or send too much."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.api.body import MSGPACK, encode
from tests.serving.client.conftest import listening
from tests.waiting import wait_until

WAIT_S = 300


@pytest.fixture
def impatient(start_service: Callable[..., Any]) -> Iterator[tuple[Any, int]]:
    """A service with little patience, and its port."""
    service = start_service(max_body_mib=1, body_timeout_s=0.3)
    with listening(service.app, service.loop) as port:
        yield service, port


def head(service: Any, *lines: str, path: str = "/v1/match") -> bytes:
    given = [
        f"POST {path} HTTP/1.1",
        "Host: sosie",
        f"Authorization: Bearer {service.keys['blue']}",
        f"Content-Type: {MSGPACK}",
        "Accept: application/json",
        "Idempotency-Key: k",
        *lines,
    ]
    return "\r\n".join(given).encode() + b"\r\n\r\n"


def test_a_client_that_hangs_up_stops_its_work(impatient, activation, monkeypatch) -> None:
    service, port = impatient
    begun, stopped = threading.Event(), threading.Event()

    async def extract_for_ever(*_: Any, **__: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    monkeypatch.setattr(service.parts.faces, "sample", extract_for_ever)
    body = encode(activation(), MSGPACK)
    before = service.parts.store.counts()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head(service, f"Content-Length: {len(body)}", path="/v1/enrollments") + body)
        assert begun.wait(WAIT_S)
    assert stopped.wait(WAIT_S)
    wait_until(lambda: '"status":499' in service.log_text)
    assert service.parts.store.counts() == before
    monkeypatch.undo()
    again = service.enroll(activation(), "k")
    assert (again.status_code, service.read(again)["decision"]) == (201, "approved")
