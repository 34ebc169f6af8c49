"""Forms: files beside the JSON of the rest, whole or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.api.codec import decode
from serving.refusals import Malformed

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
