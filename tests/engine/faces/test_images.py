"""Decoding: what is read, what is refused, and that nothing else happens."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from engine.errors import ImageDamaged, ImageError, ImageTooLarge, ImageUnsupported
from engine.faces.embedder import Pixels

# How a camera stores an upright picture under each EXIF orientation.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.fixture(scope="module")
def tall(astronaut) -> Pixels:
    """uint8[200, 120, 3]"""
    return np.ascontiguousarray(astronaut[:200, 150:270])


def orientation_exif(value: int) -> PillowImage.Exif:
    exif = PillowImage.Exif()
    exif[0x0112] = value
    return exif


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, body, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_come_out_upright(
    tall, encode, kind: str, orientation: int, decode
) -> None:
    stored = np.ascontiguousarray(STORED[orientation](tall))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(stored, kind, exif=orientation_exif(orientation), **options)
    image = decode(data)
    assert image.size_px == (120, 200)
    assert image.pixels.shape == tall.shape
    tolerance = 4 if kind == "JPEG" else 0
    assert np.abs(image.pixels.astype(int) - tall).mean() <= tolerance


def test_damaged_exif_does_not_refuse_a_good_photograph(tall, encode, decode) -> None:
    good = encode(tall, exif=orientation_exif(6))
    start = good.index(b"Exif\0\0") + 6
    for broken in (b"\xff" * 8, b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08"):
        data = good[:start] + broken + good[start + 8 :]
        assert decode(data).pixels.size == tall.size


def test_large_jpeg_is_decoded_at_the_scale_that_leaves_enough(astronaut, encode, decode) -> None:
    big = np.kron(astronaut, np.ones((6, 6, 1), dtype=np.uint8))[:3001]
    image = decode(encode(big))
    assert image.size_px == (3072, 3001)
    assert image.reduction == 2
    assert image.pixels.shape == (1501, 1536, 3)
    assert decode(encode(astronaut)).reduction == 1


def test_reduced_and_turned_jpeg_reports_its_upright_full_size(encode, decode) -> None:
    lying = np.zeros((1000, 2600, 3), dtype=np.uint8)
    image = decode(encode(lying, exif=orientation_exif(6)))
    assert image.size_px == (1000, 2600)
    assert image.pixels.shape == (1300, 500, 3)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.9, 0.97])
def test_truncated_file_is_refused_as_damaged(
    tall, encode, kind: str, share: float, decode
) -> None:
    data = encode(tall, progressive=True) if kind == "progressive" else encode(tall, kind)
    with pytest.raises(ImageDamaged, match="truncated or damaged; send it again"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7 and so on",
        b"hello",
        b"\0" * 1000,
        b"GIF89a\x01\x00\x01\x00",
        b"BM\0\0",
        b"II*\0",
        b"RIFF\0\0\0\0WAVE",
    ],
)
def test_what_is_not_an_image_is_refused_as_unsupported(data: bytes, decode) -> None:
    with pytest.raises(ImageUnsupported, match="JPEG, JPEG 2000, PNG or WebP"):
        decode(data)


def test_too_many_bytes_are_refused_before_reading(decode) -> None:
    with pytest.raises(ImageTooLarge, match=r"9 MiB; send at most 8 MiB"):
        decode(b"\xff\xd8\xff" + b"\0" * 9 * 2**20)


def test_a_huge_header_is_refused_before_anything_is_allocated(tall, encode, decode) -> None:
    jpeg = encode(tall)
    start = jpeg.index(b"\xff\xc0") + 5
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xff\x3f\x00" * 2
    files = {
        "60000 x 60000 pixels; send at most 12.2 megapixels in a PNG": png_header(60000, 60000),
        "65000 x 65000": jpeg[:start] + struct.pack(">HH", 65000, 65000) + jpeg[start + 4 :],
        "16384 x 16384": b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk,
    }
    for message, data in files.items():
        with pytest.raises(ImageTooLarge, match=message):
            decode(data)


def test_zero_size_is_refused_as_damaged(decode) -> None:
    with pytest.raises(ImageDamaged):
        decode(png_header(0, 10))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("WEBP", "animated WebP"), ("PNG", "animated PNG"), ("MPO", "several pictures")],
)
def test_several_frames_are_refused_by_name(tall, encode, kind: str, name: str, decode) -> None:
    second = PillowImage.fromarray(255 - tall)
    data = encode(tall, kind, save_all=True, append_images=[second])
    with pytest.raises(ImageUnsupported, match=name):
        decode(data)


def test_hdr_gain_map_behind_a_photograph_is_ignored(tall, encode, decode) -> None:
    second = PillowImage.fromarray(255 - tall)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf hdrgm:Version="1.0"/></x:xmpmeta>'
    data = encode(tall, "MPO", save_all=True, append_images=[second], xmp=xmp, quality=95)
    assert np.abs(decode(data).pixels.astype(int) - tall).mean() < 4


def test_data_after_the_end_of_a_jpeg_is_ignored(tall, encode, decode) -> None:
    data = encode(tall)
    expected = decode(data).pixels
    for tail in (b"\0" * 100, b"ftypmp42" * 500, data):
        assert np.array_equal(decode(data + tail).pixels, expected)


def test_cmyk_jpeg_becomes_the_same_colours(tall, encode, decode) -> None:
    cmyk = PillowImage.fromarray(tall).convert("CMYK")
    image = decode(encode(cmyk))
    assert np.abs(image.pixels.astype(int) - tall).mean() < 4


@pytest.mark.parametrize("mode", ["L", "1", "P"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_grey_bilevel_and_palette_become_rgb(tall, encode, mode: str, kind: str, decode) -> None:
    picture = PillowImage.fromarray(tall).convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encode(picture, kind, **options))
    assert np.array_equal(image.pixels, np.asarray(picture.convert("RGB")))


def test_16_bit_grey_png_keeps_its_upper_eight_bits(encode, tall, decode) -> None:
    grey = tall[:, :, 0].astype(np.uint16)
    data = encode(grey * 256 + 77, "PNG")
    assert struct.unpack(">B", data[24:25]) == (16,)
    assert np.array_equal(decode(data).pixels, np.repeat(grey[:, :, None], 3, axis=2))


def test_16_bit_rgb_png_keeps_its_upper_eight_bits(tall, decode) -> None:
    import cv2

    deep = tall.astype(np.uint16)[:, :, ::-1] * 256 + 77
    written, data = cv2.imencode(".png", deep)
    assert written
    assert np.array_equal(decode(data.tobytes()).pixels, tall)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_background_becomes_white(tall, encode, kind: str, decode) -> None:
    layers = np.dstack([tall, np.full(tall.shape[:2], 255, dtype=np.uint8)])
    layers[:50, :, 3] = 0
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = decode(encode(layers, kind, **options)).pixels
    assert (pixels[:50] == 255).all()
    assert np.array_equal(pixels[50:], tall[50:])


def test_transparent_palette_entry_becomes_white(tall, encode, decode) -> None:
    picture = PillowImage.fromarray(tall).quantize(16)
    clear = np.asarray(picture) == 3
    pixels = decode(encode(picture, "PNG", transparency=3)).pixels
    assert clear.any()
    assert (pixels[clear] == 255).all()
    assert np.array_equal(pixels[~clear], np.asarray(picture.convert("RGB"))[~clear])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_an_image_error_never_anything_else(
    mutable, encode, data: st.DataObject, decode
) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "JPEG2000", "JPEG2000"]))
    options = {"no_jp2": data.draw(st.booleans())} if kind == "JPEG2000" else {}
    content = bytearray(encode(mutable, kind, exif=orientation_exif(6), **options))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(content)))
    try:
        image = decode(bytes(content[:cut]))
    except ImageError:
        return
    # A header that was hit may tell of another size.
    assert image.pixels.dtype == np.uint8
    assert image.pixels.shape[2:] == (3,)


@pytest.fixture(scope="module")
def mutable(astronaut) -> Pixels:
    return np.ascontiguousarray(astronaut[100:132, 200:224])


def test_refusing_and_reading_leave_nothing_on_standard_error(tall, encode) -> None:
    """A process of its own, since pytest turns warnings into errors."""
    exif = encode(tall, exif=orientation_exif(6))
    start = exif.index(b"Exif\0\0") + 6
    cases = [
        png_header(13000, 13000),
        exif[: start + 9] + b"\xff" + exif[start + 10 :],
        encode(tall, "MPO", save_all=True, append_images=[PillowImage.fromarray(tall)]),
    ]
    code = (
        "from engine.errors import ImageError\n"
        "from engine.faces.images import Decoder\n"
        "decoder = Decoder()\n"
        f"for data in {cases!r}:\n"
        "    try:\n        with decoder.decode(data):\n            pass\n"
        "    except ImageError:\n        pass\n"
        "decoder.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always"], input=code.encode(), capture_output=True, check=True
    )
    assert done.stderr == b""


def test_a_progressive_jpeg_is_read_once_at_its_final_scale(astronaut, encode, decoder) -> None:
    big = np.kron(astronaut, np.ones((4, 4, 1), dtype=np.uint8))
    for is_progressive, reduction in ((False, 4), (True, 1)):
        with decoder.decode(encode(big, progressive=is_progressive), 320) as image:
            assert (image.reduction, image.is_finest) == (reduction, is_progressive)
