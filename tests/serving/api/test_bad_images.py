"""Files that are no photograph, through HTTP: named by their field, and nothing is stored."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from serving.api.body import JSON, MSGPACK


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", b"\0"))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def frames(kind: str) -> bytes:
    pictures = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in (0, 200)]
    file = io.BytesIO()
    pictures[0].save(file, format=kind, save_all=True, append_images=pictures[1:])
    return file.getvalue()


def written(mode: str, kind: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (64, 64)).save(file, format=kind)
    return file.getvalue()


BAD: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "empty": (lambda _: b"", 400, "IMAGE.DAMAGED"),
    "truncated": (lambda whole: whole[: len(whole) // 2], 400, "IMAGE.DAMAGED"),
    "text": (lambda _: b"Aileen Probe 110105199003071239", 415, "IMAGE.UNSUPPORTED"),
    "a PDF": (lambda _: b"%PDF-1.7\n" * 50, 415, "IMAGE.UNSUPPORTED"),
    "30 megapixels": (lambda _: png_header(6000, 5000), 413, "IMAGE.TOO_LARGE"),
    "3600 megapixels": (lambda _: png_header(60_000, 60_000), 413, "IMAGE.TOO_LARGE"),
    "9 MB": (lambda whole: whole + bytes(9 * 2**20), 413, "IMAGE.TOO_LARGE"),
    "an animated WebP": (lambda _: frames("WEBP"), 415, "IMAGE.UNSUPPORTED"),
    "an animated PNG": (lambda _: frames("PNG"), 415, "IMAGE.UNSUPPORTED"),
    "a GIF": (lambda _: frames("GIF"), 415, "IMAGE.UNSUPPORTED"),
    "a TIFF": (lambda _: written("RGB", "TIFF"), 415, "IMAGE.UNSUPPORTED"),
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


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_an_unusual_colour_space_is_no_error(service: Any, mode: str) -> None:
    body = {"probe": {"image": written(mode, "JPEG")}}
    response = service.ask("POST", "/v1/identifications", key="fraud", body=body)
    service.assert_refused(response, 422, "MATCH.NO_FACE")
