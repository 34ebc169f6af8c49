"""A request's body: in bounds, as long as it says, not too slow, never more than memory holds."""

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from starlette.types import Message

from schema.actors import Role
from serving.access.authorization import Holder, Principal
from serving.api import request as edge
from serving.api.body import BODIES_HELD, LARGE_BYTES, BodyBudget, work_apart
from serving.api.request import Request
from serving.errors import Busy
from tests.serving.api.middleware.conftest import Rig, begin, echo

pytestmark = pytest.mark.anyio

CHUNKED = {"content-length": "-", "transfer-encoding": "chunked"}
OF_ONE_KEY = 2
"""Bodies of the largest size that one key may hold while nobody else holds any."""


def test_a_body_comes_in_pieces() -> None:
    assert Rig(echo).ask(b"abc", b"", b"de").json == {"size": 5}
    assert Rig(echo).ask(b"abc", b"de", headers=CHUNKED).json == {"size": 5}


def test_an_endless_body_is_cut_off() -> None:
    answer = Rig(echo, max_body_mib=0.001).ask(*[b"x" * 500] * 4, 9.0, b"x", headers=CHUNKED)
    assert (answer.status, answer.json["code"]) == (413, "REQUEST.BODY_TOO_LARGE")


@pytest.mark.parametrize("length", ["abc", "-1", "+3", "3, 3", "", "²"])
def test_a_wrong_content_length_is_malformed(length: str) -> None:
    answer = Rig(echo).ask(b"abc", headers={"content-length": length})
    assert (answer.status, answer.json["code"]) == (400, "REQUEST.MALFORMED")


def test_a_body_of_another_length_than_it_says_is_malformed() -> None:
    assert Rig(echo).ask(b"abc", headers={"content-length": "4"}).status == 400


async def test_two_content_lengths_are_malformed() -> None:
    rig = Rig(echo)
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"abc", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    lengths = [(b"content-length", b"3"), (b"content-length", b"3")]
    scope = {"type": "http", "method": "POST", "path": "/v1/match", "headers": lengths}
    await rig.middleware(scope, receive, send)
    assert sent[0]["status"] == 400


async def test_an_oversized_body_is_refused_before_it_is_read() -> None:
    read: list[int] = []

    async def watch(request: Request) -> Any:
        original = request._receive

        async def counted() -> Message:
            read.append(1)
            return await original()

        request._receive = counted
        return await echo(request)

    rig = Rig(watch, max_body_mib=0.001)
    answer = await rig.ask_later(b"x" * 2000)
    assert (answer.status, answer.json["code"]) == (413, "REQUEST.BODY_TOO_LARGE")
    assert answer.headers["connection"] == "close"
    assert read == []


async def test_bodies_that_fill_the_memory_set_aside_are_refused_until_one_is_done() -> None:
    released, all_held = asyncio.Event(), asyncio.Barrier(OF_ONE_KEY + 1)

    async def hold(request: Request) -> Any:
        await request.read_body()
        if not released.is_set():
            await all_held.wait()
        await released.wait()
        return {}

    rig = Rig(hold, max_body_mib=1)
    body = b"x" * 2**20
    held = [asyncio.create_task(rig.ask_later(body)) for _ in range(OF_ONE_KEY)]
    await all_held.wait()
    refused = await rig.ask_later(body)
    released.set()
    assert [(await one).status for one in held] == [200] * OF_ONE_KEY
    assert (refused.status, refused.json["code"]) == (429, "SERVICE.BUSY")
    assert (await rig.ask_later(body)).status == 200


async def test_slow_uploads_of_one_carrier_leave_memory_for_those_of_others() -> None:
    async def read(request: Request) -> Any:
        key = request.key or ""
        request.enter(Principal(key, Role.CARRIER, "red" if key < "other" else key))
        return {"size": len(await request.read_body())}

    rig = Rig(read, max_body_mib=1, body_timeout_s=0.5)
    body = b"x" * 2**20

    async def send(key: str, *chunks: bytes | float) -> int:
        return (await rig.ask_later(*chunks, headers={"x-api-key": key})).status

    half = len(body) // 2
    stalled = [
        asyncio.create_task(send(f"key{number}", body[:half], body[half:-1], 9.0, b"x"))
        for number in range(4 * BODIES_HELD)
    ]
    # The first to be done is refused: those before it hold all that one carrier may.
    await asyncio.wait(stalled, return_when=asyncio.FIRST_COMPLETED)
    others = [await send(f"other{n}", body) for n in range(4)]
    assert others == [200] * 4
    assert {await task for task in stalled} == {408, 429}


def test_slow_uploads_of_one_key_leave_memory_for_its_carriers_other_keys() -> None:
    budget = BodyBudget(1)
    taken: Counter[str] = Counter()
    for key in ("one", "two", "three"):
        with suppress(Busy):
            while True:
                budget.take(2**16, Holder("carrier:red", key))
                taken[key] += 1
    assert taken["one"] > taken["two"] > taken["three"] > 0
    assert taken.total() <= BODIES_HELD * 16 / 2


async def test_a_body_takes_memory_from_the_moment_that_it_is_waited_for() -> None:
    """Or thousands of bodies that hardly come would take none."""

    async def read(request: Request) -> Any:
        carrier = "red" if (request.key or "") == "red" else "blue"
        request.enter(Principal(request.key or "", Role.CARRIER, carrier))
        await request.read_body()
        return {}

    rig = Rig(read, max_body_mib=1, body_timeout_s=0.5)
    red, blue = {"x-api-key": "red"}, {"x-api-key": "blue"}
    coming = [asyncio.create_task(rig.ask_later(b"x", 9.0, b"x", headers=red)) for _ in range(200)]
    await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
    other = (await rig.ask_later(b"x", headers=blue)).status
    counts = Counter([(await task).status for task in coming])
    assert counts.keys() == {408, 429}
    assert counts[408] <= BODIES_HELD * 16 / 2
    assert other == 200


def test_a_body_that_comes_slower_than_the_least_rate_is_cut_off(monkeypatch) -> None:
    monkeypatch.setattr(edge, "BODY_GRACE_S", 0.1)
    slow = Rig(echo, body_kib_per_s=8).ask(b"x" * 100, 9.0, b"x")
    assert (slow.status, slow.json["code"]) == (408, "REQUEST.BODY_TIMEOUT")
    assert slow.headers["connection"] == "close"
    assert Rig(echo, body_kib_per_s=8).ask(b"x" * 8192, 0.3, b"x").status == 200
    assert Rig(echo, body_kib_per_s=0).ask(b"x", 0.3, b"x").status == 200


@pytest.mark.parametrize(
    ("key", "carrier", "status"),
    [("r1", "red", 429), ("r2", "red", 429), ("b1", "blue", 200)],
    ids=["the same key", "another of its carrier", "another carrier's"],
)
async def test_requests_run_by_carrier_and_then_by_key(key: str, carrier: str, status: int) -> None:
    """Of four places a key has two, and all keys of a carrier three."""
    held = ["r1", "r1"] if key == "r1" else ["r1", "r1", "r3"]
    released, all_held = asyncio.Event(), asyncio.Barrier(len(held) + 1)

    async def hold(request: Request) -> Any:
        begin(request, "blue" if (request.key or "")[0] == "b" else "red")
        if not released.is_set() and (request.key or "") != "b1":
            await all_held.wait()
            await released.wait()
        return {}

    rig = Rig(hold, requests_ongoing=4, key_share=0.5)
    first = [asyncio.create_task(rig.ask_later(headers={"x-api-key": one})) for one in held]
    await all_held.wait()
    answer = await rig.ask_later(headers={"x-api-key": key})
    released.set()
    assert [(await task).status for task in first] == [200] * len(held)
    assert answer.status == status
    assert status == 200 or answer.json["code"] == "SERVICE.BUSY"
    assert (await rig.ask_later(headers={"x-api-key": "r1"})).status == 200


async def test_a_body_that_still_comes_has_no_place() -> None:
    waited_for = asyncio.Event()

    async def read(request: Request) -> Any:
        request.enter(Principal(request.key or "", Role.CARRIER, "red"))
        waited_for.set()
        await request.read_body()
        request.begin()
        return {}

    rig = Rig(read, requests_ongoing=1)
    coming = asyncio.create_task(rig.ask_later(b"x", 0.3, b"x", headers={"x-api-key": "r1"}))
    await waited_for.wait()
    other = (await rig.ask_later(b"x", headers={"x-api-key": "r2"})).status
    assert (other, (await coming).status) == (200, 200)


async def test_a_large_body_is_worked_on_while_others_are_answered() -> None:
    free = threading.Event()
    ran_in: list[int] = []

    def work(size: int) -> dict[str, int]:
        ran_in.append(threading.get_ident())
        assert size < LARGE_BYTES or free.wait(120)
        return {"size": size}

    async def read(request: Request) -> Any:
        size = len(await request.read_body())
        return await work_apart(size, work, size)

    rig = Rig(read)
    large = asyncio.create_task(rig.ask_later(b"x" * (LARGE_BYTES + 1)))
    while not ran_in:
        await asyncio.sleep(0.001)
    small = await rig.ask_later(b"x")
    free.set()
    assert ((await large).json, small.json) == ({"size": LARGE_BYTES + 1}, {"size": 1})
    assert ran_in.count(threading.get_ident()) == 1


def test_a_body_that_no_route_reads_is_not_waited_for() -> None:
    async def work(_: Request) -> Any:
        await asyncio.sleep(0.3)  # past the time of a body that is waited for
        return {"done": True}

    answer = Rig(work, body_timeout_s=0.1).ask(b"{", 9.0, b"}", method="DELETE", path="/v1/lines/1")
    assert answer.json == {"done": True}


def test_a_compressed_body_is_not_read() -> None:
    assert Rig(echo).ask(b"abc", headers={"content-encoding": "gzip"}).status == 415
