"""Which failures are tried again, with what, when, and until when; no socket is involved."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import msgpack
import pytest

from serving.client import ApiError, KnownDocument, MatchItem, Options, Template, Unavailable
from serving.client.transport import READY, Exchange, Wait, post, write_face
from serving.client.transport import VERSION as ASK_VERSION
from serving.wire.lines import Dispute, HolderLines, HolderRequest

Begin = Callable[..., Exchange[Any]]
KEY = "sosie_k1_c2VjcmV0"
PLAIN = Options()
VERSION = {"version": "1", "api": "v1", "model_digest": "m"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(status: int, value: Any = None, *, kind: str = "application/msgpack", **headers: str):  # type: ignore[no-untyped-def]
    content = msgpack.packb(value) if kind == "application/msgpack" else value
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.Response(status, content=content, headers={"content-type": kind, **given})


def refuse(status: int, code: str, **headers: str) -> httpx.Response:
    value = {"status": status, "code": code, "message": "one line"}
    found: httpx.Response = answer(status, value, **headers)
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def begin(clock) -> Begin:
    def make(call: Any = None, options: Options = PLAIN, **changes: Any) -> Exchange[Any]:
        settings: dict[str, Any] = {"api_key": KEY, "timeout_s": 30.0, "retries": 3}
        return Exchange(call or ASK_VERSION, options, **settings | changes, now=clock)

    return make


@pytest.fixture
def begun(begin) -> Begin:
    """The same, with its first attempt made."""

    def make(*given: Any, **changes: Any) -> Exchange[Any]:
        exchange = begin(*given, **changes)
        exchange.begin_attempt()
        return exchange

    return make


LINE = {
    "line_id": "l",
    "number": None,
    "carrier": "blue",
    "outlet": "b1",
    "status": "suspended, as a later version may say",
    "opened_at": "2026-01-31T12:00:00+00:00",
    "closed_at": "2026-02-01T12:00:00Z",
    "colour": "unknown to this version",
}
LINES = {"is_holder": True, "score": 1, "threshold": 0.4, "lines": [LINE]}


@pytest.mark.parametrize("is_json", [False, True])
def test_an_answer_of_a_later_version_is_read_as_far_as_it_is_known(begun, is_json: bool) -> None:
    exchange = begun(post(HolderLines, "lines", "query"))
    response = httpx.Response(200, json=LINES) if is_json else answer(200, LINES)
    read = exchange.judge_response(response)
    assert read.lines[0].opened_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert read.lines[0].number is None
    assert read.lines[0].status.startswith("suspended")
    assert type(read.score) is float


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        LINES | {"is_holder": "yes"},
        LINES | {"score": "high"},
        LINES | {"threshold": None},
        LINES | {"lines": {}},
        LINES | {"lines": [{"line_id": "l"}]},
        LINES | {"lines": [LINE | {"opened_at": "yesterday"}]},
    ],
)
def test_an_answer_that_does_not_fit_is_an_error_and_no_guess(begun, value: Any) -> None:
    exchange = begun(post(HolderLines, "lines", "query"))
    with pytest.raises(ApiError, match="not one that this client reads") as raised:
        exchange.judge_response(answer(200, value))
    assert raised.value.code == "CLIENT.ANSWER_UNREADABLE"
    assert "yesterday" not in str(raised.value)


@pytest.mark.parametrize(
    "response",
    [
        refuse(409, "REQUEST.IN_FLIGHT"),
        refuse(507, "REGISTRY.STORAGE_FULL"),
        refuse(408, "REQUEST.BODY_TIMEOUT"),
        answer(500, b"Internal Server Error", kind="text/plain"),
        answer(599, b"", kind="text/plain"),
        answer(500, b"{not json", kind="application/json"),
        answer(429, b"slow down", kind="text/plain"),
        answer(200, b"<html>", kind="text/html"),
        answer(200, b"\xc1", kind="application/msgpack; x=y"),
    ],
)
def test_what_may_pass_is_tried_again(begun, response: httpx.Response) -> None:
    exchange = begun()
    assert isinstance(exchange.judge_response(response), Wait)


FOR_GOOD = {
    400: "REQUEST.MALFORMED",
    401: "ACCESS.UNAUTHENTICATED",
    403: "ACCESS.FORBIDDEN",
    404: "REQUEST.NOT_FOUND",
    409: "CASE.STATE",
    413: "REQUEST.BODY_TOO_LARGE",
    422: "REQUEST.IDEMPOTENCY_MISMATCH",
    500: "INTERNAL",
}


@pytest.mark.parametrize(
    ("response", "code"),
    [
        *((refuse(status, code), code) for status, code in FOR_GOOD.items()),
        (answer(404, b"<html>", kind="text/html"), "CLIENT.FOREIGN_ANSWER"),
        (answer(301, b"", kind="text/html"), "CLIENT.FOREIGN_ANSWER"),
        (answer(200, {"else": 1}), "CLIENT.ANSWER_UNREADABLE"),
    ],
)
def test_what_would_come_again_is_raised_at_once(
    begun, response: httpx.Response, code: str
) -> None:
    exchange = begun(options=Options(correlator="c-9"))
    with pytest.raises(ApiError) as raised:
        exchange.judge_response(response)
    error = raised.value
    assert (error.status, error.code, error.correlator, error.attempts) == (
        response.status_code,
        code,
        "c-9",
        1,
    )
    assert "c-9" in str(error)
    assert code in str(error)


def test_a_wrong_address_is_not(begun) -> None:
    exchange = begun()
    with pytest.raises(httpx.UnsupportedProtocol):
        exchange.judge_failure(httpx.UnsupportedProtocol(""))


def test_retry_after_is_waited_for_and_not_by_all_at_the_same_moment(begun) -> None:
    waits = set()
    for _ in range(50):
        exchange = begun()
        busy = refuse(429, "SERVICE.BUSY", retry_after="2")
        verdict = exchange.judge_response(busy)
        waits.add(verdict.seconds)
    assert 2 <= min(waits) <= max(waits) <= 2.5
    assert len(waits) > 40


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_counts_as_none(begun, text: str) -> None:
    exchange = begun()
    verdict = exchange.judge_response(refuse(503, "SERVICE.NOT_READY", retry_after=text))
    assert verdict.seconds <= 0.1


def test_waits_grow_until_its_retries_are_spent(begin) -> None:
    exchange, waits = begin(retries=8), []
    for _ in range(8):
        exchange.begin_attempt()
        verdict = exchange.judge_failure(httpx.ConnectError(""))
        waits.append(verdict.seconds)
    exchange.begin_attempt()
    with pytest.raises(Unavailable, match="attempts: 9"):
        exchange.judge_failure(httpx.ConnectError(""))
    assert 0.05 <= waits[0] <= 0.1
    assert all(wait >= waits[0] for wait in waits)
    assert 2.5 <= waits[-1] <= 5


def test_a_wait_beyond_the_deadline_is_not_begun(begun, clock) -> None:
    exchange = begun(timeout_s=10)
    clock.now += 8
    with pytest.raises(Unavailable):
        exchange.judge_response(refuse(429, "SERVICE.BUSY", retry_after="3"))


def test_a_call_may_have_a_time_of_its_own(begun, clock) -> None:
    exchange = begun(timeout_s=600, options=Options(timeout_s=1))
    clock.now += 2
    with pytest.raises(Unavailable):
        exchange.judge_failure(httpx.ReadTimeout(""))


def test_the_service_is_told_how_long_the_client_waits(begin, clock) -> None:
    exchange = begin(timeout_s=20, retries=1)
    headers, timeout = exchange.begin_attempt()
    # Half, so that a hung attempt leaves time for another; the last has all that is left.
    assert timeout.read == pytest.approx(10)
    assert int(headers["x-timeout-ms"]) == 9500
    clock.now += 10
    exchange.judge_failure(httpx.ReadTimeout(""))
    _, timeout = exchange.begin_attempt()
    assert timeout.read == pytest.approx(10)
    assert timeout.connect == pytest.approx(5)


def test_not_being_ready_is_an_answer(begun) -> None:
    exchange = begun(READY)
    body = {"is_ready": False, "phase": None, "checks": {"store": {"is_ok": True, "detail": "x"}}}
    verdict = exchange.judge_response(answer(503, body))
    assert not verdict.is_ready
    assert verdict.checks["store"].is_ok


def test_nothing_personal_and_no_key_shows_in_a_text(begun, make_activation) -> None:
    sent = make_activation()
    known = KnownDocument("cn-ric", "110105199003071239")
    body = HolderRequest(known, write_face(Template(b"secret-token")))
    call = post(Dispute, "lines", "+8613800138000", "dispute", body=body)
    exchange = begun(call)
    with pytest.raises(ApiError) as raised:
        exchange.judge_response(refuse(404, "REQUEST.NOT_FOUND"))
    item = MatchItem(b"secret-image", Template(b"secret-token"))
    shown = f"{sent!r} {known!r} {call!r} {body!r} {raised.value!r} {raised.value} {item!r}"
    for secret in (
        "1380013800",
        "110105199003071239",
        "19850307",
        "Stan",
        "secret",
        "sosie_k1",
        "=b'",
    ):
        assert secret not in shown
