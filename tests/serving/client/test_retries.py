"""Calls over connections that break, proxies that answer, and queues that are full."""

import asyncio
from typing import Any

import httpx
import pytest

from serving.client import ApiError, AsyncClient, Client, Options, Unavailable
from tests.serving.client.test_client import client_of


class Flaky:
    """The application behind something that answers the first requests itself."""

    def __init__(self, app: Any, *faults: tuple[int, bytes, dict[str, str]]) -> None:
        self._app, self._faults = app, list(faults)
        self.keys: list[str] = []
        self.traces: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.keys.append(headers.get("idempotency-key", ""))
        self.traces.append((headers["x-correlator"], headers.get("traceparent", "")))
        if not self._faults:
            await self._app(scope, receive, send)
            return
        status, body, added = self._faults.pop(0)
        given = [(name.encode(), value.encode()) for name, value in added.items()]
        await send({"type": "http.response.start", "status": status, "headers": given})
        await send({"type": "http.response.body", "body": body})


HAPROXY = (500, b"Internal Server Error", {"content-type": "text/plain"})
BUSY = (
    429,
    b'{"status": 429, "code": "SERVICE.BUSY", "message": "later"}',
    {"content-type": "application/json", "retry-after": "1"},
)


def test_an_answer_that_was_cut_off_after_the_commit_is_fetched_by_the_retry(
    service, relay, make_activation
) -> None:
    way = relay("cut")
    sent = make_activation(msisdn="+8613800138002")
    with client_of(service, way.url, "b1") as client:
        answer = client.enroll(sent)
    assert way.connections == 2
    assert answer.is_repeated
    assert answer.idempotency_key == sent.idempotency_key


def test_a_connection_that_is_closed_is_tried_again(service, relay) -> None:
    way = relay("refuse", "refuse")
    with client_of(service, way.url, "b1") as client:
        assert client.whose_key().key_id
    assert way.connections == 3


def test_a_service_that_is_not_there_is_unavailable_within_the_time(service, relay) -> None:
    way = relay(*["refuse"] * 1000)
    client = client_of(service, way.url, "b1", timeout_s=1, retries=1000)
    with client, pytest.raises(Unavailable) as raised:
        client.whose_key()
    assert raised.value.status is None
    assert 1 < raised.value.attempts < 1000


def test_a_proxys_plain_text_500_and_a_429_are_tried_again_with_the_same_key(
    service, listen, make_activation
) -> None:
    flaky = Flaky(service.app, HAPROXY, BUSY)
    sent = make_activation(msisdn="+8613800138003")
    with client_of(service, listen(flaky), "b1") as client:
        answer = client.enroll(sent, Options(traceparent="00-1-2-01"))
    assert answer.idempotency_key == sent.idempotency_key
    assert flaky.keys == [sent.idempotency_key] * 3
    [(correlator, traceparent)] = set(flaky.traces)
    assert correlator
    assert traceparent == "00-1-2-01"


def test_without_retries_the_first_failure_is_told_with_its_key(
    service, listen, make_activation
) -> None:
    sent = make_activation()
    url = listen(Flaky(service.app, HAPROXY))
    with client_of(service, url, "b1", retries=0) as client, pytest.raises(Unavailable) as raised:
        client.enroll(sent)
    assert raised.value.status == 500
    assert raised.value.idempotency_key == sent.idempotency_key


def test_the_async_client_does_the_same_in_process(service, make_activation, photographs) -> None:
    flaky = Flaky(service.app, HAPROXY)
    sent = make_activation(msisdn="+8613800138004")

    async def ask() -> None:
        transport = httpx.ASGITransport(flaky)
        async with AsyncClient(
            "http://sosie.test", service.keys["b1"], transport=transport
        ) as client:
            decided = await client.enroll(sent)
            assert decided.idempotency_key == sent.idempotency_key
            found, verified, ready = await asyncio.gather(
                client.find_enrollment(sent.idempotency_key),
                client.verify(
                    photographs.live.read_bytes(), reference=photographs.later.read_bytes()
                ),
                client.ready(),
            )
            assert found.enrollment_id == decided.enrollment_id
            assert verified.is_match
            assert ready.is_ready
            with pytest.raises(ApiError):
                await client.read_enrollment("nothing")

    service.run(ask())


def test_what_comes_to_something_else_each_time_is_sent_once() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        status, content, headers = BUSY
        return httpx.Response(status, content=content, headers=headers)

    with Client("http://sosie.test", "key", transport=httpx.MockTransport(answer)) as client:
        for call in (
            lambda: client.create_webhook("https://a.example/"),
            lambda: client.rotate_secret("1"),
        ):
            with pytest.raises(Unavailable, match="attempts: 1"):
                call()
    assert asked == ["/v1/webhooks", "/v1/webhooks/1/rotate"]
