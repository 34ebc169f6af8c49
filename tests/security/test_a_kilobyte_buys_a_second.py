"""Attack: a WebP or PNG of 1 kB and 25 megapixels takes a CPU second and 0.7 GB."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from bench.micro.test_decode import measure
from engine.faces.image_files import ImageLimits
from serving.ingress.extraction_queue import LARGE, decode_work
from tests.keys import add_key
from tests.security.costly_files import grey, noise, write

LIMITS = ImageLimits()
PEAK_BYTES = 150_000_000
BURST_CALLS = 30
SAMPLE_ROWS = 64


def fill(kind: str, mode: str, **options: Any) -> bytes:
    """A file with as many pixels as its format may have, and as many bytes, of noise on grey."""
    most = LIMITS.max_pixels(kind)  # type: ignore[arg-type]
    width = 4096 if most > 4096 * 2048 else 2900
    height = most // width
    picture = grey(width, height, mode if mode != "CMYK" else "RGB").convert(mode)
    sample = write(noise(width, SAMPLE_ROWS, len(mode)).convert(mode), kind, **options)
    rows = min(height, SAMPLE_ROWS * LIMITS.max_size_bytes // len(sample))
    while rows > 8:
        filled = picture.copy()
        filled.paste(noise(width, rows, len(mode)).convert(mode), (0, 0))
        data = write(filled, kind, **options)
        if len(data) <= LIMITS.max_size_bytes:
            return data
        rows = int(rows * min(0.98, 0.99 * LIMITS.max_size_bytes / len(data)))
    return write(picture, kind, **options)


LARGEST: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: fill("JPEG", "RGB", quality=60),
    "progressive JPEG": lambda: write(grey(5000, 5000), "JPEG", progressive=True),
    "progressive JPEG in full colour": lambda: write(
        grey(3552, 3552), "JPEG", progressive=True, subsampling=0
    ),
    "progressive JPEG in four colours": lambda: write(
        grey(3072, 3072).convert("CMYK"), "JPEG", progressive=True
    ),
    "PNG with transparency": lambda: fill("PNG", "RGBA", compress_level=1),
    "turned PNG": lambda: fill("PNG", "RGBA", compress_level=1, exif=turned()),
    "WebP": lambda: fill("WEBP", "RGB", quality=60, method=0),
    "WebP with transparency": lambda: fill("WEBP", "RGBA", quality=60, method=0),
    "JPEG 2000 in small blocks": lambda: write(
        noise(1408, 1408, 3).convert("RGB"),
        "JPEG2000",
        irreversible=True,
        quality_mode="rates",
        quality_layers=[2.5],
        codeblock_size=(16, 16),
    ),
    "lossless WebP with transparency": lambda: fill(
        "WEBP", "RGBA", lossless=True, quality=0, method=0
    ),
}


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_photograph_of_each_kind_takes_at_most_150_mb(name: str, monkeypatch) -> None:
    monkeypatch.setattr("bench.micro.test_decode.REPEATS", 2)
    data = LARGEST[name]()
    _, peak, pixels = measure(data, LIMITS)
    assert pixels > (1_900_000 if "2000" in name else 6_900_000)
    assert peak <= PEAK_BYTES


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_kilobyte_of_25_megapixels_is_refused(own_service, activation, kind: str) -> None:
    bomb = write(grey(5000, 5000), kind, **({"lossless": True} if kind == "WEBP" else {}))
    body = activation(outlet="r1", live=bomb, portrait=bomb)
    answer = own_service.enroll(body, kind, key="r1")
    own_service.assert_refused(answer, 413, "IMAGE.TOO_LARGE")


def cut_png(width: int, height: int) -> bytes:
    """The beginning of a PNG: its pixels are known, and they never come."""
    return write(Image.new("L", (8, 8)), "PNG")[:16] + struct.pack(">II", width, height) + bytes(9)


def test_pixels_count_against_the_rate_of_the_key(own_service, activation) -> None:
    store, vault = own_service.parts.store, own_service.parts.vault
    refused = {}
    for name, size in (("large", (4000, 3000)), ("small", (400, 300))):
        key = add_key(store, vault, "outlet", "red", "r1", rate_limit=1.0)
        picture = cut_png(*size)
        body = activation(outlet="r1", live=picture, portrait=picture)
        answers = [own_service.enroll(body, f"{name} {at}", key=key) for at in range(BURST_CALLS)]
        assert {answer.status_code for answer in answers} <= {400, 429}
        refused[name] = sum(answer.status_code == 429 for answer in answers)
    # Of the 256 items that a key may spend at once, each call with large ones takes 13.
    assert refused["large"] >= 8
    assert refused["small"] == 0


def test_large_photographs_are_known_by_their_headers() -> None:
    honest = [
        write(Image.new("RGB", (250, 250)), "JPEG"),
        write(Image.new("RGB", (4032, 3024)), "JPEG"),
        write(Image.new("RGB", (1920, 1080)), "PNG"),
        write(noise(480, 640, 3), "JPEG2000", irreversible=True, quality_layers=[10]),
    ]
    assert all(decode_work(data) < LARGE for data in honest)
    assert all(
        decode_work(data) > LARGE
        for data in (cut_png(4000, 3000), LARGEST["WebP"](), write(grey(1400, 1400), "JPEG2000"))
    )
    unreadable = (
        b"",
        b"no image",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        cut_png(9, 9)[:20],
        b"RIFF....WEBP",
    )
    assert not any(decode_work(data) for data in unreadable)
