"""JPEG 2000: what documents hold is decoded, and what would cost too much is not begun."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from engine.errors import ImageDamaged, ImageError, ImageTooCostly, ImageTooLarge, ImageUnsupported
from engine.faces import jpeg2000
from engine.faces.embedder import Pixels

SIZE = 4 + 4  # of a codestream: markers SOC and SIZ, then length and capabilities


@pytest.fixture(scope="module")
def face(astronaut) -> Pixels:
    """uint8[252, 204, 3]"""
    return np.ascontiguousarray(astronaut[:252, 130:334])


@pytest.fixture(scope="module")
def stream(face, encode) -> bytes:
    """A codestream without boxes."""
    return encode(face, "JPEG2000", no_jp2=True)


@pytest.fixture(scope="module")
def boxed(face, encode) -> bytes:
    return encode(face, "JPEG2000")


def put(data: bytes, place: int, form: str, *values: int) -> bytes:
    part = struct.pack(form, *values)
    return data[:place] + part + data[place + len(part) :]


def find_coding(stream: bytes) -> int:
    """Where the style, progression and layers of the coding begin."""
    return stream.index(b"\xff\x52") + 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_jp2": True},
        {"num_resolutions": 1},
        {"tile_size": (128, 128)},
        {"progression": "RPCL", "precinct_size": (64, 64), "codeblock_size": (16, 16)},
        {"plt": True, "comment": "made for a test"},
    ],
)
def test_boxed_and_bare_streams_are_decoded_exactly(
    face, encode, decode, options: dict[str, Any]
) -> None:
    image = decode(encode(face, "JPEG2000", **options))
    assert image.size_px == (204, 252)
    assert np.array_equal(image.pixels, face)


def test_grey_and_strong_compression_are_decoded(face, encode, decode) -> None:
    grey = PillowImage.fromarray(face).convert("L")
    assert np.array_equal(decode(encode(grey, "JPEG2000")).pixels, np.asarray(grey.convert("RGB")))
    lossy = encode(face, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[20])
    assert len(lossy) < face.size / 19
    assert np.abs(decode(lossy).pixels.astype(int) - face).mean() < 6


def test_a_large_one_is_decoded_at_the_scale_that_was_asked_for(astronaut, encode, decoder) -> None:
    for side in (511, 512):  # of 511, Pillow expects other sizes than OpenJPEG
        data = encode(np.ascontiguousarray(astronaut[:side, :side]), "JPEG2000")
        with decoder.decode(data, 100) as image:
            assert image.size_px == (side, side)
            assert image.reduction * image.pixels.shape[0] == pytest.approx(side, abs=4)
            assert not image.is_finest
        with decoder.decode(data) as image:
            assert image.reduction == 1
            assert image.is_finest


def test_declared_sizes_and_parts_are_refused_before_anything_is_allocated(
    stream, boxed, decode
) -> None:
    coding = find_coding(stream)
    header = boxed.index(b"ihdr") + 4
    small_blocks = put(put(stream, coding + 6, ">BB", 0, 0), SIZE, ">II", 1400, 1400)
    cases = {
        "60000 x 60000 pixels; send at most 2 mega": put(stream, SIZE, ">II", 60000, 60000),
        "1073741824 x 1073741824": put(stream, SIZE, ">II", 2**30, 2**30),
        "3213 tiles": put(stream, SIZE + 16, ">II", 4, 4),
        "33 resolutions|truncated": put(stream, coding + 5, ">B", 33),
        "32 resolutions": put(stream, coding + 5, ">B", 32),
        "too many parts": put(stream, coding + 2, ">H", 65535),
        "too many parts;": small_blocks,
        "says another size": put(boxed, header, ">II", 100, 100),
    }
    for message, data in cases.items():
        with pytest.raises((ImageTooLarge, ImageTooCostly, ImageDamaged), match=message):
            decode(data)


def test_precincts_of_a_pixel_are_too_many_parts(stream, decode) -> None:
    coding = find_coding(stream)
    levels = stream[coding + 5]
    # The style says that sizes of precincts follow, one for each resolution.
    data = put(stream, coding, ">B", 1)
    data = data[: coding + 10] + b"\0" * (levels + 1) + data[coding + 10 :]
    data = put(data, coding - 2, ">H", 12 + levels + 1)
    with pytest.raises(ImageTooCostly, match="too many parts"):
        decode(data)


def test_a_tile_that_says_otherwise_is_counted_too(stream, decode) -> None:
    """A coding style may stand in the header of a tile as well."""
    start = stream.index(b"\xff\x90")
    coding = find_coding(stream)
    style = b"\xff\x52" + put(stream[coding - 2 : coding + 10], 4, ">H", 65535)
    (length,) = struct.unpack_from(">I", stream, start + 6)
    data = put(stream, start + 6, ">I", length + len(style))
    with pytest.raises(ImageTooCostly, match="too many parts"):
        decode(data[: start + 12] + style + data[start + 12 :])


def test_many_bytes_are_refused(encode, decode) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1050, 1050, 3), dtype=np.uint8)
    with pytest.raises(ImageTooLarge, match="compress it more"):
        decode(encode(noise, "JPEG2000", num_resolutions=1))


def test_what_no_portrait_is_made_of_is_refused_by_name(
    face, encode, decode, boxed, stream
) -> None:
    picture = PillowImage.fromarray(face)
    deep = face[:, :, 0].astype(np.uint16) * 256
    colour = boxed.index(b"colr") + 4
    capable = stream[:51] + b"\xff\x50\0\x08\0\x02\0\0\0\0" + stream[51:]
    cases = {
        "CMYK": encode(picture.convert("CMYK"), "JPEG2000"),
        "image is CMYK": put(boxed, colour + 3, ">I", 12),
        "transparent": encode(picture.convert("RGBA"), "JPEG2000"),
        "2 components": encode(picture.convert("LA"), "JPEG2000"),
        "16 bits a component; save it with 8": encode(deep, "JPEG2000"),
        "rare colour space": put(boxed, colour + 3, ">I", 18),
        "palette": boxed.replace(b"colr", b"pclr"),
        "rare kind": capable,
    }
    for message, data in cases.items():
        with pytest.raises(ImageUnsupported, match=message):
            decode(data)


@pytest.mark.parametrize("kind", ["stream", "boxed"])
def test_a_truncated_file_is_damaged(kind: str, decode, request) -> None:
    data = request.getfixturevalue(kind)
    for count in (13, 40, 90, 150, len(data) // 2, len(data) - 200):
        with pytest.raises(ImageDamaged, match="send it again"):
            decode(data[:count])


def test_what_follows_the_end_is_ignored(stream, boxed, decode) -> None:
    for data in (stream, boxed):
        assert np.array_equal(decode(data + b"\0" * 100).pixels, decode(data).pixels)
    assert decode(stream.removesuffix(b"\xff\xd9")).size_px == (204, 252)


@given(noise=st.binary(max_size=200))
def test_a_stream_of_anything_is_refused_or_read(noise: bytes) -> None:
    for start in (jpeg2000.CODESTREAM, jpeg2000.BOXED):
        with pytest.raises((ImageError, struct.error, IndexError, KeyError)):
            jpeg2000.read_codestream(start + noise)
