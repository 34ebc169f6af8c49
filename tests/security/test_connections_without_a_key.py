"""Attack: a dozen connections without a key, or with one byte of a body, take every place."""

import json
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from engine.errors import RequestError
from serving.api import request
from serving.cluster.environment import make_variables
from serving.cluster.haproxy import (
    ADMITTED,
    ONGOING_OF_ADDRESS,
    SAMPLED,
    UNKNOWN_ONGOING,
    UNREAD,
    ProxyConfig,
)
from serving.settings.settings import make_settings
from tests.security.listening import listening
from tests.security.unfinished_requests import WAIT_S, begin, exchange, make_up_key
from tests.serving.api.driver import to_json
from tests.serving.cluster.proxied import OTHER_KEY, Proxied, run_proxy

ATTACKERS = 16
CONFIG = ProxyConfig(
    ongoing=256,
    match_ongoing=16,
    enroll_ongoing=10,
    key_share=0.5,
    connections_per_address=200,
    header_timeout_s=10,
)


@pytest.fixture(scope="module")
def ports(own_service, tmp_path_factory) -> Iterator[tuple[int, int]]:
    """Where the real service listens: behind the proxy, and itself."""
    with listening(own_service, tmp_path_factory.mktemp("p"), CONFIG) as found:
        yield found


@contextmanager
def attacking(port: int, heads: Callable[[], bytes]) -> Iterator[Counter[int]]:
    """So many connections that send this again and again; what they are answered."""
    stop, statuses = threading.Event(), Counter[int]()

    def attack() -> None:
        while not stop.is_set():
            statuses[exchange(port, heads())[0]] += 1

    with ThreadPoolExecutor(ATTACKERS) as pool:
        attackers = [pool.submit(attack) for _ in range(ATTACKERS)]
        try:
            while statuses.total() < ATTACKERS:
                time.sleep(0.01)
            yield statuses
        finally:
            stop.set()
    for attacker in attackers:
        attacker.result()


@pytest.mark.parametrize("front", [0, 1], ids=["behind the proxy", "without a proxy"])
@pytest.mark.parametrize(
    ("make_key", "path", "method", "expected"),
    [
        (lambda _: None, "/v1/enrollments", "POST", {401}),
        (lambda _: make_up_key(), "/v1/enrollments", "POST", {401}),
        (lambda _: None, "/v1/nowhere", "POST", {401, 404}),
        (lambda _: None, "/health/ready", "GET", {400, 200}),
        (lambda keys: keys["r1"], "/v1/cases", "GET", {403}),
        (lambda keys: keys["r1"], "/v1/me", "GET", {200}),
        (lambda keys: keys["r1"], "/v1/me", "HEAD", {405}),
    ],
    ids=["no key", "made-up", "no such route", "readiness", "not allowed", "not looked at", "head"],
)
def test_an_answer_that_leaves_a_body_unread_closes_the_connection(
    own_service, ports, front: int, make_key: Any, path: str, method: str, expected: set[int]
) -> None:
    key = make_key(own_service.keys)
    status, headers, body = exchange(ports[front], begin(key, path, method=method))
    assert status in expected
    assert headers["connection"] == "close"
    assert method == "HEAD" or len(body) == int(headers["content-length"])
    if not front:
        assert headers.keys().isdisjoint({"server", ADMITTED, UNREAD, SAMPLED})


@pytest.mark.parametrize(
    "make_key",
    [lambda _: None, lambda _: make_up_key(), lambda keys: keys["r1"]],
    ids=["no key", "made-up keys", "a carrier's outlet"],
)
def test_honest_enrollments_are_decided_while_such_connections_are_made(
    own_service, ports, activation, make_key: Any
) -> None:
    url, keys = f"http://127.0.0.1:{ports[0]}", own_service.keys
    with (
        httpx.Client(headers={"authorization": f"Bearer {keys['b1']}"}, timeout=WAIT_S) as honest,
        attacking(ports[0], lambda: begin(make_key(keys))) as statuses,
    ):
        for number in range(8):
            answer = honest.post(
                f"{url}/v1/enrollments",
                content=to_json(activation(msisdn=f"+8613800139{number:03d}")),
                headers={"content-type": "application/json", "idempotency-key": str(uuid.uuid4())},
            )
            assert answer.status_code == 201, answer.text
            assert honest.get(f"{url}/health/ready").status_code == 200
    assert statuses.keys() <= {401, 408, 429}


@pytest.mark.parametrize("front", [0, 1], ids=["behind the proxy", "without a proxy"])
def test_whoever_sends_a_large_body_without_a_key_in_force_still_gets_the_answer(
    ports, front: int
) -> None:
    body = bytes(2**21)
    for key in (make_up_key(), make_up_key(), "none") * 3:
        answer = httpx.post(
            f"http://127.0.0.1:{ports[front]}/v1/match",
            content=body,
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=WAIT_S,
        )
        assert (answer.status_code, answer.json()["code"]) == (401, "ACCESS.UNAUTHENTICATED")


def test_a_body_that_comes_too_slowly_gives_its_place_back(own_service, ports, monkeypatch) -> None:
    monkeypatch.setattr(request, "BODY_GRACE_S", 0.05)
    key = own_service.keys["r1"]
    status, headers, body = exchange(ports[0], begin(key))
    assert (status, json.loads(body)["code"]) == (408, "REQUEST.BODY_TIMEOUT")
    assert headers["connection"] == "close"


def test_one_key_has_half_the_enrollment_places_whatever_brings_the_photographs(
    tmp_path_factory,
) -> None:
    config = replace(CONFIG, enroll_ongoing=4)
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        held = proxied.hold(1, "/v1/enrollments", "POST")
        held += proxied.hold(1, "/v1/verifications", "POST")
        for path in (
            "/v1/enrollments",
            "/v1/templates",
            "/v1/lines/1/dispute",
            "/v1/%6cines/query",
        ):
            status, headers, body = proxied.ask(path, "POST")
            assert (status, json.loads(body)["code"]) == (429, "ACCESS.RATE_LIMITED"), path
            assert int(headers["retry-after"]) >= 1
        held += proxied.hold(2, "/v1/enrollments", "POST", OTHER_KEY)
        held += proxied.hold(2, "/v1/match", "POST")
        assert proxied.ask("/v1/cases")[0] == 200
        proxied.release(held)
        assert proxied.ask("/v1/enrollments", "POST")[0] == 200


@pytest.mark.parametrize(
    ("path", "method"), [("/v1/enrollments", "POST"), ("/v1/match", "POST"), ("/v1/slow", "GET")]
)
def test_all_keys_of_a_carrier_leave_a_quarter_of_the_places_to_others(
    tmp_path_factory, path: str, method: str
) -> None:
    config = replace(CONFIG, ongoing=8, match_ongoing=8, enroll_ongoing=8)
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        keys = [f"sosie_{sign * 12}_{sign * 43}" for sign in "cdef"]
        proxied.server.carriers.update({f"Bearer {key}": 1 for key in keys})
        held = [one for key in keys[:3] for one in proxied.hold(2, path, method, key)]
        # A key that the proxy has never seen, of the same carrier.
        status, _, body = proxied.ask(path, method, key=keys[3])
        assert (status, json.loads(body)["code"]) == (429, "ACCESS.RATE_LIMITED")
        assert "carrier" in json.loads(body)["message"]
        held += proxied.hold(2, path, method, OTHER_KEY)
        proxied.release(held)
        assert proxied.ask(path, method, key=keys[3])[0] == 200


def test_whose_a_key_is_is_asked_before_its_body_and_one_not_in_force_is_told_so(
    tmp_path_factory,
) -> None:
    """However many such bodies come, they keep nobody waiting whose key was idle."""
    with run_proxy(tmp_path_factory.mktemp("p"), CONFIG) as proxied, ExitStack() as opened:
        proxied.server.open()
        for _ in range(4 * UNKNOWN_ONGOING):
            key = make_up_key()
            proxied.server.carriers[f"Bearer {key}"] = 1
            slow = opened.enter_context(socket.create_connection(("127.0.0.1", proxied.port)))
            slow.sendall(begin(key))
            assert exchange(proxied.port, begin(make_up_key()))[0] == 401
        fresh = make_up_key()
        proxied.server.carriers[f"Bearer {fresh}"] = 2
        assert proxied.ask("/v1/enrollments", "POST", key=fresh)[0] == 200


def test_an_encoded_path_counts_as_the_path_that_it_is(tmp_path_factory) -> None:
    config = replace(CONFIG, match_ongoing=2, enroll_ongoing=2, key_share=1.0)
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        held = proxied.hold(2, "/v1/m%61tch", "POST")
        held += proxied.hold(2, "/%761/enrollments", "POST")
        for path in ("/v1/match", "/v1/%6datch", "/v1%2Fmatch", "/%76%31/enrollments?x=1"):
            assert proxied.ask(path, "POST")[0] == 429, path
        proxied.release(held)
        assert proxied.ask("/v1/%256datch", "POST")[0] == 200


def test_pages_of_the_cluster_are_not_served(tmp_path_factory) -> None:
    with run_proxy(tmp_path_factory.mktemp("p"), CONFIG) as proxied:
        for path in ("/-/routes", "/-/healthz", "/%2d/routes", "/-%2Fhealthz", "/-/Routes"):
            status, headers, body = proxied.ask(path)
            assert (status, json.loads(body)["code"]) == (404, "REQUEST.ROUTE_UNKNOWN"), path
            assert "server" not in headers
        assert "server" not in proxied.ask("/v1/cases")[1]


def test_one_address_opens_so_many_connections(tmp_path_factory) -> None:
    config = replace(CONFIG, connections_per_address=5)

    def is_answered(proxied: Proxied) -> bool:
        try:
            return proxied.ask("/v1/cases")[0] == 200
        except OSError:
            return False

    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        with ExitStack() as opened:
            for _ in range(5):
                opened.enter_context(socket.create_connection(("127.0.0.1", proxied.port)))
            while is_answered(proxied):
                pass  # until the proxy has taken all five
        while not is_answered(proxied):
            pass  # until the proxy has seen that they are closed


@pytest.mark.parametrize(
    ("trusted", "expected"), [((), 429), (("127.0.0.0/8",), 200)], ids=["not trusted", "trusted"]
)
def test_requests_without_a_key_are_counted_by_the_address_that_a_trusted_proxy_names(
    tmp_path_factory, trusted: tuple[str, ...], expected: int
) -> None:
    config = replace(CONFIG, trusted=trusted)
    with run_proxy(tmp_path_factory.mktemp("p"), config) as proxied:
        held = proxied.hold(ONGOING_OF_ADDRESS, "/console/slow", "GET", key=None)
        refused = proxied.ask("/console", key=None)
        assert (refused[0], json.loads(refused[2])["code"]) == (429, "ACCESS.RATE_LIMITED")
        # Only the last address is the proxy's own word.
        other = {"x-forwarded-for": "127.0.0.1, 198.51.100.7"}
        assert proxied.ask("/console", key=None, headers=other)[0] == expected
        assert proxied.ask("/v1/cases")[0] == 200
        assert proxied.ask("/health/ready", key=None)[0] == 200
        proxied.release(held)


def test_both_ends_use_the_same_headers() -> None:
    theirs = (request.ADMITTED, request.UNREAD[0], request.SAMPLED)
    assert tuple(map(bytes.decode, theirs)) == (ADMITTED, UNREAD, SAMPLED)


def test_settings_reach_the_proxy(tmp_path) -> None:
    given = {"serve": {"trusted_proxies": "10.0.0.5, 10.1.0.0/16", "key_share": 0.25}}
    settings = make_settings(given).serve
    make_variables(settings, tmp_path, tmp_path / "log")
    text = (tmp_path / "proxy.json").read_text()
    assert '"trusted": ["10.0.0.5/32", "10.1.0.0/16"]' in text
    assert '"key_share": 0.25' in text
    with pytest.raises(RequestError, match="trusted_proxies"):
        make_settings({"serve": {"trusted_proxies": "10.0.0.5/8"}})
