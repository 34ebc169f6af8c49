"""`/v1/webhooks`: each tenant's own, a secret that is told once, and nothing inside the network."""

from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import psutil
from standardwebhooks import Webhook as Referee

from serving.access.authentication import Authenticator
from serving.api.app import build_app
from serving.webhooks import keeper
from tests.serving.authority_service import send, serve_authority
from tests.waiting import wait_until

PATH = "/v1/webhooks"
EXAMPLE = {"type": "line.suspended"}
SINK = "https://systems.example/sosie?token=1"


def create(service: Any, key: str = "blue", **body: Any) -> Any:
    made = service.ask("POST", PATH, key=key, body={"sink": SINK} | body)
    assert made.status_code == 201
    return service.read(made)


def test_a_carrier_manages_its_own_alone(own_service) -> None:
    made = create(own_service, types=["line.opened"])
    path = f"{PATH}/{made['webhook']['webhook_id']}"
    for key, status in (("blue", 200), ("operator", 200), ("red", 404), ("fraud", 403)):
        assert own_service.ask("GET", path, key=key).status_code == status
    for method, ending, body in (
        ("PATCH", "", {"state": "paused"}),
        ("POST", "/replay", {"after": "0"}),
        ("POST", "/rotate", None),
        ("POST", "/test", EXAMPLE),
        ("POST", "/dead-letters/retry", {"events": []}),
        ("DELETE", "", None),
    ):
        refused = own_service.ask(method, path + ending, key="red", body=body)
        own_service.assert_refused(refused, 404, "REQUEST.NOT_FOUND")
    refused = own_service.ask("POST", PATH, key="blue", body={"sink": SINK, "carrier": "red"})
    own_service.assert_refused(refused, 403, "ACCESS.FORBIDDEN")
    assert own_service.read(own_service.ask("GET", PATH, key="red"))["webhooks"] == []
    own_service.ask("DELETE", path, key="blue")


def test_a_secret_is_told_once_and_every_step_is_audited(own_service) -> None:
    made = create(own_service, key="operator")
    webhook = made["webhook"]
    assert made["secret"].startswith("whsec_")
    assert (webhook["carrier"], webhook["types"], webhook["state"]) == (None, [], "active")
    path = f"{PATH}/{webhook['webhook_id']}"
    ask = own_service.ask
    ask("PATCH", path, key="operator", body={"state": "paused", "types": ["case.opened"]})
    rotated = own_service.read(ask("POST", f"{path}/rotate", key="operator"))
    assert rotated["secret"] != made["secret"]
    assert rotated["webhook"]["earlier_secret_until"] is not None
    ask("POST", f"{path}/replay", key="operator", body={"after": "0"})
    retried = ask("POST", f"{path}/dead-letters/retry", key="operator", body={})
    assert own_service.read(retried) == {"count": 0}
    shown = ask("GET", path, key="operator").text
    dead = own_service.read(ask("GET", f"{path}/dead-letters", key="operator"))
    assert dead == {"dead_letters": [], "next": None}
    ask("DELETE", path, key="operator")
    asked = f"/v1/audit?after=0&limit=100&subject={webhook['webhook_id']}"
    trail = own_service.read(ask("GET", asked, key="operator"))["entries"]
    assert [one["action"].removeprefix("webhook.") for one in trail] == [
        *("created", "changed", "secret_rotated", "replayed", "asked_again", "removed")
    ]
    for secret in (made["secret"], rotated["secret"]):
        assert secret not in shown
        assert secret not in str(trail)
    assert "token" not in str(trail)


def test_an_address_inside_the_network_an_unknown_type_and_the_eleventh_are_refused(
    own_service,
) -> None:
    for sink in ("https://169.254.169.254/", "http://example.com/", "https://[::1]/"):
        refused = own_service.ask("POST", PATH, key="red", body={"sink": sink})
        own_service.assert_refused(refused, 400, "REQUEST.INVALID")
    refused = own_service.ask("POST", PATH, key="red", body={"sink": SINK, "types": ["a.b"]})
    own_service.assert_refused(refused, 400, "REQUEST.MALFORMED")
    made = [create(own_service, key="red") for _ in range(10)]
    refused = own_service.ask("POST", PATH, key="red", body={"sink": SINK})
    own_service.assert_refused(refused, 400, "REQUEST.INVALID")
    for one in made:
        own_service.ask("DELETE", f"{PATH}/{one['webhook']['webhook_id']}", key="red")


def test_the_service_delivers_by_a_process_that_ends_with_it(
    start_service, activation, monkeypatch
) -> None:
    monkeypatch.setenv("SOSIE_WEBHOOKS__CARRIER_NETWORKS", '{"blue": ["127.0.0.0/8"]}')
    monkeypatch.setattr(keeper, "LOOK_EVERY_S", 0.1)
    with serve_authority() as receiver:
        receiver.behave, sink = send(b"", 204), receiver.sink
        others = psutil.Process().children()
        service = start_service()
        made = create(service, sink=sink)
        for key in ("red", "operator"):
            refused = service.ask("POST", PATH, key=key, body={"sink": sink})
            service.assert_refused(refused, 400, "REQUEST.INVALID")
        asked = f"{PATH}/{made['webhook']['webhook_id']}/test"
        answer = service.read(service.ask("POST", asked, key="blue", body=EXAMPLE))
        assert (answer["fault"], receiver.bodies) == (None, [ANY])
        for kind in ("case.opened", "a.b"):
            refused = service.ask("POST", asked, key="blue", body={"type": kind})
            service.assert_refused(refused, 400, "REQUEST.MALFORMED")
        trail = f"/v1/audit?after=0&limit=100&subject={made['webhook']['webhook_id']}"
        tested = service.read(service.ask("GET", trail, key="operator"))["entries"][-1]
        assert (tested["action"], tested["detail"]) == ("webhook.tested", EXAMPLE)
        authenticator = Authenticator(service.parts.store, cache_s=5, rate_limit=1)
        parts = replace(service.parts, authenticator=authenticator)
        limited = replace(service, parts=parts, app=build_app(parts))
        answers = [limited.ask("POST", asked, key="blue", body=EXAMPLE) for _ in range(5)]
        assert [one.status_code for one in answers] == [200, 200, 200, 200, 429]
        del receiver.bodies[1:], receiver.headers[1:]
        path = f"{PATH}/{create(service, key='red')['webhook']['webhook_id']}"
        refused = service.ask("PATCH", path, key="operator", body={"sink": sink})
        service.assert_refused(refused, 400, "REQUEST.INVALID")
        service.enroll(activation(), "e")
        wait_until(lambda: len(receiver.headers) >= 3)

        # The service that other tests share may have one, too.
        def find_worker() -> psutil.Process | None:
            mine = [one for one in psutil.Process().children() if one not in (*others, killed)]
            return next((one for one in mine if keeper.PROCESS_MODULE in one.cmdline()), None)

        killed: psutil.Process | None = None
        killed = wait_until(find_worker)
        killed.kill()
        worker = wait_until(find_worker)
        service.match.close()
        assert not worker.is_running()
    sent = zip(receiver.bodies[1:], receiver.headers[1:], strict=True)
    events = [Referee(made["secret"]).verify(*one) for one in sent]
    assert {one["type"] for one in events} == {"enrollment.decided", "line.opened"}


FEED = "/v1/events"


def test_the_feed_is_read_from_where_it_was_left(own_service, activation) -> None:
    begin = own_service.read(own_service.ask("GET", f"{FEED}?limit=500"))["next"]
    own_service.enroll(activation(), "e")
    first = own_service.read(own_service.ask("GET", f"{FEED}?after={begin}&limit=1"))
    (decided,) = first["events"]
    assert (decided["type"], decided["specversion"]) == ("enrollment.decided", "1.0")
    assert decided["source"] == f"urn:uuid:{own_service.parts.vault.deployment_id}"
    rest = own_service.read(own_service.ask("GET", f"{FEED}?after={first['next']}"))
    assert [one["type"] for one in rest["events"]] == ["line.opened"]
    assert rest["events"][0]["subject"] == decided["data"]["line_id"]
    end = own_service.read(own_service.ask("GET", f"{FEED}?after={rest['next']}"))
    assert end["events"] == []
    # Of whatever type one asks: what was looked at is not looked at again.
    closed = own_service.read(own_service.ask("GET", f"{FEED}?type=sweep.finished"))
    again = own_service.read(own_service.ask("GET", f"{FEED}?after={closed['next']}"))
    assert (closed["events"], again["events"]) == ([], [])
    for unknown in ("7", "abcd", first["next"][:-4] + "AAAA"):
        answer = own_service.ask("GET", f"{FEED}?after={unknown}")
        own_service.assert_refused(answer, 410, "EVENTS.PLACE_UNKNOWN")
    own_service.assert_refused(
        own_service.ask("GET", f"{FEED}?type=line.unknown"), 400, "REQUEST.MALFORMED"
    )


def test_another_carrier_and_an_outlet_are_told_nothing(own_service, activation) -> None:
    body = activation(msisdn="+8613800138007")
    own_service.enroll(body, "f")
    for key, is_told in (("blue", True), ("fraud", True), ("operator", True), ("red", False)):
        shown = own_service.read(own_service.ask("GET", FEED, key=key))
        assert bool(shown["events"]) is is_told
    own_service.assert_refused(own_service.ask("GET", FEED, key="b1"), 403, "ACCESS.FORBIDDEN")


def test_a_place_in_the_feed_tells_nothing_of_what_others_did(own_service, activation) -> None:
    page = own_service.read(own_service.ask("GET", FEED, key="red"))
    again = own_service.read(own_service.ask("GET", f"{FEED}?after={page['next']}", key="red"))
    # Nothing was, and yet they differ: so a difference is no sign.
    assert page["next"] != again["next"]
    assert len(page["next"]) == len(again["next"])
    for key in ("blue", "fraud"):
        answer = own_service.ask("GET", f"{FEED}?after={page['next']}", key=key)
        own_service.assert_refused(answer, 410, "EVENTS.PLACE_UNKNOWN")
