"""What every request has in common, whatever it asks and however it ends."""

import asyncio
import gc
import json
from typing import Any

import msgpack
import pytest
from starlette.exceptions import HTTPException

from engine.errors import NotFound, StorageFull
from schema.actors import Role
from serving.access.authorization import Principal
from serving.api.app import EXEMPT_ONGOING
from serving.api.body import MSGPACK
from serving.api.request import Request
from serving.errors import Busy, FaceUnusable, RateLimited
from tests.serving.api.middleware.conftest import Rig, begin, echo, idle, raising
from tests.serving.meters import BrokenMeter

pytestmark = pytest.mark.anyio


def test_a_correlator_is_echoed_or_made() -> None:
    rig = Rig(idle)
    own = "a-b_c:1;/<>{}."
    assert rig.ask(headers={"x-correlator": own}).headers["x-correlator"] == own
    first, second = (rig.ask(headers=given).headers["x-correlator"] for given in ({}, {}))
    assert first != second
    assert len(first) == len(second) == 32
    assert rig.ask(headers={"x-correlator": ""}).status == 200


@pytest.mark.parametrize("bad", ["a b", "é", "x" * 257, 'a"b', "a\tb"])
def test_a_correlator_of_other_signs_is_refused_and_not_echoed(bad: str) -> None:
    answer = Rig(idle).ask(headers={"x-correlator": bad})
    assert answer.status == 400
    assert len(answer.headers["x-correlator"]) == 32


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (NotFound("no such thing"), 404, "REQUEST.NOT_FOUND", None),
        (Busy("full"), 429, "SERVICE.BUSY", "1"),
        (RateLimited("spent", 2.1), 429, "ACCESS.RATE_LIMITED", "3"),
        (StorageFull("full"), 507, "REGISTRY.STORAGE_FULL", "1"),
        (FaceUnusable("none", reason="NO_FACE"), 422, "MATCH.NO_FACE", None),
        (HTTPException(404), 404, "REQUEST.ROUTE_UNKNOWN", None),
        (HTTPException(418), 400, "REQUEST.MALFORMED", None),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", MSGPACK])
def test_an_error_is_an_answer_in_the_type_asked_for(
    error: Exception, status: int, code: str, retry: str | None, accept: str
) -> None:
    rig = Rig(raising(error))
    answer = rig.ask(headers={"accept": accept})
    read = msgpack.unpackb if accept == MSGPACK else json.loads
    shown = read(answer.body)
    assert answer.headers["content-type"] == accept
    assert shown.keys() - {"advice"} == {"status", "code", "message"}
    assert (answer.status, shown["status"], shown["code"]) == (status, status, code)
    assert answer.headers.get("retry-after") == retry
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert rig.meter.refusals == [code]
    assert rig.access["code"] == code


@pytest.mark.parametrize("accept", ["text/html", "image/png"])
def test_a_type_that_cannot_be_answered_is_refused_before_any_work(accept: str) -> None:
    worked = []

    async def work(_: Request) -> Any:
        worked.append(1)
        return {}

    answer = Rig(work).ask(headers={"accept": accept})
    assert (answer.status, worked) == (406, [])
    assert answer.headers["content-type"] == "application/json"


async def test_more_requests_than_may_run_get_429_at_once_and_health_still_answers() -> None:
    released = asyncio.Event()

    async def wait(request: Request) -> Any:
        if request.scope["path"] == "/v1/match":
            begin(request)
            await released.wait()
        return {}

    rig = Rig(wait, requests_ongoing=3, key_share=1)
    first = [asyncio.create_task(rig.ask_later()) for _ in range(3)]
    await asyncio.sleep(0)
    refused = [await rig.ask_later(b"x", 30.0, b"y") for _ in range(20)]
    health = await rig.ask_later(path="/health/ready", method="GET")
    released.set()
    assert [answer.status for answer in await asyncio.gather(*first)] == [200] * 3
    assert (await rig.ask_later()).status == 200
    assert rig.meter.ongoing == 0
    assert {answer.status for answer in refused} == {429}
    assert refused[0].json["code"] == "SERVICE.BUSY"
    assert refused[0].headers["retry-after"] == "1"
    assert health.status == 200


async def test_health_calls_have_a_small_bound_of_their_own_and_take_no_others_place() -> None:
    released = asyncio.Event()

    async def wait(request: Request) -> Any:
        if request.scope["path"] == "/health/ready":
            await released.wait()
        return {}

    rig = Rig(wait, requests_ongoing=3)
    asked = [
        asyncio.create_task(rig.ask_later(path="/health/ready", method="GET"))
        for _ in range(EXEMPT_ONGOING + 5)
    ]
    while sum(task.done() for task in asked) < 5:
        await asyncio.sleep(0)
    match = await rig.ask_later()
    refused = [task.result().status for task in asked if task.done()]
    released.set()
    served = [(await task).status for task in asked].count(200)
    assert match.status == 200
    assert refused == [429] * 5
    assert served == EXEMPT_ONGOING


def test_a_meter_that_fails_changes_no_answer_and_no_bound() -> None:
    rig = Rig(idle, meter=BrokenMeter(), requests_ongoing=1)
    assert [rig.ask().status for _ in range(3)] == [200] * 3


def test_an_access_line_names_the_route_and_the_key_and_never_the_path() -> None:
    async def work(request: Request) -> Any:
        request.principal = Principal("k1", Role.CARRIER, "blue")
        request.scope["route"] = type("Route", (), {"path": "/v1/lines/{line}"})()
        return {}

    rig = Rig(work)
    rig.ask(path="/v1/lines/+8613800138000", method="DELETE", headers={"x-correlator": "c1"})
    line = dict(rig.access)
    assert line.pop("duration_ms") >= 0
    assert line == {
        "event": "request",
        "route": "/v1/lines/{line}",
        "method": "DELETE",
        "status": 200,
        "code": None,
        "correlator": "c1",
        "key_id": "k1",
    }
    assert rig.meter.requests == [("/v1/lines/{line}", "DELETE", "200")]


@pytest.mark.parametrize("path", ["/nowhere/+8613800138000", "/v1/lines/%00"])
def test_a_path_that_no_route_has_is_no_label(path: str) -> None:
    rig = Rig(raising(HTTPException(404)))
    rig.ask(path=path, method="BREW")
    assert rig.meter.requests == [("unmatched", "other", "404")]
    assert "8613800138000" not in repr(rig.lines.calls)


@pytest.mark.parametrize(("path", "level"), [("/health/live", "debug"), ("/v1/match", "info")])
def test_health_is_logged_more_quietly(path: str, level: str) -> None:
    rig = Rig(idle)
    rig.ask(path=path)
    assert rig.lines.calls[-1].method_name == level


def test_a_request_that_is_over_leaves_nothing_to_the_garbage_collector() -> None:
    def count() -> int:
        return sum(type(one) is Request for one in gc.get_objects())

    async def ask_often() -> int:
        rig = Rig(echo)
        gc.collect()
        before = count()
        for _ in range(20):
            await rig.ask_later(b"{}")
        return count() - before

    gc.disable()
    try:
        assert asyncio.run(ask_often()) == 0
    finally:
        gc.enable()
