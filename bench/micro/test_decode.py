"""Photographs decoded by the process that the service decodes in, by format and by size; a match
request read and its answer written, in JSON and in MessagePack.

The bounds of `ImageLimits` and the weight of a request follow from processor time and memory."""

import base64
import io
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import skimage.data
from PIL import Image

from bench.conftest import Clock, Note
from bench.core.machine import read_peak_bytes
from bench.core.reports import Figure, Result, Setup
from engine.faces.image_files import ImageLimits
from engine.faces.images import Decoder
from serving.api.body import JSON, MSGPACK, decode, encode
from serving.wire.matching import MatchRequest

REPEATS = 3
LIFTED = replace(
    ImageLimits(),
    max_size_bytes=400 << 20,
    max_jpeg_pixels=100_000_000,
    max_png_pixels=100_000_000,
    max_webp_pixels=100_000_000,
    max_jpeg2000_pixels=100_000_000,
    max_jpeg2000_bytes=400 << 20,
    max_jpeg_coefficients=1 << 30,
    max_jpeg_block_visits=1 << 40,
    max_jpeg_scans=100_000,
    cpu_s=60.0,
    wait_s=120.0,
    memory_mb=4000,
)
KINDS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("JPEG", "JPEG", "RGB", {"quality": 90}),
    ("JPEG, 4:4:4", "JPEG", "RGB", {"quality": 95, "subsampling": 0}),
    ("JPEG, progressive", "JPEG", "RGB", {"quality": 90, "progressive": True}),
    ("JPEG, progressive CMYK", "JPEG", "CMYK", {"quality": 95, "progressive": True}),
    ("PNG", "PNG", "RGB", {"compress_level": 1}),
    ("PNG, alpha", "PNG", "RGBA", {"compress_level": 1}),
    ("WebP", "WEBP", "RGB", {"quality": 85, "method": 0}),
    ("WebP, lossless alpha", "WEBP", "RGBA", {"lossless": True, "quality": 0, "method": 0}),
    ("JPEG 2000, 1:20", "JPEG2000", "RGB", {"irreversible": True, "quality_layers": [20]}),
    ("JPEG 2000, lossless", "JPEG2000", "RGB", {"irreversible": False}),
    ("JPEG 2000, blocks of 16", "JPEG2000", "RGB", {"codeblock_size": (16, 16)}),
)


def draw(side_px: int) -> Image.Image:
    """A noisy photograph of one face."""
    portrait = Image.fromarray(skimage.data.astronaut()).resize((side_px, side_px))
    noise = np.random.default_rng(0).normal(0, 5, (side_px, side_px, 1))
    return Image.fromarray((np.asarray(portrait) + noise).clip(0, 255).astype(np.uint8))


def write(picture: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder(LIFTED)) as one:
        yield one


@pytest.mark.parametrize(("name", "kind", "mode", "options"), KINDS, ids=[x[0] for x in KINDS])
def test_decode(
    name: str, kind: str, mode: str, options: Any, decoder: Decoder, clock: Clock, note: Note,
    pytestconfig: pytest.Config,
) -> None:  # fmt: skip
    is_quick = pytestconfig.getoption("--quick")
    picture = draw(512 if is_quick else 2832)
    data = write(picture.convert(mode), kind, options)

    def decode() -> None:
        with decoder.decode(data):
            pass

    setup: Setup = {"megapixels": round(picture.width * picture.height / 1e6, 2), "threads": 1}
    clock("Decoding", name, decode, setup, rounds=3 if is_quick else 10)
    cpu_s, peak_bytes, pixels = measure(data)
    figures = (
        Figure(f"{name}: processor time", "ns/pixel", cpu_s / pixels * 1e9),
        Figure(f"{name}: memory", "bytes/pixel", peak_bytes / pixels),
    )
    note(Result("Costs of decoding", setup, figures))


def measure(data: bytes, limits: ImageLimits = LIFTED) -> tuple[float, float, int]:
    """CPU seconds of the child and this process, peak memory in bytes over idle, pixels."""
    with closing(Decoder(limits)) as decoder:
        with decoder.decode(write(Image.new("RGB", (64, 64)), "JPEG", {})):
            pass
        (child,) = decoder.processes
        idle, seconds, pixels = read_peak_bytes(child), [], 0
        for _ in range(REPEATS):
            before = read_cpu_s(child)
            with decoder.decode(data) as image:
                seconds.append(read_cpu_s(child) - before)
                pixels = image.size_px[0] * image.size_px[1]
        return min(seconds), read_peak_bytes(child) - idle, pixels


def read_cpu_s(*processes: int) -> float:
    """CPU time of these processes and of this one."""
    texts = [Path(f"/proc/{one}/schedstat").read_text(encoding="ascii") for one in processes]
    return sum(int(text.split()[0]) for text in texts) / 1e9 + time.process_time()


ITEMS = {"one item": 1, "256 items": 256}
TEMPLATE_BYTES = 564
FORMATS = {"JSON": JSON, "MessagePack": MSGPACK}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("called", ITEMS)
def test_request(called: str, form: str, clock: Clock, pytestconfig: pytest.Config) -> None:
    items, seed = ITEMS[called], pytestconfig.getoption("--seed")
    random = np.random.default_rng(seed)

    def draw() -> Any:
        template = random.bytes(TEMPLATE_BYTES)
        if form == "MessagePack":
            return template
        return base64.urlsafe_b64encode(template).decode().rstrip("=")

    asked = [
        {"probe": {"template": draw()}, "reference": {"template": draw()}} for _ in range(items)
    ]
    body = (msgspec.json if form == "JSON" else msgspec.msgpack).encode({"items": asked})

    def read() -> MatchRequest:
        return decode(FORMATS[form], body, MatchRequest)

    assert len(read().items) == items
    setup = {"items": items, "template_bytes": TEMPLATE_BYTES, "seed": seed, "threads": 1}
    clock(
        f"A request of {called}, read", form, read, setup,
        rounds=None, per=items, unit="us",
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("called", ITEMS)
def test_answer(called: str, form: str, clock: Clock) -> None:
    items = ITEMS[called]
    answer = {
        "results": [{"verification": {"is_match": True, "band": "certain"}} for _ in range(items)]
    }
    setup = {"items": items, "threads": 1}
    clock(
        f"An answer of {called}, written", form, lambda: encode(answer, FORMATS[form]), setup,
        rounds=None, per=items, unit="us",
    )  # fmt: skip
