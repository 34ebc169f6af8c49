"""The application as a server drives it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from serving.api import app as application


def test_the_document_is_made_once_however_many_ask_for_it_at_once(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def build(*given: Any) -> dict[str, Any]:
        made.append(given)
        time.sleep(0.1)
        return {"openapi": "3.1.0"}

    monkeypatch.setattr(application, "build_document", build)
    transport = httpx.ASGITransport(application.build_app(service.parts))

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await asyncio.gather(*(client.get("/openapi.json") for _ in range(3)))

    assert [one.json() for one in service.run(ask())] == [{"openapi": "3.1.0"}] * 3
    assert len(made) == 1


def test_it_starts_and_stops_as_servers_ask(service: Any) -> None:
    async def live() -> list[str]:
        asked = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        told: list[str] = []

        async def receive() -> Any:
            return asked.pop(0)

        async def send(message: Any) -> None:
            told.append(message["type"])

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await service.app(scope, receive, send)
        return told

    assert asyncio.run(live()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
