"""Look-ups at an authority's service, which is slow, wrong, down or contradicts itself."""

import asyncio
import dataclasses
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.errors import RequestError
from engine.matching.checks.document import AuthorityQuestion
from engine.matching.documents import CheckedDocument
from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from schema.documents import AuthorityCode, AuthorityResult
from serving.ingress.http_authority import CircuitBreaker, HttpAuthority, reach
from serving.settings.terms import AuthoritySettings
from serving.telemetry.metrics import Meter
from tests.serving.authority_service import (
    Handler,
    Question,
    Service,
    answer,
    send,
    serve_authority,
)
from tests.serving.certificates import certify

pytestmark = pytest.mark.anyio

NUMBER, NAME = "110105198503071257", "Stan Stranger"
VALID = {"standing": "valid"}


@pytest.fixture(scope="module")
def vault(tmp_path_factory) -> Vault:
    return Vault(KeyRing.create(tmp_path_factory.mktemp("ring") / "ring"), 4)


@pytest.fixture
def service() -> Iterator[Service]:
    with serve_authority() as made:
        yield made


BORN_ON = datetime.date(1985, 3, 7)


def ask_about(
    name: str = NAME, live: bytes | None = None, born_on: datetime.date | None = BORN_ON
) -> AuthorityQuestion:
    document = CheckedDocument("cn-ric", NUMBER, name.casefold(), None, born_on=born_on)
    return AuthorityQuestion(document, name, datetime.date(2026, 11, 28), live)


def settle(service: Service, **changes: Any) -> AuthoritySettings:
    return AuthoritySettings(kind="http", **{"url": service.url, "timeout_s": 10.0, **changes})


def look_up(
    settings: AuthoritySettings, vault: Vault, *questions: AuthorityQuestion
) -> list[AuthorityResult]:
    """The results of questions one after another, of one ingress."""

    async def ask() -> list[AuthorityResult]:
        authority = HttpAuthority(settings, vault, Path())
        try:
            return [await authority.look_up(one) for one in questions or [ask_about()]]
        finally:
            await authority.close()

    return asyncio.run(ask())


def wait(handler: Handler, _: Question) -> None:
    """Says nothing for as long as the test takes."""
    handler.service.ending.wait()


def drip(handler: Handler, _: Question) -> None:
    """A byte now and then, so that no time-out of one read ends it."""
    handler.send(b"", Content_Length="1000000")
    while not handler.service.ending.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def hang_up(handler: Handler, _: Question) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def send_much(handler: Handler, _: Question) -> None:
    """Without an end, and without a length."""
    handler.send(b"", Connection="close")
    while not handler.service.ending.is_set():
        handler.wfile.write(b" " * 65536)


ECHOED = {"standing": "valid", "number": NUMBER}
TWICE = b'{"request_id": "x", "records": [], "records": [{"standing": "valid"}]}'


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        (answer(VALID), "CONFIRMED"),
        (answer(ECHOED), "CONFIRMED"),
        (answer(), "UNKNOWN_DOCUMENT"),
        (answer({"standing": "lost"}), "NOT_VALID"),
        (answer({"standing": ["revoked", "deceased"]}), "NOT_VALID"),
        (answer({"standing": "valid", "differs": ["name", "birth_date"]}), "DIFFERS"),
        (answer({"standing": ["valid", "revoked"]}), "AMBIGUOUS"),
        (answer(VALID, {"standing": "lost"}), "AMBIGUOUS"),
        (answer(VALID, {"standing": "valid", "differs": ["name"]}), "AMBIGUOUS"),
        (answer({"standing": "valid", "number": "another"}), "MISBOUND"),
        (answer(VALID, request_id="another"), "MISBOUND"),
        (answer({"standing": "perfect"}), "MALFORMED"),
        (answer({"standing": "valid", "reference": "a name, or two"}), "MALFORMED"),
        (answer({"standing": "valid", "face_score": 95}), "MALFORMED"),
        (answer({"standing": "valid", "face_score": float("nan")}), "MALFORMED"),
        (answer(*[VALID] * 17), "MALFORMED"),
        (send(TWICE), "MALFORMED"),
        (send(b"<html>"), "MALFORMED"),
        (send(b"[" * 60_000), "MALFORMED"),
        (send(b"\xff\xfe"), "MALFORMED"),
        (send(b"", Content_Encoding="gzip"), "MALFORMED"),
        (send(b"", 302, Location="http://localhost:1/elsewhere"), "REDIRECTED"),
        (send(b"", 404), "REFUSED"),
        (send(b"", 204), "FAILED"),
        (send(b"", 503), "FAILED"),
        (send(b" " * 70_000), "TOO_LARGE"),
        (send_much, "TOO_LARGE"),
        (hang_up, "UNREACHABLE"),
    ],
)
def test_whatever_the_service_answers_is_a_result(service, vault, behave: Any, code: str) -> None:
    service.behave = behave
    [result] = look_up(settle(service), vault)
    assert result.code == code
    assert len(service.asked) == 1


@pytest.mark.parametrize("behave", [wait, drip])
def test_a_service_that_takes_its_time_is_waited_for_no_longer_than_the_setting(
    service, vault, behave: Any
) -> None:
    service.behave = behave
    [result] = look_up(settle(service, timeout_s=0.2), vault)
    assert result.code == "TIMEOUT"


def test_a_service_that_is_not_there_is_unreachable(vault) -> None:
    with serve_authority() as gone:
        settings = settle(gone)
    [result] = look_up(settings, vault)
    assert result.code == "UNREACHABLE"
    with pytest.raises(RequestError, match="does not answer"):
        reach(settings, Path())


def test_the_question_has_the_document_and_the_photograph_only_where_it_is_to_be_compared(
    service, vault
) -> None:
    service.behave = answer({"standing": "valid", "face_score": 0.97, "reference": "R-7"})
    [result] = look_up(settle(service, token="s3cret"), vault, ask_about(live=b"picture"))
    [asked] = service.asked
    assert asked["document"] == {
        "type": "cn-ric",
        "number": NUMBER,
        "name": NAME,
        "expires_on": None,
        "born_on": "1985-03-07",
    }
    assert "live" not in asked
    assert service.paths == ["/v1/cn-ric"]
    assert service.headers[0]["authorization"] == "Bearer s3cret"
    assert (result.reference, result.face_score) == ("R-7", 0.97)
    unknown = ask_about(live=b"picture", born_on=None)
    look_up(settle(service, sends_photograph=True), vault, unknown)
    assert service.asked[-1]["document"]["born_on"] is None
    assert service.asked[-1]["live"] == "cGljdHVyZQ=="


async def test_no_more_look_ups_are_made_at_once_than_allowed_and_who_finds_no_place_is_told(
    service, vault
) -> None:
    second_told = threading.Event()

    def wait_for_second(handler: Handler, _: Question) -> None:
        assert second_told.wait(120)
        handler.send(b"", 503)

    service.behave = wait_for_second
    authority = HttpAuthority(settle(service, concurrency=1, timeout_s=60), vault, Path())
    first = asyncio.ensure_future(authority.look_up(ask_about()))
    while not service.asked:
        await asyncio.sleep(0.01)
    authority._settings = settle(service, concurrency=1, timeout_s=0.05)
    second = await authority.look_up(ask_about())
    second_told.set()
    assert ((await first).code, second.code) == ("FAILED", "BUSY")
    await authority.close()
    assert len(service.asked) == 1


def test_a_service_that_fails_is_spared_for_a_while_and_then_tried_once(service, vault) -> None:
    service.behave = send(b"", 500)
    settings = settle(service, breaker_failures=2, breaker_pause_s=3600)
    results = look_up(settings, vault, *[ask_about()] * 4)
    assert [one.code for one in results] == ["FAILED", "FAILED", "BREAKER_OPEN", "BREAKER_OPEN"]
    assert len(service.asked) == 2
    # What is refused may be one document's own fault.
    service.behave = send(b"", 400)
    assert {one.code for one in look_up(settings, vault, *[ask_about()] * 4)} == {"REFUSED"}


def test_the_breaker_closes_when_its_trial_succeeds_and_waits_again_when_it_fails() -> None:
    now = [0.0]
    breaker = CircuitBreaker(2, 10, lambda: now[0])
    for _ in range(2):
        assert breaker.enter()
        breaker.leave(True)
    assert breaker.is_open
    assert not breaker.enter()
    now[0] = 10
    assert breaker.enter()
    assert not breaker.enter(), "one trial at a time"
    breaker.leave(None)
    assert breaker.enter(), "nobody waited for the first trial"
    breaker.leave(True)
    now[0] = 19
    assert not breaker.enter()
    now[0] = 20
    assert breaker.enter()
    breaker.leave(False)
    assert not breaker.is_open
    assert breaker.enter()


async def test_the_state_of_the_breaker_is_measured(service, vault) -> None:
    service.behave, meter = send(b"", 500), Meter()
    authority = HttpAuthority(settle(service, breaker_failures=1), vault, Path(), meter)
    await authority.look_up(ask_about())
    await authority.close()
    shown = meter.render()[0].decode()
    assert "sosie_authority_breaker_open 1.0" in shown
    assert 'sosie_stage_seconds_count{stage="authority"} 1.0' in shown


def test_answers_are_kept_by_their_kind_and_for_the_very_question_alone(service, vault) -> None:
    kept = settle(service, cache_s={"confirmed": 60})
    another = (ask_about("Another Name"), ask_about(born_on=datetime.date(1985, 3, 8)))
    # Another carrier's question is its own.
    another += (dataclasses.replace(ask_about(), carrier="red"),)
    results = look_up(kept, vault, ask_about(), ask_about(), *another)
    assert [one.is_kept for one in results] == [False, True, False, False, False]
    assert len(service.asked) == 4
    service.behave = answer()
    assert [one.is_kept for one in look_up(kept, vault, *[ask_about()] * 2)] == [False, False]
    assert not any(one.is_kept for one in look_up(settle(service), vault, *[ask_about()] * 2))


async def test_an_answer_that_contradicts_one_that_still_holds_ends_both(service, vault) -> None:
    authority = HttpAuthority(settle(service, cache_s={"confirmed": 60}), vault, Path())
    first = await authority.look_up(ask_about())
    service.behave = answer({"standing": "lost"})
    other = await authority.look_up(ask_about("Another Name"))
    again = await authority.look_up(ask_about())
    await authority.close()
    codes = [(one.code, one.is_kept) for one in (first, other, again)]
    assert codes == [("CONFIRMED", False), ("INCONSISTENT", False), ("NOT_VALID", False)]


async def test_nothing_of_the_person_is_kept_in_the_clear_or_shown(service, vault, caplog) -> None:
    caplog.set_level("DEBUG")
    question = ask_about()
    authority = HttpAuthority(settle(service, cache_s={"confirmed": 60}), vault, Path())
    results = [await authority.look_up(question)]
    cache = authority._cache
    held = repr([cache._kept, cache._by_document])
    for behave in (send(b"", 500), hang_up, send(b"x")):
        service.behave = behave
        results.append(await authority.look_up(ask_about("Another Name")))
    await authority.close()
    shown = held + repr(results) + repr(question) + caplog.text + "".join(service.paths)
    assert NUMBER not in shown
    assert NAME not in shown
    assert NAME.casefold() not in shown
    # Nor the date of birth, which is in the number as 19850307 and here by itself.
    assert str(BORN_ON) not in shown
    assert repr(BORN_ON) not in shown


def test_a_look_up_goes_to_no_proxy_of_the_environment(service, vault, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        for variable in (name, name.lower()):
            monkeypatch.setenv(variable, "http://127.0.0.1:1")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    assert look_up(settle(service), vault)[0].code == AuthorityCode.CONFIRMED
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "http://registry.example/v1"},
        {"url": "https://user:secret@registry.example"},
        {"url": "https://registry.example/{number}"},
        {"url": "https://registry.example:99999/"},
        {"url": ""},
        {"token": "a", "token_file": "b"},
        {"client_key": "key.pem"},
        {"min_face_score": 0.9},
        {"sends_photograph": True, "cache_s": {"confirmed": 1}},
        {"cache_s": {"unavailable": 1}},
        {"kind": "listed", "list_file": ""},
    ],
)
def test_settings_that_would_leak_or_contradict_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AuthoritySettings(**{"kind": "http", "url": "https://registry.example", **changes})


def test_both_sides_prove_themselves_by_the_operators_own_authority(vault, tmp_path) -> None:
    own = certify(tmp_path, "own")
    certify(tmp_path, "server", own)
    certify(tmp_path, "client", own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    context.load_verify_locations(tmp_path / "own.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    ca, client = str(tmp_path / "own.pem"), str(tmp_path / "client.pem")
    with serve_authority(context) as service:
        both = settle(service, ca_file=ca, client_certificate=client)
        assert look_up(both, vault)[0].code == AuthorityCode.CONFIRMED
        assert "TLS" in reach(both, Path())
        assert look_up(settle(service), vault)[0].code == AuthorityCode.UNREACHABLE
        assert look_up(settle(service, ca_file=ca), vault)[0].code == AuthorityCode.UNREACHABLE
        assert len(service.asked) == 1
    with pytest.raises(RequestError, match="client_certificate"):
        HttpAuthority(settle(service, client_certificate="none.pem"), vault, tmp_path)
