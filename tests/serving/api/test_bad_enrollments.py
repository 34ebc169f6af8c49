"""Activations and photographs that cannot be judged: refused with a code that names the field."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serving.api.body import JSON, MSGPACK

PATH = "/v1/enrollments"
KEY = {"idempotency-key": "key-1"}

Activation = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "REQUEST.IDEMPOTENCY_KEY_MISSING"),
        ("", "REQUEST.IDEMPOTENCY_KEY_INVALID"),
        ("x" * 256, "REQUEST.IDEMPOTENCY_KEY_INVALID"),
        ("x" * 10_240, "REQUEST.IDEMPOTENCY_KEY_INVALID"),
        ("a\tb", "REQUEST.IDEMPOTENCY_KEY_INVALID"),
        ("é".encode("latin-1"), "REQUEST.IDEMPOTENCY_KEY_INVALID"),
    ],
)
def test_a_key_has_1_to_255_printable_characters(
    service: Any, activation: Activation, key: Any, code: str
) -> None:
    headers = {} if key is None else {"idempotency-key": key}
    response = service.ask("POST", PATH, body=activation(), headers=headers)
    message = service.assert_refused(response, 400, code)
    assert "xxx" not in message


def moment(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat()


@pytest.mark.parametrize(
    ("captured_at", "code"),
    [
        (lambda: moment(hours=25), "REQUEST.CAPTURE_TIME"),
        (lambda: moment(minutes=-11), "REQUEST.CAPTURE_TIME"),
        (lambda: "1970-01-01T00:00:00Z", "REQUEST.CAPTURE_TIME"),
        (lambda: "9999-12-31T23:59:59Z", "REQUEST.CAPTURE_TIME"),
        (lambda: "0001-01-01T00:00:00+14:00", "REQUEST.CAPTURE_TIME"),
        (lambda: "2026-01-31T12:00:00", "REQUEST.MALFORMED"),
        (lambda: "yesterday", "REQUEST.MALFORMED"),
        (lambda: 1_700_000_000, "REQUEST.MALFORMED"),
        (lambda: None, "REQUEST.MALFORMED"),
    ],
)
def test_a_clock_in_the_past_or_the_future_is_refused(
    service: Any, activation: Activation, captured_at: Callable[[], Any], code: str
) -> None:
    body = {**activation(), "captured_at": captured_at()}
    response = service.ask("POST", PATH, body=body, headers=KEY)
    assert "captured_at" in service.assert_refused(response, 400, code)


def changed(**document: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, "document": {**body["document"], **document}}


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {key: value for key, value in body.items() if key != name}


BAD_BODIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nothing": (lambda _: {}, "REQUEST.MALFORMED"),
    "a list": (lambda body: [body], "REQUEST.MALFORMED"),
    "a text": (lambda _: "enroll", "REQUEST.MALFORMED"),
    "null": (lambda _: None, "REQUEST.MALFORMED"),
    "no consent": (without("consent_ref"), "REQUEST.MALFORMED"),
    "no live photograph": (without("live"), "REQUEST.MALFORMED"),
    "an unknown field": (lambda body: {**body, "carrier": "red"}, "REQUEST.MALFORMED"),
    "an unknown field below": (changed(nationality="CN"), "REQUEST.MALFORMED"),
    "an unknown document type": (changed(type="library-card"), "REQUEST.INVALID"),
    "a name with NUL": (changed(name="Stan\0Stranger"), "REQUEST.MALFORMED"),
    "an endless name": (changed(name="S" * 201), "REQUEST.MALFORMED"),
    "a name of punctuation": (changed(name="---"), "REQUEST.INVALID"),
    "a number as a name": (changed(name=7), "REQUEST.MALFORMED"),
    "a day that is none": (changed(expires_on="2031-02-30"), "REQUEST.MALFORMED"),
    "a number that is none": (lambda body: {**body, "msisdn": "call me"}, "REQUEST.INVALID"),
    "a number without country": (lambda body: {**body, "msisdn": "13800138001"}, "REQUEST.INVALID"),
    "an endless consent": (lambda body: {**body, "consent_ref": "C" * 201}, "REQUEST.MALFORMED"),
    "consent with NUL": (lambda body: {**body, "consent_ref": "C\0"}, "REQUEST.MALFORMED"),
    "an outlet of 10 kB": (lambda body: {**body, "outlet": "b" * 10_240}, "REQUEST.MALFORMED"),
    "an image that is a number": (lambda body: {**body, "live": 5}, "REQUEST.MALFORMED"),
    "an image that is no base64": (lambda body: {**body, "live": "@@@"}, "REQUEST.MALFORMED"),
}


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_cannot_be_judged_is_refused(
    service: Any, activation: Activation, name: str, kind: str
) -> None:
    change, code = BAD_BODIES[name]
    body = change(activation())
    content = b"null" if kind == JSON else b"\xc0"
    response = service.ask(
        "POST",
        PATH,
        body=body,
        kind=kind,
        headers=KEY | {"content-type": kind},
        content=content if body is None else None,
    )
    message = service.assert_refused(response, 400, code)
    for secret in ("Stan", "110105198503071257", "13800138001", "library"):
        assert secret not in message


def test_an_unknown_field_is_named_with_those_that_are_known(
    service: Any, activation: Activation
) -> None:
    body = changed(nationality="CN")(activation())
    response = service.ask("POST", PATH, body=body, headers=KEY)
    message = service.assert_refused(response, 400, "REQUEST.MALFORMED")
    assert message.startswith("document.nationality: unknown field: known are type, number")


@pytest.mark.parametrize("name", ["photo", "live.image", "document"])
def test_a_part_of_another_name_is_named(service: Any, activation: Activation, name: str) -> None:
    body = {**activation(), name: b"x"}
    del body["live"]
    response = service.ask("POST", PATH, body=body, kind="form", headers=KEY)
    message = service.assert_refused(response, 400, "REQUEST.MALFORMED")
    assert name.partition(".")[0] in message


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", JSON, 400),
        (b"\xc1", MSGPACK, 400),
        (b"x", "multipart/form-data; boundary=y", 400),
        (b"x", "multipart/form-data", 400),
        (b"outlet=b1", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b"{}", None, 415),
        (b"", JSON, 400),
    ],
)
def test_a_body_of_another_type_is_refused(
    service: Any, content: bytes, content_type: str | None, status: int
) -> None:
    headers = KEY | ({"content-type": content_type} if content_type else {})
    response = service.ask("POST", PATH, content=content, headers=headers)
    code = "REQUEST.MALFORMED" if status == 400 else "REQUEST.TYPE_UNSUPPORTED"
    service.assert_refused(response, status, code)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", b"\0"))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


BAD: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "truncated": (lambda whole: whole[: len(whole) // 2], 400, "IMAGE.DAMAGED"),
    "text": (lambda _: b"Aileen Probe 110105199003071239", 415, "IMAGE.UNSUPPORTED"),
    "3600 megapixels": (lambda _: png_header(60_000, 60_000), 413, "IMAGE.TOO_LARGE"),
    "9 MB": (lambda whole: whole + bytes(9 * 2**20), 413, "IMAGE.TOO_LARGE"),
}


@pytest.mark.parametrize("kind", [JSON, MSGPACK, "form"])
@pytest.mark.parametrize("name", BAD)
def test_an_enrollment_with_it_is_refused_and_changes_nothing(
    service: Any,
    faces: dict[str, bytes],
    activation: Callable[..., dict[str, Any]],
    name: str,
    kind: str,
) -> None:
    make, status, code = BAD[name]
    before = service.parts.store.counts()
    body = activation(portrait=make(faces["portrait"]))
    response = service.ask(
        "POST", "/v1/enrollments", body=body, kind=kind, headers={"idempotency-key": "k"}
    )
    message = service.assert_refused(response, status, code)
    assert message.startswith("portrait: ")
    assert "Aileen" not in message
    assert service.parts.store.counts() == before


@pytest.mark.parametrize(
    ("path", "key", "more"),
    [
        ("/v1/verifications", "blue", {"line": "+8613800138000"}),
        ("/v1/identifications", "fraud", {}),
        (
            "/v1/lines/query",
            "blue",
            {"document": {"type": "cn-ric", "number": "110105199003071239"}},
        ),
    ],
)
@pytest.mark.parametrize("name", BAD)
def test_a_probe_with_it_is_refused(
    service: Any, faces: dict[str, bytes], name: str, path: str, key: str, more: dict[str, Any]
) -> None:
    make, status, code = BAD[name]
    body = {"probe": {"image": make(faces["live"])}} | more
    response = service.ask("POST", path, key=key, body=body, kind=MSGPACK)
    assert service.assert_refused(response, status, code).startswith("probe: ")
