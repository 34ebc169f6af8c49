"""Pictures made of a photograph: enlarged, taken again, out of focus."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

JPEG_QUALITY = 75
BLUR_EYE_SHARE = 0.12
"""Radius of a blur that quality refuses, in distances of the eyes."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file's bytes and what to call it; `is_made`: of another photograph."""

    label: str
    data: bytes = field(repr=False)
    inter_eye_px: float = 0.0
    is_made: bool = False


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8[h, w] or uint8[h, w, 3] (RGB)."""
    return _encode(Image.fromarray(pixels).convert("RGB"), "PNG")


def enlarge(grey: NDArray[np.uint8], factor: int) -> bytes:
    """A PNG of uint8[h, w], each side `factor` times as long, cubic interpolation."""
    small = Image.fromarray(grey)
    size = (small.width * factor, small.height * factor)
    return _encode(small.resize(size, Image.Resampling.BICUBIC).convert("RGB"), "PNG")


def take_again(picture: Picture, serial: int) -> Picture:
    """What a second photograph might be: tilted, cropped, in other light, compressed again.

    It keeps expression, age and camera, so it scores higher than a true second photograph.
    """
    image = _open(picture)
    is_odd = bool(serial % 2)
    tilt_deg = (-1 if is_odd else 1) * (3 + serial % 5)
    image = image.rotate(tilt_deg, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    left, top = 0.04 * image.width, 0.05 * image.height
    image = image.crop((int(left), int(top), int(image.width - left), int(image.height - top)))
    image = ImageEnhance.Brightness(image).enhance(1.12 if is_odd else 0.88)
    image = ImageEnhance.Contrast(image).enhance(0.9 if is_odd else 1.1)
    return replace(
        picture, label=f"{picture.label}*{serial}", data=_encode(image, "JPEG"), is_made=True
    )


def blur(picture: Picture) -> Picture:
    """The photograph out of focus, in proportion to the size of its face."""
    radius = BLUR_EYE_SHARE * picture.inter_eye_px
    image = _open(picture).filter(ImageFilter.GaussianBlur(radius))
    return replace(
        picture, label=f"{picture.label} blurred", data=_encode(image, "JPEG"), is_made=True
    )


def _open(picture: Picture) -> Image.Image:
    with Image.open(io.BytesIO(picture.data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=JPEG_QUALITY)
    return buffer.getvalue()
