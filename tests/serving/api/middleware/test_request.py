"""One request: its time, its key, a client that leaves."""

import asyncio
import time
from typing import Any

import pytest
from starlette.types import Message

from serving.api.app import CLIENT_GONE
from serving.api.request import Request
from tests.serving.api.middleware.conftest import Headers, Rig, echo, idle

pytestmark = pytest.mark.anyio


async def _sleep_long(_: Request) -> Any:
    await asyncio.sleep(20)


@pytest.mark.parametrize(
    ("settings", "headers"), [({}, {"x-timeout-ms": "80"}), ({"request_timeout_s": 0.08}, {})]
)
def test_a_call_ends_with_its_time(settings, headers: Headers) -> None:
    rig = Rig(_sleep_long, **settings)
    answer = rig.ask(headers=headers)
    assert (answer.status, answer.json["code"]) == (503, "REQUEST.DEADLINE_PASSED")
    assert "Idempotency-Key" not in answer.json["message"]
    assert answer.headers["retry-after"] == "1"


def test_a_call_with_a_key_of_its_own_is_told_to_use_it_again() -> None:
    headers = {"x-timeout-ms": "80", "idempotency-key": "k-1"}
    answer = Rig(_sleep_long).ask(headers=headers)
    assert "same Idempotency-Key" in answer.json["message"]


@pytest.mark.parametrize("bad", ["0", "-1", "1.5", "soon", "", "9" * 10, "²"])
def test_a_deadline_is_a_whole_number_of_milliseconds(bad: str) -> None:
    assert Rig(idle).ask(headers={"x-timeout-ms": bad}).status == 400


def test_a_client_may_wait_longer_than_the_default() -> None:
    async def tell(request: Request) -> Any:
        return {"limit_s": request._deadline - request.started}

    rig = Rig(tell, request_timeout_s=1)
    for given_ms, limit_s in (("90000", 90), ("900000000", 120)):
        answer = rig.ask(headers={"x-timeout-ms": given_ms})
        assert answer.json["limit_s"] == pytest.approx(limit_s)


def test_time_in_the_proxy_of_this_machine_counts_and_what_is_late_is_not_begun() -> None:
    async def tell(request: Request) -> Any:
        return {"left_s": request.remaining_s}

    def ask(came_s: float, address: str | None, limit_ms: int) -> Any:
        came_ms = str(int((time.time() + came_s) * 1e3))
        headers = {"x-arrived-ms": came_ms, "x-timeout-ms": str(limit_ms)}
        return Rig(tell).ask(headers=headers, server=address and (address, 80)).json

    assert ask(-20.0, "127.0.0.1", 90_000)["left_s"] <= 70
    assert ask(-20.0, "127.0.0.1", 19_000)["code"] == "REQUEST.DEADLINE_PASSED"
    # The clock of another machine, or one that was set, says nothing.
    for came_s, address in ((-20.0, "10.0.0.2"), (-20.0, None), (-7200.0, "::1"), (7200.0, "::1")):
        assert ask(came_s, address, 90_000)["left_s"] == pytest.approx(90, abs=10)


def test_a_client_that_leaves_amid_its_body_is_no_error() -> None:
    rig = Rig(echo)
    assert rig.ask(b"abc", b"", headers={"content-length": "9"}).status == 400
    headers = {"content-length": "9", "transfer-encoding": "chunked"}
    assert rig.ask(headers=headers, stays=False).status == 0
    assert rig.access["status"] == CLIENT_GONE


def test_what_stores_is_stopped_as_soon_as_its_client_has_gone_however_quick_it_is() -> None:
    async def work(request: Request) -> Any:
        await request.read_body()
        for _ in range(10):
            await asyncio.sleep(0)
        return {"stored": True}

    rig = Rig(work)
    assert rig.ask(b"abc", headers={"idempotency-key": "k-1"}, stays=False).status == 0
    assert rig.access["status"] == CLIENT_GONE
    assert rig.ask(b"abc", headers={"idempotency-key": "k-1"}).json == {"stored": True}


async def test_the_servers_own_cancellation_goes_on() -> None:
    working = asyncio.Event()

    async def work(request: Request) -> Any:
        working.set()
        return await _sleep_long(request)

    rig = Rig(work)
    task = asyncio.create_task(rig.ask_later())
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.meter.ongoing == 0
    assert rig.access["status"] == CLIENT_GONE


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_is_answered_while_its_client_is_watched_and_where_that_fails(fails: bool) -> None:
    async def work(request: Request) -> Any:
        await request.read_body()
        receive, watched = request._receive, asyncio.Event()

        async def watch() -> Message:
            watched.set()
            if fails:
                raise RuntimeError("the stream has ended")
            return await receive()

        request._receive = watch
        await watched.wait()
        await asyncio.sleep(0)
        return {"done": True}

    assert Rig(work).ask(b"abc").json == {"done": True}


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"authorization": "Bearer sosie_a_b"}, "sosie_a_b"),
        ({"authorization": "bearer  sosie_a_b "}, "sosie_a_b"),
        ({"authorization": "Basic c29zaWU="}, None),
        ({"x-api-key": "sosie_c_d"}, "sosie_c_d"),
        ({"authorization": "Bearer sosie_a_b", "x-api-key": "sosie_c_d"}, "sosie_a_b"),
        ({"authorization": "Basic x", "x-api-key": "sosie_c_d"}, None),
    ],
)
def test_a_key_comes_as_bearer_or_in_its_own_header(headers: Headers, key: str | None) -> None:
    async def tell(request: Request) -> Any:
        return {"key": request.key}

    assert Rig(tell).ask(headers=headers).json == {"key": key}
