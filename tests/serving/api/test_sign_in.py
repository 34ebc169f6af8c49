"""Sign-in by OpenID Connect over real HTTP, and what a session may and may not."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from engine.registry.accounts import ApiKey
from engine.registry.database import utc_now
from serving.access.authentication import make_key
from tests.serving.api.conftest import serving
from tests.serving.api.driver import Service
from tests.serving.client.conftest import listening
from tests.serving.identity_provider import (
    PEOPLE,
    SAME_SITE,
    Browser,
    free_port,
    providing,
    write_sign_in,
)


@dataclass(frozen=True)
class Place:
    """A service that people sign in to, and the provider."""

    service: Service
    url: str
    issuer: str
    opened: ExitStack

    def browser(self) -> Browser:
        return self.opened.enter_context(Browser(self.url))

    def signed_in(self, subject: str) -> Browser:
        browser = self.browser()
        assert browser.sign_in(subject).headers["location"] == "/console"
        return browser

    @property
    def accounts(self) -> Any:
        return self.service.parts.store.accounts  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def place(keyed_home, extractor, tmp_path_factory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("sign-in") / "served"
    shutil.copytree(keyed_home[0], home)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with providing() as issuer:
        write_sign_in(home, issuer, url)
        with serving(home, keyed_home[1], extractor) as start:
            service = start()
            with listening(service.app, service.loop, port), ExitStack() as opened:
                yield Place(service, url, issuer, opened)


def cookies_of(answer: httpx.Response) -> dict[str, str]:
    """Each Set-Cookie by the name of its cookie."""
    lines = answer.headers.get_list("set-cookie")
    return {line.partition("=")[0]: line for line in lines}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


ENDED, CROSS = (401, "ACCESS.SESSION_ENDED"), (403, "ACCESS.CROSS_SITE")


def test_a_person_signs_in_as_their_group_allows_and_out_again(place) -> None:
    browser = place.browser()
    address = browser.begin()
    asked = {name: value for name, [value] in parse_qs(urlsplit(address).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert (asked["response_type"], asked["scope"]) == ("code", "openid profile")
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    answer = browser.get(browser.consent(address, "u1"))
    assert (answer.status_code, answer.headers["location"]) == (303, "/console")
    made = cookies_of(answer)
    assert "HttpOnly; SameSite=Strict" in made["sosie_session"]
    assert "Max-Age=0" in made["sosie_sign_in"]
    me = browser.call("GET", "/v1/me").json()
    assert (me["role"], me["person"], me["name"]) == ("fraud", "anna", "anna")
    assert browser.call("GET", "/console/session").json() == {
        "provider": "Example ID",
        "is_sandbox": False,
        "holder": me,
    }
    assert browser.call("GET", "/v1/cases").status_code == 200
    assert refusal(browser.call("GET", "/v1/audit"))[0] == 403
    kept = dict(browser.cookies)
    assert browser.call("DELETE", "/v1/session").json() == {"session_id": me["key_id"]}
    assert "sosie_session" not in browser.cookies
    browser.put_back(kept)
    assert refusal(browser.call("GET", "/v1/cases")) == ENDED
    assert browser.call("GET", "/console/session").json()["holder"] is None
    assert kept["sosie_session"] not in place.service.log_text


def test_an_outlet_signs_in_for_its_own_alone(place) -> None:
    me = place.signed_in("u3").call("GET", "/v1/me").json()
    assert (me["role"], me["carrier"], me["outlet"]) == ("outlet", "blue", "b1")


def test_a_call_that_our_own_page_did_not_make_is_refused(place) -> None:
    browser = place.signed_in("u1")
    evil = {"origin": "http://evil.example"}
    sites = [{"sec-fetch-site": site} for site in ("cross-site", "same-site", "none")]
    for headers in ({}, *sites, evil, {"origin": "null"}, SAME_SITE | evil):
        for call in (("GET", "/v1/cases"), ("POST", "/v1/sweeps"), ("DELETE", "/v1/session")):
            assert refusal(browser.request(*call, headers=headers)) == CROSS, headers
        assert browser.get("/console/session", headers=headers).json()["holder"] is None
    assert browser.get("/v1/me", headers={"origin": place.url}).status_code == 200


def test_a_session_is_no_key_and_a_key_no_session(place) -> None:
    browser = place.signed_in("u1")
    text = browser.cookies["sosie_session"]
    bearer = {"authorization": f"Bearer {text}"}
    assert refusal(httpx.get(f"{place.url}/v1/me", headers=bearer))[0] == 401
    browser.put_back({"sosie_session": place.service.keys["fraud"]})
    assert refusal(browser.call("GET", "/v1/me"))[0] == 401
    twice = {"cookie": f"sosie_session={text}; sosie_session={text}"} | SAME_SITE
    assert refusal(httpx.get(f"{place.url}/v1/me", headers=twice))[0] == 401
    both = bearer | SAME_SITE | {"cookie": f"sosie_session={text}"}
    assert refusal(httpx.get(f"{place.url}/v1/me", headers=both))[0] == 401


def test_a_sign_in_is_ended_once_and_by_the_browser_that_began_it(place) -> None:
    victim, attacker = place.browser(), place.browser()
    back = attacker.consent(attacker.begin(), "u2")
    for browser in (victim, place.browser()):
        assert browser.get(back).headers["location"] == "/console#/signin/stale"
        assert "sosie_session" not in browser.cookies
    victim.begin()
    assert victim.get(back).headers["location"] == "/console#/signin/stale"
    assert attacker.get(back).headers["location"] == "/console"
    kept = dict(attacker.cookies)
    assert attacker.get(back).headers["location"] == "/console#/signin/stale"
    attacker.put_back(kept)
    assert attacker.call("GET", "/v1/me").status_code == 200


def test_another_site_begins_no_sign_in_and_no_address_leads_elsewhere(place) -> None:
    browser = place.browser()
    for address in ("/console/sign-in?to=//evil.example", "/console/sign-in?next=https://evil"):
        there = urlsplit(browser.get(address).headers["location"])
        assert f"{there.scheme}://{there.netloc}" == place.issuer
        assert "evil" not in there.query
    answer = browser.get("/console/sign-in", headers={"sec-fetch-site": "cross-site"})
    assert answer.headers["location"] == "/console"
    assert cookies_of(answer) == {}


def test_a_new_sign_in_has_a_new_session_and_ends_the_one_before(place) -> None:
    browser = place.signed_in("u1")
    first = dict(browser.cookies)
    assert browser.sign_in("u2").headers["location"] == "/console"
    assert browser.cookies["sosie_session"] != first["sosie_session"]
    assert browser.call("GET", "/v1/me").json()["person"] == "bo"
    browser.put_back(first)
    assert refusal(browser.call("GET", "/v1/me")) == ENDED


def test_whoever_has_no_group_of_ours_is_not_signed_in_and_not_named(place) -> None:
    browser = place.browser()
    assert browser.sign_in("u4").headers["location"] == "/console#/signin/norole"
    assert "sosie_session" not in browser.cookies
    claims = PEOPLE["u4"]
    said = re.findall(r"no group of the account", place.service.log_text)
    assert said
    for text in (claims["preferred_username"], *claims["groups"], "Desk & fraud", "code="):
        assert text not in place.service.log_text, text


def test_a_page_acts_in_nobodys_name_but_whose_it_shows(place) -> None:
    browser = place.signed_in("u1")
    own = browser.call("GET", "/v1/me").json()["key_id"]
    for headers, status in (({"x-session": own}, 200), ({"x-session": "0123456789ab"}, 401)):
        assert browser.get("/v1/cases", headers=SAME_SITE | headers).status_code == status


def test_two_people_are_two_people_however_each_has_signed_in(place, open_case) -> None:
    service = place.service
    case_id = open_case(service)
    made = make_key(service.parts.vault)
    store: Any = service.parts.store
    fields = (made.id, made.digest, "fraud", None, None, utc_now())
    store.add_api_key(ApiKey(*fields, person="Anna"), actor="test")
    anna, bo = place.signed_in("u1"), place.signed_in("u2")
    path = f"/v1/cases/{case_id}"
    taken = anna.call("POST", f"{path}/assign", {"assignee": "me"}).json()
    assert taken["assignee"] == "anna"
    outcome = {"outcome": "fraud", "keep_lines": True, "seen_at": taken["updated_at"]}
    proposed = anna.call("POST", f"{path}/propose", outcome)
    assert proposed.status_code == 200
    outcome["seen_at"] = proposed.json()["updated_at"]
    own = service.ask("POST", f"{path}/close", key=made.text, body=outcome)
    assert refusal(own) == (403, "CASE.FOUR_EYES")
    assert bo.call("POST", f"{path}/close", outcome).status_code == 200
    notes = bo.call("GET", path).json()["notes"]
    assert [one["actor"] for one in notes[-2:]] == ["anna", "bo"]
    by = [
        one["actor"]
        for who in ("anna", "bo")
        for one in service.ask("GET", f"/v1/audit?actor={who}", key="operator").json()["entries"]
        if one["subject"] == case_id and one["action"] in {"case.proposed", "case.closed"}
    ]
    assert [re.sub(r":\w{12}\)", ":…)", one) for one in by] == [
        "anna (session:…)",
        "bo (session:…)",
    ]


def test_a_provider_that_is_down_is_one_line_and_nothing_else_fails(place, monkeypatch) -> None:
    service, browser = place.service, place.signed_in("u1")
    sign_in = service.parts.sign_in
    gone = sign_in.settings.model_copy(update={"issuer": f"http://127.0.0.1:{free_port()}"})
    for name, value in {"settings": gone, "_kept": None, "_asked_at": -60.0}.items():
        monkeypatch.setattr(sign_in, name, value)
    before = len(service.log_text)
    for _ in range(2):
        answer = browser.get("/console/sign-in")
        assert answer.headers["location"] == "/console#/signin/unavailable"
    assert service.ask("GET", "/health/ready", key=None).status_code == 200
    assert service.ask("GET", "/v1/me").status_code == 200
    assert browser.call("GET", "/v1/me").status_code == 200
    told = [line for line in service.log_text[before:].splitlines() if "sign_in_failed" in line]
    assert len(told) == 2
    assert "the provider does not answer" in told[0]


def test_without_a_provider_there_is_nothing_to_sign_in_to(service) -> None:
    assert service.ask("GET", "/console/session", key=None).json() == {
        "provider": None,
        "is_sandbox": False,
        "holder": None,
    }
    answer = service.ask("GET", "/console/sign-in", key=None)
    service.assert_refused(answer, 404, "REQUEST.ROUTE_UNKNOWN")
    cookie = {"cookie": f"sosie_session={service.keys['fraud']}"} | SAME_SITE
    answer = service.ask("GET", "/v1/me", key=None, headers=cookie)
    service.assert_refused(answer, 401, "ACCESS.UNAUTHENTICATED")
    answer = service.ask("DELETE", "/v1/session", key="fraud")
    service.assert_refused(answer, 400, "REQUEST.MALFORMED")
