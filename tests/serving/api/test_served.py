"""The application behind a real server: a client that is gone."""

import asyncio
import socket
import threading
from typing import Any

from serving.api.body import MSGPACK, encode
from tests.serving.client.conftest import listening
from tests.waiting import wait_until

WAIT_S = 300


def test_a_client_that_hangs_up_stops_its_work(fresh, activation, monkeypatch) -> None:
    begun, stopped = threading.Event(), threading.Event()

    async def extract_for_ever(*_: Any, **__: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    monkeypatch.setattr(fresh.parts.faces, "sample", extract_for_ever)
    body = encode(activation(), MSGPACK)
    before = fresh.parts.store.counts()
    head = [
        "POST /v1/enrollments HTTP/1.1",
        "Host: sosie",
        f"Authorization: Bearer {fresh.keys['blue']}",
        f"Content-Type: {MSGPACK}",
        "Idempotency-Key: k",
        f"Content-Length: {len(body)}",
    ]
    with listening(fresh.app, fresh.loop) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            assert begun.wait(WAIT_S)
        assert stopped.wait(WAIT_S)
    wait_until(lambda: '"status":499' in fresh.log_text)
    assert fresh.parts.store.counts() == before
    monkeypatch.undo()
    again = fresh.enroll(activation(), "k")
    assert (again.status_code, fresh.read(again)["decision"]) == (201, "approved")
