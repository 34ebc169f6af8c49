"""Bodies are read strictly and bounded, and answers are in the type that was asked for."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import msgpack
import pytest

from serving.api.body import (
    JSON,
    MAX_ARRAY,
    MAX_CONTAINERS,
    MAX_ELEMENTS,
    MAX_KEYS,
    MSGPACK,
    choose_type,
    decode,
    encode,
)
from serving.errors import Malformed, NotAcceptable, TooManyItems, TypeUnsupported
from serving.ingress.templates import read_base64

VALUES: list[Any] = [
    {"a": [1, -2, 3.5, None, True, "é•"], "b": {"c": "x" * 300}},
    {},
    {"n": 2**63},
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_what_is_encoded_is_decoded_again(value: Any, kind: str) -> None:
    assert decode(kind, encode(value, kind)) == value


def test_bytes_are_base64_in_json_and_binary_in_msgpack() -> None:
    blob = bytes(range(256))
    assert read_base64(decode(JSON, encode({"b": blob}, JSON))["b"]) == blob
    assert decode(MSGPACK, encode({"b": blob}, MSGPACK)) == {"b": blob}


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_moments_and_days_are_iso_texts(kind: str) -> None:
    value = {"at": datetime(2026, 1, 31, 12, tzinfo=UTC), "on": date(2031, 1, 31)}
    assert decode(kind, encode(value, kind)) == {
        "at": "2026-01-31T12:00:00+00:00",
        "on": "2031-01-31",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 1000 + b"]" * 1000,
    ],
)
def test_bad_json_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(JSON, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\xc0\xc0",
        b"\xa2\xff\xff",
        b"\x81\xa1a",
        b"\x81\x01\x02",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000 + b"\x01",
        msgpack.packb(msgpack.ExtType(5, b"abc")),
        msgpack.packb({"at": msgpack.Timestamp(1)}),
        msgpack.packb(dict.fromkeys(map(str, range(MAX_KEYS + 1)))),
    ],
)
def test_bad_msgpack_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(MSGPACK, body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b"[" * 100_000),
        (JSON, b"[" + b"{}," * MAX_CONTAINERS + b"{}]"),
        (JSON, b"[" + b"1," * 70_000 + b"1]"),
        (MSGPACK, b"\xdd\xff\xff\xff\xff"),
        (MSGPACK, msgpack.packb([0] * (MAX_ARRAY + 1))),
        (MSGPACK, msgpack.packb([[[]] * MAX_ARRAY] * (MAX_CONTAINERS // MAX_ARRAY + 1))),
        (MSGPACK, msgpack.packb([[1.5] * MAX_ARRAY] * (MAX_ELEMENTS // MAX_ARRAY + 1))),
        (MSGPACK, msgpack.packb([[{"a": "é"}] * MAX_ARRAY, *[["é"] * MAX_ARRAY] * 128])),
    ],
)
def test_more_than_any_request_needs_is_refused_as_such_in_both_types(
    kind: str, body: bytes
) -> None:
    with pytest.raises(TooManyItems):
        decode(kind, body)


def test_a_message_holds_nothing_of_the_body() -> None:
    for body in (b'{"name": Aileen}', b'"Aileen', b'{"Aileen": 1,}'):
        with pytest.raises(Malformed) as caught:
            decode(JSON, body)
        assert "Aileen" not in str(caught.value)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/xml",
        "application/json; charset=latin-1",
        "json",
        "a/b,",
    ],
)
def test_another_content_type_is_unsupported(content_type: str | None) -> None:
    with pytest.raises(TypeUnsupported):
        decode(content_type, b"{}")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "APPLICATION/JSON", 'application/json; charset="UTF-8"'],
)
def test_json_may_say_that_it_is_utf8(content_type: str) -> None:
    assert decode(content_type, b"{}") == {}


@pytest.mark.parametrize(
    ("accept", "content_type", "chosen"),
    [
        (None, None, JSON),
        (None, "multipart/form-data; boundary=x", JSON),
        (None, MSGPACK, MSGPACK),
        (None, "application/x-msgpack", MSGPACK),
        ("*/*", MSGPACK, MSGPACK),
        ("*/*", JSON, JSON),
        ("application/*", MSGPACK, MSGPACK),
        ("application/json", MSGPACK, JSON),
        ("application/msgpack", JSON, MSGPACK),
        ("application/vnd.msgpack", None, MSGPACK),
        ("application/json;q=0.4, application/msgpack;q=0.5", JSON, MSGPACK),
        ("application/msgpack;q=0, */*", MSGPACK, JSON),
        ("text/html, */*;q=0.1", None, JSON),
        ("Application/JSON", MSGPACK, JSON),
    ],
)
def test_the_answer_has_the_type_that_the_client_prefers(
    accept: str | None, content_type: str | None, chosen: str
) -> None:
    assert choose_type(accept, content_type) == chosen


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*", "*/*;q=x", ","])
def test_a_client_that_takes_neither_type_is_told(accept: str) -> None:
    with pytest.raises(NotAcceptable):
        choose_type(accept, None)


@pytest.mark.parametrize("text", ["a", "YQ", "YQ==\n", "YQ=", "Y-_=", "é", "YQ==YQ=="])
def test_base64_is_read_strictly(text: str) -> None:
    with pytest.raises(ValueError, match="not base64"):
        read_base64(text)


def test_an_answer_is_never_json_with_a_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"score": float("nan")}, JSON)
    assert json.loads(encode({"score": 0.5}, JSON)) == {"score": 0.5}


TYPE = "multipart/form-data; boundary=----x"
IMAGE = b"\xff\xd8\r\n--nearly\r\n\x00\xff"


def part(name: str | None, data: bytes, *more: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"'] if name is not None else []
    head = "\r\n".join([*lines, *more])
    return b"------x\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"------x--\r\n"


def written(value: Any) -> bytes:
    return part("request", json.dumps(value).encode())


def test_files_join_the_request() -> None:
    body = form(
        written({"outlet": "b1"}), part("live", IMAGE, "Content-Type: image/jpeg"), part("x", b"")
    )
    assert decode(TYPE, body) == {"outlet": "b1", "live": IMAGE, "x": b""}


def test_a_name_is_a_path() -> None:
    body = form(
        part("probe.image", IMAGE),
        part("items.1.probe.image", b"1"),
        written({"items": [{"id": "a"}, {"probe": {}}]}),
    )
    assert decode(TYPE, body) == {
        "items": [{"id": "a"}, {"probe": {"image": b"1"}}],
        "probe": {"image": IMAGE},
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        form(written({"live": 1}), part("live", IMAGE)),
        form(part("live", IMAGE), part("live", IMAGE)),
        form(written({}), written({})),
        form(written([])),
        form(part("request", b"{")),
        form(part(None, b"x", "Content-Type: text/plain")),
        form(part("items.0.live", b"x"), written({"items": []})),
        form(part("items.9999999999999999999.live", b"x"), written({"items": [{}]})),
        form(part("items.-1.live", b"x"), written({"items": [{}]})),
        form(part("a.b", b"x"), written({"a": 1})),
        form(part("live", b"x", "Content-Transfer-Encoding: base64")),
        form(part("live", b"x", "X-Long: " + "y" * 3000)),
        form(part("live", b"x", *(f"X-{n}: y" for n in range(20)))),
        form(*(part(f"p{n}", b"x") for n in range(700))),
        written({}) + b"------x\r\nContent-Disposition: form-data; name=live\r\n\r\ncut",
    ],
)
def test_a_form_that_is_not_sound_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(TYPE, body)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=" + "y" * 100]
)
def test_a_boundary_is_needed(content_type: str) -> None:
    with pytest.raises(Malformed):
        decode(content_type, form(written({})))
