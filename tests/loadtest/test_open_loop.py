"""An open loop measures a stall, which a closed loop would hide."""

import asyncio
import time
from typing import Any

from tests.loadtest.conftest import finish

STALL_AFTER_S, STALL_S = 1.0, 1.2
RATE, SECONDS = 50, 4
OPTIONS = ("--class", "match", "--arrivals", "constant", "--p99-ms", 500, "--json")
LOAD = (*OPTIONS, "--rate", RATE, "--seconds", SECONDS)


class Stalls:
    """The application, which answers nothing for a while, some time after the first match of the
    load."""

    def __init__(self, app: Any, key: str) -> None:
        self._app, self._key = app, f"Bearer {key}".encode()
        self._from = self._until = float("inf")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._wait(scope)
        await self._app(scope, receive, send)

    async def _wait(self, scope: Any) -> None:
        now = time.monotonic()
        is_load = scope["path"] == "/v1/match" and (b"authorization", self._key) in scope["headers"]
        if is_load and self._from == float("inf"):
            self._from = now + STALL_AFTER_S
            self._until = self._from + STALL_S
        if self._from <= now < self._until:
            await asyncio.sleep(self._until - now)


def test_an_open_loop_measures_a_stall(service, listen, begin) -> None:
    key = service.keys["enroll"]
    opened = finish(begin("steady", listen(Stalls(service.app, key)), "two", *LOAD))
    [step] = opened.json["steps"]
    assert step["latency"]["match"]["ms"]["p99"] >= 0.8 * STALL_S * 1e3
    # It went on sending.
    assert step["visits"] == RATE * SECONDS
    assert opened.code == 1
    assert [one["name"] for one in step["criteria"] if not one["met"]] == ["match: p99"]
