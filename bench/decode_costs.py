"""What decoding costs by format: CPU time and peak memory, of photographs and of the worst files.

`python -m bench.decode_costs [MEGAPIXELS]` prints a table; the bounds of `ImageLimits` and the
rates of `serving.api.request` follow from it.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

from engine.errors import ImageError
from engine.faces.image_files import ImageLimits
from engine.faces.images import Decoder

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


def list_files(megapixels: float) -> Iterator[tuple[str, bytes]]:
    """Files of about so many pixels: a noisy photograph, and one grey, as cheap as can be."""
    side = round((megapixels * 1e6) ** 0.5) // 16 * 16
    portrait = Image.fromarray(skimage.data.astronaut()).resize((side, side))
    noise = np.random.default_rng(0).normal(0, 5, (side, side, 1))
    noisy = (np.asarray(portrait) + noise).clip(0, 255).astype(np.uint8)
    for name, pixels in (("photograph", noisy), ("grey", np.full_like(noisy, 128))):
        picture = Image.fromarray(pixels)
        clear = picture.copy()
        clear.putalpha(Image.linear_gradient("L").resize(clear.size))
        for kind, source, options in (
            ("JPEG", picture, {"quality": 90}),
            ("JPEG", picture, {"quality": 95, "subsampling": 0}),
            ("JPEG", picture, {"quality": 90, "progressive": True}),
            ("JPEG", picture, {"quality": 95, "progressive": True, "subsampling": 0}),
            ("JPEG", picture.convert("CMYK"), {"quality": 95, "progressive": True}),
            ("PNG", picture, {"compress_level": 1}),
            ("PNG", clear, {"compress_level": 1}),
            ("PNG", clear.quantize(200), {"compress_level": 1}),
            ("WEBP", picture, {"quality": 85, "method": 0}),
            ("WEBP", clear, {"quality": 85, "method": 0}),
            ("WEBP", picture, {"lossless": True, "quality": 0, "method": 0}),
            ("WEBP", clear, {"lossless": True, "quality": 0, "method": 0}),
            ("JPEG2000", picture, {"irreversible": True, "quality_layers": [20]}),
            ("JPEG2000", picture, {"irreversible": False}),
            ("JPEG2000", picture, {"irreversible": False, "codeblock_size": (16, 16)}),
            ("JPEG2000", picture.convert("L"), {"irreversible": False}),
        ):
            yield f"{name:10} {kind:8} {describe(source, options):28}", write(source, kind, options)


def describe(picture: Image.Image, options: dict[str, Any]) -> str:
    words = [key for key in ("progressive", "lossless") if options.get(key)]
    words += [f"1:{ratio}" for ratio in options.get("quality_layers", [])]
    words += ["lossless"] if options.get("irreversible") is False else []
    words += ["small blocks"] if "codeblock_size" in options else []
    full = ["4:4:4"] if options.get("subsampling") == 0 else []
    return " ".join([picture.mode, *words, *full])


def write(picture: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def measure(data: bytes, limits: ImageLimits = LIFTED) -> tuple[float, float, int]:
    """CPU seconds of the child and this process, peak memory in bytes over idle, pixels."""
    decoder = Decoder(limits)
    try:
        with decoder.decode(write(Image.new("RGB", (64, 64)), "JPEG", {})):
            pass
        (child,) = decoder.processes
        idle, seconds, pixels = read_peak(child), [], 0
        for _ in range(REPEATS):
            before = read_cpu_s(child)
            with decoder.decode(data) as image:
                seconds.append(read_cpu_s(child) - before)
                pixels = image.size_px[0] * image.size_px[1]
        return min(seconds), read_peak(child) - idle, pixels
    finally:
        decoder.close()


def read_peak(process: int) -> int:
    """Peak resident memory in bytes."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def read_cpu_s(*processes: int) -> float:
    """CPU time of these processes and of this one."""
    texts = [Path(f"/proc/{one}/schedstat").read_text(encoding="ascii") for one in processes]
    return sum(int(text.split()[0]) for text in texts) / 1e9 + time.process_time()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    megapixels = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    say(f"{'file':49} {'MB':>6} {'ms':>7} {'ns/px':>6} {'peak MB':>8} {'B/px':>5}")
    for name, data in list_files(megapixels):
        try:
            seconds, peak, pixels = measure(data)
        except ImageError as error:
            say(f"{name:49} {len(data) / 1e6:6.2f} {error}")
            continue
        say(
            f"{name:49} {len(data) / 1e6:6.2f} {seconds * 1e3:7.0f} {seconds / pixels * 1e9:6.1f}"
            f" {peak / 1e6:8.1f} {peak / pixels:5.1f}"
        )


if __name__ == "__main__":
    main()
